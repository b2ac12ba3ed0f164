"""Tells when a guest has nothing to do, by looking at it again and again while somebody wants to know.

Each look takes some microseconds of the event loop. The longer the guest has been busy, the rarer they are: what is
known late is known late by an eighth.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from replicator.clock import Clock
from replicator.engine.pacing import SETTLE_NS
from replicator.units import NS_PER_S

_LATE_SHARE: Final = 8


class IdleWatch:
    """`look` is guests.base.Guest.activity. Belongs to the event loop in which it was made."""

    def __init__(self, look: Callable[[], int | None], clock: Clock, on_idle: Callable[[], None]) -> None:
        self._look = look
        self._clock = clock
        self._on_idle = on_idle
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.TimerHandle | None = None
        self._quiet_ns = self._began_ns = self._since_ns = 0
        #: At the newest look; None: it had something to do.
        self._seen: int | None = None

    def begin(self, quiet_ns: int) -> None:
        """Call `on_idle` once when the guest has done nothing for so long from now on; 0: when it sleeps at a look. Ends
        an older watch."""
        self.end()
        self._quiet_ns = quiet_ns
        self._began_ns = self._since_ns = self._clock.monotonic_ns()
        self._seen = self._look()
        self._plan()

    def end(self) -> None:
        """May be repeated."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _plan(self) -> None:
        late_ns = (self._since_ns - self._began_ns) // _LATE_SHARE
        self._handle = self._loop.call_later(
            max(SETTLE_NS, self._quiet_ns, late_ns) / NS_PER_S, self._look_again
        )

    def _look_again(self) -> None:
        self._handle = None
        seen, now_ns = self._look(), self._clock.monotonic_ns()
        if seen is None or seen != self._seen:
            self._seen, self._since_ns = seen, now_ns
        if seen is not None and now_ns - self._since_ns >= self._quiet_ns:
            self._on_idle()
        else:
            self._plan()
