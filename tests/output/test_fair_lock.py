"""Who waits for the lock comes before who has just had it."""

from __future__ import annotations

import threading

import pytest

from replicator.output.fair_lock import FairLock


def test_who_waits_comes_before_who_had_it() -> None:
    lock, order = FairLock(), []

    def take() -> None:
        with lock:
            order.append("waited")

    for _ in range(100):
        with lock:
            thread = threading.Thread(target=take)
            thread.start()
            while not lock.has_waiter:
                pass
        with lock:
            order.append("had it")
        thread.join()
    assert order == ["waited", "had it"] * 100


def test_an_error_inside_gives_it_back() -> None:
    lock = FairLock()
    with pytest.raises(ValueError), lock:
        raise ValueError
    with lock:
        pass
