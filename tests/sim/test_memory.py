"""What a run has seen is let go of at its end, and does not wait for a collection of all that is in memory."""

from __future__ import annotations

import gc

from replicator.engine.effects import SendEpoch
from replicator.engine.events import EpochAcked
from replicator.sim.judge import Snapshot
from replicator.sim.run import run_seed

SEED = 7


def test_a_run_leaves_neither_barriers_nor_its_trace() -> None:
    gc.collect()
    gc.disable()
    try:
        assert run_seed(SEED).epochs
        left = [one for one in gc.get_objects() if isinstance(one, Snapshot | EpochAcked | SendEpoch)]
    finally:
        gc.enable()
    assert len(left) < 10
