"""How long COLO's checkpoints took, from the journals of both sides on one machine. Pure.

A checkpoint counts from the moment at which it was asked for, or at which the first guest was told to stand still when
its time was over, until both guests run again. It belongs to the window in which it began. Its stages are moments on
the way, counted from its beginning as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from replicator.bench.figures.stats import percentile
from replicator.demo.timeline import Event
from replicator.units import NS_PER_MS

_BEGINS = ("checkpoint-asked", "suspending-vm", "pausing")
#: Lines of the primary's journal and of the secondary's -> what has happened by then, in this order.
_PRIMARY_STAGES: Final = {
    "paused": "primary stands",
    "vm-suspended": "secondary stands",
    "resumed": "primary runs",
}
_SECONDARY_STAGES: Final = {
    "committed": "committed",
    "vm-starting": "loaded",
    "vm-running": "secondary runs",
}
STAGES: Final = (*_PRIMARY_STAGES.values(), *_SECONDARY_STAGES.values())


@dataclass(frozen=True, slots=True)
class CheckpointTimes:
    """Of one checkpoint after which both guests ran, in milliseconds from its beginning."""

    lasted_ms: float
    #: Those of STAGES that the journals have.
    stages_ms: Mapping[str, float]


def read_checkpoints(
    primary: Iterable[Event], secondary: Iterable[Event], from_ns: int, to_ns: int
) -> list[CheckpointTimes]:
    """Each checkpoint after which both guests ran, begun in from_ns..to_ns (CLOCK_MONOTONIC)."""
    began: dict[int, int] = {}
    reached: dict[int, dict[str, int]] = {}
    for event in primary:
        epoch = event.fields.get("epoch")
        if isinstance(epoch, int):
            if event.name in _BEGINS:
                began.setdefault(epoch, event.at_ns)
            elif event.name in _PRIMARY_STAGES:
                reached.setdefault(epoch, {})[_PRIMARY_STAGES[event.name]] = event.at_ns
    for event in secondary:
        epoch = event.fields.get("epoch")
        if event.name in _SECONDARY_STAGES and isinstance(epoch, int):
            reached.setdefault(epoch, {})[_SECONDARY_STAGES[event.name]] = event.at_ns
    return [
        _measure(at_ns, reached[epoch])
        for epoch, at_ns in began.items()
        if from_ns <= at_ns < to_ns and {"primary runs", "secondary runs"} <= reached.get(epoch, {}).keys()
    ]


def _measure(began_ns: int, reached: Mapping[str, int]) -> CheckpointTimes:
    stages_ms = {stage: (at_ns - began_ns) / NS_PER_MS for stage, at_ns in reached.items()}
    return CheckpointTimes(max(stages_ms["primary runs"], stages_ms["secondary runs"]), stages_ms)


def checkpoint_metrics(checkpoints: Sequence[CheckpointTimes]) -> dict[str, float]:
    """Metric -> value; nothing when there was no checkpoint. Of a stage its median."""
    if not checkpoints:
        return {}
    lasted_ms = [one.lasted_ms for one in checkpoints]
    metrics = {
        "checkpoint p50": percentile(lasted_ms, 0.5),
        "checkpoint p99": percentile(lasted_ms, 0.99),
        "checkpoint max": max(lasted_ms),
    }
    for stage in STAGES:
        if moments_ms := [one.stages_ms[stage] for one in checkpoints if stage in one.stages_ms]:
            metrics[stage_metric(stage)] = percentile(moments_ms, 0.5)
    return metrics


def stage_metric(stage: str) -> str:
    """Name of the metric that says when a stage is reached."""
    return f"checkpoint, {stage} p50"
