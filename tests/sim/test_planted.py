"""The simulator finds every bug that is planted into the code, and its reports lead there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from planted import OF_COLO, PLANTED, plant

from replicator.sim.report import describe_failure
from replicator.sim.run import run_scenario, scenario_of, shrink
from replicator.sim.scenario import Scenario, load_scenario, save_scenario
from replicator.sim.settings import Modes
from replicator.sim.simulation import Result

SEEDS_MAX = 1_000
#: Runs that once failed, each named after the planted bug that stands for what they found.
SCENARIOS = sorted((Path(__file__).parent / "scenarios").glob("*.json"))
#: Rare ones: a seed that is known to find the bug is tried first. When it no longer does, all seeds are.
KNOWN = {
    "output_of_several_epochs_leaves_in_the_wrong_order": 2,
    "a_hand_over_that_keeps_its_voice": 5,
    "a_guest_that_runs_again_after_its_hand_over_was_recorded": 12,
    "output_of_the_last_epoch_is_not_waited_for": 10,
    "a_relay_that_looks_at_no_deadline": 54,
    "a_lease_that_is_kept_while_frozen": 14,
    "an_older_sealed_message_opens_again": 10,
    "output_of_pipelined_epochs_is_released_by_count": 5,
    "a_barred_replica_is_promoted": 6,
    "a_replayed_epoch_is_applied": 16,
    "deltas_upon_versions_that_were_lost": 38,
    "a_replica_that_outlives_its_guest": 915,
    "an_epoch_is_applied_unverified": 50,
    "an_ack_before_the_epoch_is_whole": 35,
    "an_undo_log_that_is_short_by_a_page": 25,
    "a_bitmap_that_is_cleared_after_the_resume": 16,
    "an_abandoned_epoch_keeps_the_wire": 25,
    "a_resume_under_way_is_ordered_again": 54,
}


def find(name: str) -> tuple[Scenario, Result]:
    for scenario in candidates(name):
        result = run_scenario(scenario)
        if result.violation is not None:
            return scenario, result
    pytest.fail(f"{name} was not found within {SEEDS_MAX} seeds")


def candidates(name: str) -> Iterator[Scenario]:
    """What once showed it, then all seeds."""
    saved = Path(__file__).parent / "scenarios" / f"{name.replace('_', '-')}.json"
    if name not in KNOWN and saved.exists():
        yield load_scenario(saved)
    modes = Modes.COLO if name in OF_COLO else Modes.REMUS
    for seed in (KNOWN.get(name, 0), *range(SEEDS_MAX)):
        yield scenario_of(seed, modes)


@pytest.mark.timeout(1000)
@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_found(name: str) -> None:
    with plant(name) as promises:
        scenario, result = find(name)
    assert result.violation is not None
    assert result.violation.promise in promises, result.violation
    assert run_scenario(scenario).violation is None, "the bug is gone, and so is what it broke"


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_a_scenario_shows_what_it_once_showed_when_the_bug_is_back(path: Path) -> None:
    with plant(path.stem.replace("-", "_")) as promises:
        violation = run_scenario(load_scenario(path)).violation
    assert violation is not None and violation.promise in promises, "find and save it anew"


def test_a_failure_is_shrunk_saved_and_replayed(tmp_path: Path) -> None:
    with plant("a_barred_replica_is_promoted"):
        _, result = find("a_barred_replica_is_promoted")
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
