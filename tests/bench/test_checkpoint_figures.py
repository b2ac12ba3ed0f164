"""What two journals say of COLO's checkpoints."""

from __future__ import annotations

import pytest

from replicator.bench.figures.checkpoints import CheckpointTimes, checkpoint_metrics, read_checkpoints
from replicator.bench.figures.metrics import METRICS
from replicator.demo.timeline import Event
from replicator.units import NS_PER_MS


def line(at_ms: float, name: str, epoch: int, node: str = "a") -> Event:
    return Event(round(at_ms * NS_PER_MS), node, name, {"epoch": epoch})


def lasted(checkpoints: list[CheckpointTimes]) -> list[float]:
    return [one.lasted_ms for one in checkpoints]


def primary(epoch: int, at_ms: float, *, ran_ms: float, is_asked: bool = True) -> list[Event]:
    asked = [line(at_ms, "checkpoint-asked", epoch)] if is_asked else []
    later = [("suspending-vm", at_ms + 1), ("pausing", at_ms + 2), ("resumed", at_ms + ran_ms)]
    return [*asked, *(line(then_ms, name, epoch) for name, then_ms in later)]


def test_a_checkpoint_lasts_from_its_order_until_both_run():
    ours = [
        *primary(1, 100, ran_ms=10),
        *primary(2, 200, ran_ms=30),
        *primary(3, 300, ran_ms=10, is_asked=False),
    ]
    theirs = [line(125, "vm-running", 1), line(220, "vm-running", 2), line(321, "vm-running", 3)]
    assert lasted(read_checkpoints(ours, theirs, 0, 1000 * NS_PER_MS)) == pytest.approx([25, 30, 20])


def test_its_stages_are_moments_after_its_beginning():
    ours = [*primary(7, 100, ran_ms=4), line(102.5, "paused", 7), line(103, "vm-suspended", 7)]
    theirs = [line(108, "committed", 7), line(112, "vm-starting", 7), line(113, "vm-running", 7)]
    (found,) = read_checkpoints(ours, theirs, 0, 1000 * NS_PER_MS)
    assert found.lasted_ms == pytest.approx(13)
    assert found.stages_ms == pytest.approx(
        {
            "primary stands": 2.5,
            "secondary stands": 3,
            "primary runs": 4,
            "committed": 8,
            "loaded": 12,
            "secondary runs": 13,
        }
    )


def test_one_that_came_to_nothing_or_belongs_to_another_window_does_not_count():
    ours = [*primary(1, 100, ran_ms=10), *primary(2, 200, ran_ms=10), *primary(3, 300, ran_ms=10)]
    theirs = [line(120, "vm-running", 1), line(320, "vm-running", 3)]
    assert read_checkpoints(ours, theirs, 150 * NS_PER_MS, 300 * NS_PER_MS) == []
    assert lasted(read_checkpoints(ours, theirs, 150 * NS_PER_MS, 301 * NS_PER_MS)) == pytest.approx([20])


def test_no_checkpoint_no_metrics():
    assert checkpoint_metrics([]) == {}


def test_a_stage_is_told_by_its_median_over_those_that_have_it():
    times = [CheckpointTimes(ms, {"committed": ms / 2} if ms > 5 else {}) for ms in (5.0, 7.0, 30.0)]
    metrics = checkpoint_metrics(times)
    assert metrics["checkpoint p50"] == 7.0
    assert metrics["checkpoint, committed p50"] == 3.5
    assert "checkpoint, loaded p50" not in metrics
    assert metrics.keys() <= METRICS.keys()
