"""What the newest epochs cost: kept by the runner, shown by the status. Knows nothing of why an epoch took long."""

from __future__ import annotations

from collections import deque

from replicator.clock import SYSTEM_CLOCK, Clock
from replicator.observe.status import EpochStats, Progress, percentiles
from replicator.units import NS_PER_MS, NS_PER_S

WINDOW = 1024


class EpochSamples:
    """Times are CLOCK_MONOTONIC nanoseconds."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._pauses_ms: deque[float] = deque(maxlen=WINDOW)
        self._commits_ms: deque[float] = deque(maxlen=WINDOW)
        self._pages: deque[float] = deque(maxlen=WINDOW)
        self._bytes: deque[float] = deque(maxlen=WINDOW)
        self._open_pages: dict[int, int] = {}
        self._sealed_ns: dict[int, int] = {}
        self._epochs = 0
        self._bytes_total = 0
        self._pages_synced = 0
        self._pages_to_sync = 0
        self._sync_began_ns = 0
        self.last_ack_ns = 0
        self.last_pause_ns = 0

    def restart_sync(self) -> None:
        """A new session with the secondary: what counts as the first copy begins."""
        self._pages_synced = self._pages_to_sync = 0
        self._sync_began_ns = self._clock.monotonic_ns()

    def note_owed(self, pages: int) -> None:
        """So many are to be copied next, beside those that were."""
        self._pages_to_sync = self._pages_synced + pages

    def note_copied(self, epoch: int, pages: int) -> None:
        self._open_pages[epoch] = self._open_pages.get(epoch, 0) + pages
        self._pages_synced += pages

    def note_paused(self, epoch: int, from_ns: int, to_ns: int) -> None:
        self.last_pause_ns = to_ns - from_ns
        self._pauses_ms.append(self.last_pause_ns / NS_PER_MS)
        if (pages := self._open_pages.pop(epoch, None)) is not None:
            self._pages.append(pages)

    def note_sealed(self, epoch: int, size: int, now_ns: int) -> None:
        self._sealed_ns[epoch] = now_ns
        self._bytes.append(size)
        self._bytes_total += size

    def note_acked(self, epoch: int, now_ns: int) -> None:
        self.last_ack_ns = now_ns
        for number in [number for number in self._sealed_ns if number <= epoch]:
            self._commits_ms.append((now_ns - self._sealed_ns.pop(number)) / NS_PER_MS)
            self._epochs += 1

    def progress(self) -> Progress:
        done = min(self._pages_synced, self._pages_to_sync)
        elapsed_s = (self._clock.monotonic_ns() - self._sync_began_ns) / NS_PER_S
        return Progress(done, self._pages_to_sync, elapsed_s)

    def stats(self) -> EpochStats:
        return EpochStats(
            percentiles(list(self._pauses_ms)),
            percentiles(list(self._commits_ms)),
            percentiles(list(self._pages)),
            percentiles(list(self._bytes)),
            self._epochs,
            self._bytes_total,
        )
