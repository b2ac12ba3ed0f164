"""A few cells on real parts: the drill runs, its report is whole, and a pair that breaks its promise fails it."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from replicator.cli.drill import matrix
from replicator.demo.lab import namespace_names
from replicator.drill.matrix.cells import Cell, choose_cells
from replicator.drill.run.matrix import run_cells
from replicator.drill.stand.guests import SyntheticDrillGuest
from replicator.errors import DrillFailed
from replicator.service.config import Mode

pytestmark = pytest.mark.live

#: Every outcome, every setting but etcd (whose leases are long), and phases of both sides.
FEW = ("kill-host", "cut-back", "freeze-long", "disk-full", "arbiter-lost", "flip")
IN = {"kill-host": "committed", "cut-back": "applying", "freeze-long": "paused", "disk-full": "receiving"}


def few_cells() -> list[Cell]:
    return [
        cell for fault in FEW for cell in choose_cells(faults=[fault], phases=[IN.get(fault, "resuming")])
    ]


def test_the_synthetic_guest_survives_faults_of_every_kind():
    result = run_cells(SyntheticDrillGuest(), few_cells(), seed=1)
    assert [cell.verdict.reasons for cell in result.cells if cell.verdict is not None] == [()] * len(FEW)
    verdicts = {cell.cell.fault.value: cell.verdict for cell in result.cells}
    took = {
        fault
        for fault, verdict in verdicts.items()
        if verdict is not None and verdict.take_over_ms is not None
    }
    assert took == {"kill-host", "freeze-long"}


@pytest.mark.parametrize("divergence", [0.0, 0.3])
def test_a_pair_in_colo_survives_what_strikes_at_its_vm(divergence):
    """Its own phases, and its own fault; with outputs that agree and with some that do not."""
    where = {"kill-host": "comparing", "kill-vm": "joining", "cut": "vm-suspended", "kill-both": "vm-loading"}
    cells = [
        cell
        for fault, phase in where.items()
        for cell in choose_cells(mode=Mode.COLO, faults=[fault], phases=[phase])
    ]
    result = run_cells(SyntheticDrillGuest(divergence), cells, seed=1, mode=Mode.COLO)
    assert [cell.verdict.reasons for cell in result.cells if cell.verdict is not None] == [()] * len(where)
    assert result.passed, result.violations


def test_output_that_leaves_before_its_epoch_is_committed_is_found(tmp_path, monkeypatch):
    """The planted bug: a relay that holds nothing. What the client was told is undone by the take-over."""
    monkeypatch.setattr(matrix, "run_cells", partial(run_cells, leaky=True))
    code = matrix.run_matrix("synthetic", "kill-host", "running", quick=False, seed=1, report=tmp_path)
    assert code == DrillFailed.exit_code
    report = json.loads((tmp_path / "drill.json").read_text())
    (cell,) = report["cells"]
    assert (report["passed"], cell["result"]) == (False, "failed")
    assert cell["lost"] > 0
    assert any("acknowledged requests lost" in reason for reason in cell["reasons"]), cell
    assert cell["story"]
    assert ">FAIL<" in (tmp_path / "drill.html").read_text()


def test_the_command_drills_a_real_vm_and_leaves_nothing_behind(tmp_path):
    argv = [sys.executable, "-m", "replicator.cli.main", "drill", "--seed", "1", "--report", str(tmp_path)]
    argv += ["--faults", "kill-host,cut", "--phases", "awaiting-the-ack"]
    child = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    said, _ = child.communicate(timeout=100)
    assert child.returncode == 0, said
    assert "every cell passed" in said
    report = json.loads((tmp_path / "drill.json").read_text())
    assert (report["guest"], report["passed"], report["totals"]["run"]) == ("qemu", True, 2)
    assert "kill-host" in (tmp_path / "drill.html").read_text()
    assert not [name for name in namespace_names() if name.startswith(f"replicator-{child.pid}-")]
    assert f"replicator-{child.pid}-" not in Path("/proc/self/mounts").read_text()
