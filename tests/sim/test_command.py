"""`python -m replicator.sim` as its users call it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from replicator.sim import pair
from replicator.sim.command import sim
from replicator.sim.run import scenario_of
from replicator.sim.scenario import save_scenario


def test_seeds_are_run_and_counted() -> None:
    result = CliRunner().invoke(sim, ["--seeds", "2", "--jobs", "1", "--coverage"])
    assert result.exit_code == 0, result.output
    assert "2 seeds: " in result.output and "broken promises: 0" in result.output
    assert "PAUSE_HANGS" in result.output and "secondary following, whole" in result.output


def test_a_scenario_is_run_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    save_scenario(scenario_of(3), path)
    result = CliRunner().invoke(sim, ["--scenario", str(path)])
    assert result.exit_code == 0 and "1 seeds: " in result.output


def test_a_file_that_is_no_scenario_is_named(tmp_path: Path) -> None:
    path = tmp_path / "none.json"
    path.write_text("{}")
    result = CliRunner().invoke(sim, ["--scenario", str(path)])
    assert result.exit_code == 1
    assert "none.json is no scenario" in result.output and "hint: " in result.output


def test_folders_of_killed_runs_are_removed_and_those_of_living_ones_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pair, "SCRATCH_ROOT", tmp_path)
    ended = subprocess.Popen(["true"])
    ended.wait()
    for name in (f"replicator-sim-{ended.pid}-x", f"replicator-sim-{os.getpid()}-y", "replicator-other"):
        (tmp_path / name).mkdir()
    pair.remove_leftovers()
    assert {path.name for path in tmp_path.iterdir()} == {
        f"replicator-sim-{os.getpid()}-y",
        "replicator-other",
    }
