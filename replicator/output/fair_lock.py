"""A lock that two threads use in turn: whoever just had it does not get it again before one that waits.

A plain lock goes to who asks first, and a relay's thread that serves a loaded guest asks again at once: others would
wait for hundreds of milliseconds, with the guest standing still.
"""

from __future__ import annotations

import threading
from types import TracebackType


class FairLock:
    """Used as a context manager."""

    def __init__(self) -> None:
        #: Held by the one who is next; for a moment only, unless the lock is held.
        self._next = threading.Lock()
        self._lock = threading.Lock()

    @property
    def has_waiter(self) -> bool:
        """Somebody is next."""
        return self._next.locked()

    def __enter__(self) -> None:
        with self._next:
            self._lock.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock.release()
