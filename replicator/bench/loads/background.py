"""A workload that runs while something else is measured."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from replicator.errors import ReplicatorError


@contextlib.contextmanager
def under_load(work: Callable[[], object]) -> Iterator[None]:
    """`work` is done on another thread meanwhile; the context ends when it does, and raises its error if it has one."""
    errors: list[ReplicatorError] = []

    def carry_out() -> None:
        try:
            work()
        except ReplicatorError as error:
            errors.append(error)

    thread = threading.Thread(target=carry_out, name="load", daemon=True)
    thread.start()
    yield
    thread.join()
    if errors:
        raise errors[0]
