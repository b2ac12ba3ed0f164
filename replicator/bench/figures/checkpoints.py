"""How long COLO's checkpoints took, from the journals of both sides on one machine. Pure.

A checkpoint counts from the moment at which it was asked for, or at which the first guest was told to stand still when
its time was over, until both guests run again. It belongs to the window in which it began.
"""

from __future__ import annotations

from collections.abc import Iterable

from replicator.bench.figures.stats import percentile
from replicator.demo.timeline import Event
from replicator.units import NS_PER_MS

_BEGINS = ("checkpoint-asked", "suspending-vm", "pausing")


def read_checkpoints(
    primary: Iterable[Event], secondary: Iterable[Event], from_ns: int, to_ns: int
) -> list[float]:
    """Milliseconds of each checkpoint after which both guests ran, begun in from_ns..to_ns (CLOCK_MONOTONIC)."""
    began: dict[int, int] = {}
    ours: dict[int, int] = {}
    for event in primary:
        epoch = event.fields.get("epoch")
        if not isinstance(epoch, int):
            continue
        if event.name in _BEGINS:
            began.setdefault(epoch, event.at_ns)
        elif event.name == "resumed":
            ours[epoch] = event.at_ns
    theirs = {int(event.fields["epoch"]): event.at_ns for event in secondary if event.name == "vm-running"}
    return [
        (max(ours[epoch], theirs[epoch]) - at_ns) / NS_PER_MS
        for epoch, at_ns in began.items()
        if from_ns <= at_ns < to_ns and epoch in ours and epoch in theirs
    ]


def checkpoint_metrics(checkpoints_ms: list[float]) -> dict[str, float]:
    """Metric -> value; nothing when there was no checkpoint."""
    if not checkpoints_ms:
        return {}
    return {
        "checkpoint p50": percentile(checkpoints_ms, 0.5),
        "checkpoint p99": percentile(checkpoints_ms, 0.99),
        "checkpoint max": max(checkpoints_ms),
    }
