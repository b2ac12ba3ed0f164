"""From a seed to a result, and from a failing run to the fewest faults that still fail."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

from replicator.sim.faults import Fault, draw_plan
from replicator.sim.scenario import Scenario
from replicator.sim.settings import Modes, draw_settings
from replicator.sim.simulation import Result, Simulation

SHRINK_RUNS_MAX = 80
#: Few, where there are few seeds: at the end no worker is to wait long for another.
SEEDS_A_JOB_MAX = 8
#: Objects that a worker makes before it looks for those that hold each other.
GARBAGE_MAX = 50_000


def scenario_of(seed: int, modes: Modes = Modes.REMUS) -> Scenario:
    """What a seed stands for."""
    settings = draw_settings(seed, modes)
    return Scenario(seed, settings, tuple(draw_plan(seed, is_colo=settings.is_colo)))


def run_scenario(scenario: Scenario, plan: Sequence[Fault] | None = None) -> Result:
    """One run; `plan` in place of the scenario's."""
    return Simulation(scenario.seed, scenario.plan if plan is None else plan, scenario.settings).run()


def run_seed(seed: int, modes: Modes = Modes.REMUS) -> Result:
    return run_scenario(scenario_of(seed, modes))


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


def run_many(seeds: range, jobs: int, modes: Modes = Modes.REMUS) -> Iterator[Result]:
    """In the order of the seeds, in processes side by side."""
    run_one = partial(run_seed, modes=modes)
    if jobs <= 1:
        yield from map(run_one, seeds)
        return
    # A fork has imported all already; where other threads run it might begin with a lock that nobody opens.
    method = "fork" if threading.active_count() == 1 else "spawn"
    with ProcessPoolExecutor(jobs, mp_context=get_context(method), initializer=begin_worker) as pool:
        at_once = max(1, min(SEEDS_A_JOB_MAX, len(seeds) // (32 * jobs)))
        yield from pool.map(run_one, seeds, chunksize=at_once)


def begin_worker() -> None:
    """A process that does nothing but runs: what was imported stays, and of a run little is left in circles."""
    hush()
    gc.freeze()
    gc.set_threshold(GARBAGE_MAX)


def hush() -> None:
    """The daemons log what goes wrong, and here much does."""
    logging.disable(logging.CRITICAL)
