"""What a secondary knows of the guest's clocks: how far behind a guest will be that goes on from the replica now.

The primary's heartbeats say how late its guest is; what has passed since the checkpoint of the replica comes on top. That
instant is taken as the one at which the end of the epoch had arrived here, some milliseconds late, for the clocks of two
hosts are not compared.
"""

from __future__ import annotations

from replicator.clock import Clock
from replicator.engine import effects as fx
from replicator.engine import events as ev


class InheritedClock:
    """`watch` sees what is committed at the secondary, and when that begins; `note_beat` may be called from another thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._beat_ns = 0
        self._arrived_ns = 0
        #: CLOCK_MONOTONIC when the committed epoch had arrived; 0: none has in this life.
        self._checkpoint_ns = 0

    def note_beat(self, behind_ns: int) -> None:
        """The primary's guest is so late."""
        self._beat_ns = behind_ns

    def watch(self, happened: object) -> None:
        if isinstance(happened, fx.CommitEpoch):
            self._arrived_ns = self._clock.monotonic_ns()
        elif isinstance(happened, ev.EpochCommitted):
            self._checkpoint_ns = self._arrived_ns

    def behind_ns(self) -> int:
        """How late the guest is when it goes on from the replica at this moment; 0 when nothing is known."""
        since_ns = self._clock.monotonic_ns() - self._checkpoint_ns if self._checkpoint_ns else 0
        return self._beat_ns + since_ns
