"""No promise is broken in simulated runs: seeds that are always the same, new ones each time, and runs that once failed."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from replicator.sim.report import Totals, describe_failure
from replicator.sim.run import run_many, run_scenario, run_seed, scenario_of, shrink
from replicator.sim.scenario import load_scenario
from replicator.sim.settings import Modes
from replicator.sim.simulation import Result

FIXED = range(200)
FRESH = 60
FIXED_COLO = range(40)
FRESH_COLO = 10
JOBS = 2
SCENARIOS = sorted((Path(__file__).parent / "scenarios").glob("*.json"))


def explain(result: Result, modes: Modes) -> str:
    """The failure with the fewest faults that still show it."""
    smallest = shrink(scenario_of(result.seed, modes), result)
    again = f"python -m replicator.sim --mode {modes.value} --seed {result.seed}"
    return "\n".join(describe_failure(smallest, again))


def run_all(seeds: range, modes: Modes = Modes.REMUS) -> Totals:
    totals = Totals()
    for result in run_many(seeds, JOBS, modes):
        totals.add(result)
        assert result.violation is None, explain(result, modes)
    return totals


@pytest.mark.timeout(400)
def test_fixed_seeds_and_what_they_cover() -> None:
    totals = run_all(FIXED)
    assert totals.epochs >= 200 * len(FIXED)
    assert sum(totals.faults.values()) >= 5 * len(FIXED)
    assert totals.take_overs > len(FIXED) / 4
    assert len(totals.coverage) > 250


@pytest.mark.timeout(400)
def test_fresh_seeds() -> None:
    """Others on each run; a failure names its seed."""
    first = 1_000_000 + time.time_ns() % 1_000_000_000
    run_all(range(first, first + FRESH))


@pytest.mark.timeout(400)
def test_fixed_seeds_of_colo_and_what_they_cover() -> None:
    totals = run_all(FIXED_COLO, Modes.COLO)
    assert totals.epochs >= 100 * len(FIXED_COLO)
    # In most epochs the second VM runs, and of what it says much is what the primary's says.
    assert totals.loads > totals.epochs / 2
    assert totals.matched > 100 * len(FIXED_COLO)
    assert totals.take_overs > len(FIXED_COLO) / 4


@pytest.mark.timeout(400)
def test_fresh_seeds_of_colo() -> None:
    first = 1_000_000 + time.time_ns() % 1_000_000_000
    run_all(range(first, first + FRESH_COLO), Modes.COLO)


def test_in_mixed_modes_a_seed_is_one_run_or_the_other() -> None:
    drawn = [scenario_of(seed, Modes.MIXED) for seed in range(40)]
    for scenario in drawn:
        modes = Modes(scenario.settings.mode)
        assert scenario == scenario_of(scenario.seed, modes)
    assert 10 < sum(scenario.settings.is_colo for scenario in drawn) < 30


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_what_once_failed(path: Path) -> None:
    result = run_scenario(load_scenario(path))
    assert result.violation is None, "\n".join(
        describe_failure(result, f"python -m replicator.sim --scenario {path}")
    )


def test_the_same_seed_is_the_same_run() -> None:
    one, two = run_seed(7), run_seed(7)
    assert (one.epochs, one.frames, one.virtual_ns, one.coverage) == (
        two.epochs,
        two.frames,
        two.virtual_ns,
        two.coverage,
    )
