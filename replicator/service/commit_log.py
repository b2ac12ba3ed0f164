"""What a secondary sees of the pair's pace: when epochs were committed, how long that took, how old held output was and
how long the guest stood still.

Kept for drills, which show that the pair went on as before. The newest few minutes, in memory.
"""

from __future__ import annotations

import asyncio
from collections import deque

from replicator.clock import Clock
from replicator.engine import effects as fx
from replicator.engine import events as ev

#: At 20 epochs, or beats, a second: some three minutes.
WINDOW = 4096
#: After these the replica is worth more, or less.
_CHANGES = frozenset({ev.EpochCommitted, fx.AbortStore, fx.DiscardReplica, fx.ActivateGuest})
#: All that `watch` is to see.
WATCHED = {fx.CommitEpoch} | _CHANGES


class CommitLog:
    """`watch` sees those of the secondary's events and effects that are WATCHED; `note_beat` may be called from another
    thread. Times are CLOCK_MONOTONIC."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        #: (moment, epoch, nanoseconds that the commit took)
        self._commits: deque[tuple[int, int, int]] = deque(maxlen=WINDOW)
        #: (moment, age of the primary's oldest held frame, length of its newest pause, both in nanoseconds)
        self._beats: deque[tuple[int, int, int]] = deque(maxlen=WINDOW)
        self._began_ns = 0
        self._changed = asyncio.Event()

    def watch(self, happened: object) -> None:
        if isinstance(happened, fx.CommitEpoch):
            self._began_ns = self._clock.monotonic_ns()
        elif isinstance(happened, ev.EpochCommitted):
            now_ns = self._clock.monotonic_ns()
            self._commits.append((now_ns, happened.epoch, now_ns - self._began_ns))
        if type(happened) in _CHANGES:
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()

    def note_beat(self, held_ns: int, pause_ns: int) -> None:
        """A heartbeat of the primary came."""
        self._beats.append((self._clock.monotonic_ns(), held_ns, pause_ns))

    async def next_change(self) -> None:
        """Wait until an epoch is committed or given up, or until there is no replica any more."""
        await self._changed.wait()

    def commits_since(self, from_ns: int) -> list[tuple[int, int, int]]:
        return [commit for commit in self._commits if commit[0] >= from_ns]

    def beats_since(self, from_ns: int) -> list[tuple[int, int, int]]:
        return [beat for beat in list(self._beats) if beat[0] >= from_ns]
