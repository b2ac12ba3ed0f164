"""A lock that two threads use in turn: whoever just had it does not get it again before one that waits.

A plain lock goes to who asks first, and a relay's thread that serves a loaded guest asks again at once: others would
wait for hundreds of milliseconds, with the guest standing still.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType


def _ignore() -> None:
    """For those whose turns are short."""


class FairLock:
    """Used as a context manager. `on_wait` is called by a thread that must wait for another."""

    def __init__(self, on_wait: Callable[[], None] = _ignore) -> None:
        self._on_wait = on_wait
        #: Held by the one who is next; for a moment only, unless the lock is held.
        self._next = threading.Lock()
        self._lock = threading.Lock()

    @property
    def has_waiter(self) -> bool:
        """Somebody is next."""
        return self._next.locked()

    def __enter__(self) -> None:
        with self._next:
            if not self._lock.acquire(blocking=False):
                self._on_wait()
                self._lock.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock.release()
