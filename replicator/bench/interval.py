"""`bench interval`: what protection costs, by the length of epochs and by workload, against the unprotected guest.

Each repeat boots a pair for each setting and goes through the workloads. A workload is measured unprotected and
protected right after each other, in the order U P, P U, U P ...: a drift of the machine favours neither, and protection
is switched only once a workload.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from replicator.bench.figures.result import Cell, make_cell
from replicator.bench.loads.workloads import Place, Workload
from replicator.bench.rig.pair import PROTECTED, UNPROTECTED, BenchPair
from replicator.bench.run import Run, describe_error
from replicator.demo.guest_image import GuestImage
from replicator.demo.lab import Lab
from replicator.demo.stage import Sections
from replicator.errors import ConfigError, ReplicatorError

ADAPTIVE: Final = "adaptive"
DEFAULT_SETTINGS: Final = "10,25,50,100,200,500,adaptive"
DEFAULT_GOAL: Final = "latency=10ms"


@dataclass(frozen=True, slots=True)
class Setting:
    """One way to pace epochs."""

    name: str
    sections: Sections


def choose_settings(names: str, goal: str = DEFAULT_GOAL) -> list[Setting]:
    """Of a comma-separated list of milliseconds and `adaptive`. Whether the daemon can do it, it says itself."""
    settings = []
    for name in dict.fromkeys(word.strip() for word in names.split(",") if word.strip()):
        if name == ADAPTIVE:
            settings.append(Setting(f"{ADAPTIVE} {goal}", {"epoch": {"pacing": ADAPTIVE, "goal": goal}}))
        elif name.isdecimal():
            settings.append(Setting(f"{name} ms", {"epoch": {"interval_ms": int(name)}}))
        else:
            raise ConfigError(
                f"{name!r} is no length of an epoch",
                hint="write milliseconds, or adaptive: --intervals 50,adaptive",
            )
    if not settings:
        raise ConfigError("--intervals names none", hint=f"as {DEFAULT_SETTINGS}")
    return settings


def measure_intervals(
    run: Run, image: GuestImage, settings: Sequence[Setting], workloads: Sequence[Workload]
) -> None:
    """Fills the recorder; a setting that does not work fails its cells and no others."""
    for repeat in range(run.repeats):
        for setting in settings:
            cell = make_cell(setting=setting.name)
            if run.recorder.has_failed(cell):
                continue
            try:
                with Lab() as lab, BenchPair(lab, image, setting.sections) as pair:
                    _measure_pair(run, pair, setting, workloads, repeat)
            except ReplicatorError as error:
                run.recorder.fail(cell, describe_error(error))


def count_steps(run_repeats: int, settings: int, workloads: int) -> int:
    return run_repeats * settings * workloads * 2


def _measure_pair(
    run: Run, pair: BenchPair, setting: Setting, workloads: Sequence[Workload], repeat: int
) -> None:
    place = Place(pair.lab, pair.orders, run.seed + repeat)
    for workload, states in states_in_turn(workloads):
        seen = {}
        for state in states:
            run.steps.begin(f"{setting.name}, {workload.name}, {state}")
            pair.enter_state(state)
            seen[state] = pair.measure(partial(workload.run, place, run.seconds)) | pair.memory()
        seen[PROTECTED] |= compare_states(seen[UNPROTECTED], seen[PROTECTED])
        for state in (UNPROTECTED, PROTECTED):
            run.recorder.add(cell_of(setting, workload, state), seen[state])


def cell_of(setting: Setting, workload: Workload, state: str) -> Cell:
    return make_cell(setting=setting.name, workload=workload.name, state=state)


def states_in_turn(workloads: Sequence[Workload]) -> Iterator[tuple[Workload, tuple[str, str]]]:
    """Each workload with both states; from one workload to the next the state stays."""
    states = (UNPROTECTED, PROTECTED)
    for workload in workloads:
        yield workload, states
        states = (states[1], states[0])


def compare_states(base: Mapping[str, float], cost: Mapping[str, float]) -> dict[str, float]:
    """What the protected state has of the unprotected one's rate, and adds to its latency."""
    compared = {}
    if base.get("rate") and "rate" in cost:
        compared["rate of unprotected"] = 100 * cost["rate"] / base["rate"]
    for name in ("latency avg", "latency p50", "latency p99"):
        if name in base and name in cost:
            compared[f"added {name}"] = cost[name] - base[name]
    return compared
