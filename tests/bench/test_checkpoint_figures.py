"""What two journals say of COLO's checkpoints."""

from __future__ import annotations

import pytest

from replicator.bench.figures.checkpoints import checkpoint_metrics, read_checkpoints
from replicator.demo.timeline import Event
from replicator.units import NS_PER_MS


def line(at_ms: float, name: str, epoch: int, node: str = "a") -> Event:
    return Event(round(at_ms * NS_PER_MS), node, name, {"epoch": epoch})


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
    assert read_checkpoints(ours, theirs, 0, 1000 * NS_PER_MS) == pytest.approx([25, 30, 20])


def test_one_that_came_to_nothing_or_belongs_to_another_window_does_not_count():
    ours = [*primary(1, 100, ran_ms=10), *primary(2, 200, ran_ms=10), *primary(3, 300, ran_ms=10)]
    theirs = [line(120, "vm-running", 1), line(320, "vm-running", 3)]
    assert read_checkpoints(ours, theirs, 150 * NS_PER_MS, 300 * NS_PER_MS) == []
    assert read_checkpoints(ours, theirs, 150 * NS_PER_MS, 301 * NS_PER_MS) == pytest.approx([20])


def test_no_checkpoint_no_metrics():
    assert checkpoint_metrics([]) == {}
    assert checkpoint_metrics([5.0, 7.0, 30.0])["checkpoint p50"] == 7.0
