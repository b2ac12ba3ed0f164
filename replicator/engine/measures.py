"""What the steps of the newest epochs took, as the machine saw it: by the time of the events it was given.

Windows are short, so that a change of the guest's load shows within a second. This file draws no conclusions.
"""

from __future__ import annotations

from collections import deque

from replicator.engine.precopy import Rates
from replicator.units import NS_PER_MS, NS_PER_S, PAGE_SIZE

WINDOW = 31
#: Assumed of a pause without pages until one was measured: stop, save, run.
FIXED_NS_DEFAULT = 5 * NS_PER_MS
#: Assumed of copying within the host's memory until it was measured.
COPY_BYTES_PER_S_DEFAULT = 1e9
#: Copies of fewer pages say nothing of a rate.
RATE_PAGES_MIN = 64
#: Passes of which the link's rate is made.
RATE_PASSES = 4


class Window:
    """The newest values of one kind."""

    def __init__(self, size: int = WINDOW) -> None:
        self._values: deque[float] = deque(maxlen=size)

    def add(self, value: float) -> None:
        self._values.append(value)

    def median(self, default: float = 0.0) -> float:
        """The upper one of two; `default` for none."""
        return sorted(self._values)[len(self._values) // 2] if self._values else default

    def total(self) -> float:
        return sum(self._values)

    def __len__(self) -> int:
        return len(self._values)


class Measures:
    """`now_ns` of all calls are of one clock. Pauses that led to no epoch count as pauses, not as copies."""

    def __init__(self) -> None:
        self.pauses_ns = Window()
        #: From one resume to the next.
        self.cycles_ns = Window()
        #: From the resume to the ack: sealing, sending, applying.
        self.commits_ns = Window()
        self.dirty_pages = Window()
        self.held_frames = Window(7)
        #: How long epochs that were due had to wait for others in flight.
        self.waits_ns = Window()
        self._fixed_ns = Window()
        self._copy_rates = Window()
        self._passes: deque[tuple[int, int]] = deque(maxlen=RATE_PASSES)
        self._sent_ns: dict[int, int] = {}
        self._pausing_ns = self._paused_ns = self._resumed_ns = 0
        self._copying_ns = 0
        self._pages = 0

    def pausing(self, now_ns: int, waited_ns: int) -> None:
        self._pausing_ns, self._copying_ns = now_ns, 0
        self.waits_ns.add(waited_ns)

    def paused(self, now_ns: int, pages: int, frames: int) -> None:
        self._paused_ns, self._pages = now_ns, pages
        self.dirty_pages.add(pages)
        self.held_frames.add(frames)

    def copied(self, now_ns: int) -> None:
        self._copying_ns = now_ns - self._paused_ns
        if self._pages >= RATE_PAGES_MIN and self._copying_ns > 0:
            self._copy_rates.add(self._pages * PAGE_SIZE / self._copying_ns * NS_PER_S)

    def resumed(self, now_ns: int) -> None:
        pause_ns = now_ns - self._pausing_ns
        self.pauses_ns.add(pause_ns)
        self._fixed_ns.add(pause_ns - self._copying_ns)
        if self._resumed_ns:
            self.cycles_ns.add(now_ns - self._resumed_ns)
        self._resumed_ns = now_ns

    def sent(self, epoch: int, now_ns: int) -> None:
        self._sent_ns[epoch] = now_ns

    def acked(self, epoch: int, now_ns: int) -> None:
        """All epochs up to this one were committed."""
        for number in [number for number in self._sent_ns if number <= epoch]:
            self.commits_ns.add(now_ns - self._sent_ns.pop(number))

    def passed(self, pages: int, elapsed_ns: int) -> None:
        """A live round has sent so many pages in so much time."""
        self._passes.append((pages, elapsed_ns))

    def restart(self) -> None:
        """The guest ran on without epochs, or will be copied over another link."""
        self._passes.clear()
        self._sent_ns.clear()
        self._resumed_ns = 0

    @property
    def paused_share(self) -> float:
        """Part of the time in which the guest stood still, 0 to 1."""
        cycles_ns = self.cycles_ns.total()
        return min(1.0, self.pauses_ns.total() / cycles_ns) if cycles_ns else 0.0

    @property
    def waiting_share(self) -> float:
        """Part of the time in which an epoch was due and too many were in flight, 0 to 1."""
        cycles_ns = self.cycles_ns.total()
        return min(1.0, self.waits_ns.total() / cycles_ns) if cycles_ns else 0.0

    @property
    def fixed_ns(self) -> int:
        """Median of what a pause takes beside its copying."""
        return round(self._fixed_ns.median(FIXED_NS_DEFAULT))

    @property
    def has_paused(self) -> bool:
        return len(self._fixed_ns) > 0

    def rates(self, pages: int, staging_pages: int) -> Rates:
        """Of a pause for so many pages: beyond staging they travel while the guest stands still."""
        if pages <= staging_pages:
            return Rates(self._copy_rates.median(COPY_BYTES_PER_S_DEFAULT), self.fixed_ns)
        sent, elapsed_ns = (
            (sum(column) for column in zip(*self._passes, strict=True)) if self._passes else (0, 0)
        )
        return Rates(sent * PAGE_SIZE / elapsed_ns * NS_PER_S if elapsed_ns else 0.0, self.fixed_ns)
