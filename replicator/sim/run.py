"""From a seed to a result, and from a failing run to the fewest faults that still fail."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from replicator.sim.faults import Fault, draw_plan
from replicator.sim.scenario import Scenario
from replicator.sim.settings import draw_settings
from replicator.sim.simulation import Result, Simulation

SHRINK_RUNS_MAX = 80
SEEDS_A_JOB = 8


def scenario_of(seed: int) -> Scenario:
    """What a seed stands for."""
    return Scenario(seed, draw_settings(seed), tuple(draw_plan(seed)))


def run_scenario(scenario: Scenario, plan: Sequence[Fault] | None = None) -> Result:
    """One run; `plan` in place of the scenario's."""
    return Simulation(scenario.seed, scenario.plan if plan is None else plan, scenario.settings).run()


def run_seed(seed: int) -> Result:
    return run_scenario(scenario_of(seed))


def shrink(scenario: Scenario, result: Result) -> Result:
    """Remove faults one by one as long as the same promise is broken."""
    smallest, index = result, 0
    for _ in range(SHRINK_RUNS_MAX):
        if smallest.violation is None or index >= len(smallest.plan):
            break
        plan = smallest.plan[:index] + smallest.plan[index + 1 :]
        again = run_scenario(scenario, plan)
        if again.violation is not None and again.violation.promise == smallest.violation.promise:
            smallest = again
        else:
            index += 1
    return smallest


def run_many(seeds: range, jobs: int) -> Iterator[Result]:
    """In the order of the seeds, in processes side by side."""
    if jobs <= 1:
        yield from map(run_seed, seeds)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=hush) as pool:
        yield from pool.map(run_seed, seeds, chunksize=SEEDS_A_JOB)


def hush() -> None:
    """The daemons log what goes wrong, and here much does."""
    logging.disable(logging.CRITICAL)
