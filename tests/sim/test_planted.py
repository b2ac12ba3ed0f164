"""The simulator finds every bug that is planted into the code, and its reports lead there."""

from __future__ import annotations

from pathlib import Path

import pytest
from planted import PLANTED, plant

from replicator.sim.pair import Result
from replicator.sim.report import describe_failure
from replicator.sim.run import run_scenario, run_seed, scenario_of, shrink
from replicator.sim.scenario import Scenario, load_scenario, save_scenario

SEEDS_MAX = 1_000
#: Rare ones: a seed that is known to find the bug is tried first. When it no longer does, all seeds are.
KNOWN: dict[str, int] = {}


def find(name: str) -> Result:
    first = KNOWN.get(name, 0)
    for seed in (first, *range(SEEDS_MAX)):
        result = run_seed(seed)
        if result.violation is not None:
            return result
    pytest.fail(f"{name} was not found within {SEEDS_MAX} seeds")


@pytest.mark.timeout(1000)
@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_found(name: str) -> None:
    with plant(name) as promises:
        result = find(name)
    assert result.violation is not None
    assert result.violation.promise in promises, result.violation
    assert run_seed(result.seed).violation is None, "the bug is gone, and so is what it broke"


def test_a_failure_is_shrunk_saved_and_replayed(tmp_path: Path) -> None:
    with plant("a_barred_replica_is_promoted"):
        result = find("a_barred_replica_is_promoted")
        smallest = shrink(scenario_of(result.seed), result)
        assert len(smallest.plan) < len(result.plan)
        path = tmp_path / "found.json"
        scenario = scenario_of(result.seed)
        save_scenario(Scenario(scenario.seed, scenario.settings, smallest.plan, "why"), path)
        again = run_scenario(load_scenario(path))
    assert again.violation == smallest.violation
    lines = list(describe_failure(smallest, "the command"))
    assert lines[0].startswith(f"seed {result.seed} breaks C")
    assert any("takes over" in line for line in lines) and lines[-1] == "again: the command"
