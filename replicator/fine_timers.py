"""An event loop whose timers are late by a tenth of a millisecond, not by up to a whole one.

asyncio waits with epoll, whose timeouts are whole milliseconds, and rounds them up. Adaptive pacing waits a quarter of
one to see whether the guest sleeps: of each answer that a client waits for, the rounding would be most of that wait.
"""

from __future__ import annotations

import asyncio
import select
import selectors
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

#: select() takes no descriptor from this number on (FD_SETSIZE).
_SELECT_FDS: Final = 1024

T = TypeVar("T")


class FineSelector(selectors.EpollSelector):
    """Waits for the epoll's own descriptor with select(), whose timeouts are microseconds."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout > 0 and self.fileno() < _SELECT_FDS:
            select.select((self.fileno(),), (), (), timeout)
            timeout = 0
        return super().select(timeout)


def run(main: Coroutine[Any, Any, T]) -> T:
    """As asyncio.run."""
    with asyncio.Runner(loop_factory=_make_loop) as runner:
        return runner.run(main)


def _make_loop() -> asyncio.AbstractEventLoop:
    return asyncio.SelectorEventLoop(FineSelector())
