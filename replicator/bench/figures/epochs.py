"""What a primary's journal says of the epochs within a window of time. Pure.

A pause counts from the order to pause (`pausing`: inputs are held next, then QEMU stops) to the answer that the guest
runs again (`resumed`); a commit from the moment at which the last part is with the link (`sealed`) to the ack. An epoch
belongs to the window in which its pause began.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from replicator.bench.figures.stats import percentile
from replicator.demo.timeline import Event
from replicator.units import NS_PER_MS, NS_PER_S, PAGE_SIZE


@dataclass(slots=True)
class EpochFigures:
    """Of the epochs in one window."""

    seconds: float
    pauses_ms: list[float] = field(default_factory=list)
    commits_ms: list[float] = field(default_factory=list)
    dirty_pages: list[int] = field(default_factory=list)
    stream_bytes: int = 0

    def to_metrics(self) -> dict[str, float]:
        """Metric -> value; nothing when there was no epoch."""
        if not self.pauses_ms or self.seconds <= 0:
            return {}
        return {
            "epochs": len(self.pauses_ms) / self.seconds,
            "pause p50": percentile(self.pauses_ms, 0.5),
            "pause p99": percentile(self.pauses_ms, 0.99),
            "pause max": max(self.pauses_ms),
            "guest paused": sum(self.pauses_ms) / self.seconds / 10,
            "commit p50": percentile(self.commits_ms, 0.5),
            "commit p99": percentile(self.commits_ms, 0.99),
            "dirty pages p50": percentile([float(pages) for pages in self.dirty_pages], 0.5),
            "dirty bytes": self.dirty_bytes / self.seconds / 1e6,
            "stream bytes": self.stream_bytes / self.seconds / 1e6,
        }

    @property
    def dirty_bytes(self) -> int:
        return sum(self.dirty_pages) * PAGE_SIZE


def read_epochs(events: Iterable[Event], from_ns: int, to_ns: int) -> EpochFigures:
    """Figures of the epochs whose pause began in from_ns..to_ns (CLOCK_MONOTONIC)."""
    figures = EpochFigures((to_ns - from_ns) / NS_PER_S)
    pausing: dict[int, int] = {}
    sealed: dict[int, int] = {}
    for event in events:
        epoch = event.fields.get("epoch")
        if not isinstance(epoch, int):
            continue
        if event.name == "pausing" and from_ns <= event.at_ns < to_ns:
            pausing[epoch] = event.at_ns
        elif epoch in pausing:
            _take(figures, event, epoch, pausing, sealed)
    return figures


def _take(
    figures: EpochFigures, event: Event, epoch: int, pausing: Mapping[int, int], sealed: dict[int, int]
) -> None:
    if event.name == "paused":
        figures.dirty_pages.append(int(event.fields["dirty_pages"]))
    elif event.name == "resumed":
        figures.pauses_ms.append((event.at_ns - pausing[epoch]) / NS_PER_MS)
    elif event.name == "sealed":
        sealed[epoch] = event.at_ns
        figures.stream_bytes += int(event.fields["bytes"])
    elif event.name == "acked" and epoch in sealed:
        # An ack says that the epochs before are committed as well; each has one of its own.
        figures.commits_ms.append((event.at_ns - sealed.pop(epoch)) / NS_PER_MS)
