"""Orders to a guest over datagrams that come late or not at all. The guest is a socket on loopback."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from replicator.bench.rig.orders import GuestOrders
from replicator.errors import GuestError


@contextmanager
def guest(answer: Callable[[str], list[str]]) -> Iterator[GuestOrders]:
    """`answer`: the datagrams that an order leads to."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as theirs,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours,
    ):
        theirs.bind(("127.0.0.1", 0))
        ours.bind(("127.0.0.1", 0))
        ours.connect(theirs.getsockname())
        peer = ours.getsockname()

        def serve() -> None:
            while order := theirs.recv(2048).decode():
                for word in answer(order):
                    theirs.sendto(f"{word} {order}\n".encode(), peer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with GuestOrders(ours) as orders:
                yield orders
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
                last.sendto(b"", theirs.getsockname())
            thread.join()


def test_an_answer_to_an_earlier_order_is_none_to_this_one() -> None:
    words = iter((["17", "17"], ["42"]))
    with guest(lambda _: next(words)) as orders:
        assert orders.count_work() == 17
        assert orders.count_work() == 42, "the second answer to the first order came before this one's"


def test_an_order_is_repeated_until_it_is_answered() -> None:
    heard: list[str] = []

    def answer(order: str) -> list[str]:
        heard.append(order)
        return ["ok"] if len(heard) == 2 else []

    with guest(answer) as orders:
        orders.start_work("compute")
    assert heard == [heard[0]] * 2
    assert heard[0].startswith("work compute")


def test_a_guest_that_does_not_know_an_order_is_named() -> None:
    with guest(lambda _: ["unknown"]) as orders, pytest.raises(GuestError, match="does not know"):
        orders.end_work()
