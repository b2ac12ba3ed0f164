"""`bench colo`: what a guest costs whose twin runs on the other host and says the same, against Remus and no protection.

On one machine both guests share its processors, so a fair base is the unprotected guest while an unlinked twin of it
does the same work: "beside a twin". Each repeat boots a pair for each way of protecting; with COLO all three states are
measured right after each other, in an order that turns round from workload to workload.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final

from replicator.bench.figures.result import make_cell
from replicator.bench.interval import Setting, compare_states
from replicator.bench.loads.background import under_load
from replicator.bench.loads.workloads import Metrics, Place, Workload
from replicator.bench.rig.pair import PROTECTED, UNPROTECTED, BenchPair
from replicator.bench.run import Run, describe_error
from replicator.demo.guest_image import GuestImage
from replicator.demo.lab import Lab
from replicator.errors import ReplicatorError

BESIDE_TWIN: Final = "beside a twin"
COLO: Final = Setting("colo", {"epoch": {"mode": "colo"}})
REMUS: Final = (
    Setting("remus adaptive", {"epoch": {"pacing": "adaptive"}}),
    Setting("remus 50 ms", {"epoch": {"interval_ms": 50}}),
)
STATES: Final = (UNPROTECTED, BESIDE_TWIN, PROTECTED)
DEFAULT_WORKLOADS: Final = "request,spaced,set"


def measure_colo(run: Run, image: GuestImage, workloads: Sequence[Workload]) -> None:
    """Fills the recorder; a way of protecting that does not work fails its cells and no others."""
    for repeat in range(run.repeats):
        for setting in (COLO, *REMUS):
            if run.recorder.has_failed(make_cell(setting=setting.name)):
                continue
            try:
                with _Rig(image, setting) as rig:
                    rig.measure(run, workloads, repeat)
            except ReplicatorError as error:
                run.recorder.fail(make_cell(setting=setting.name), describe_error(error))


def count_steps(repeats: int, workloads: int) -> int:
    return repeats * workloads * (len(STATES) + len(REMUS))


def states_of(setting: Setting, number: int) -> tuple[str, ...]:
    """What is measured of it, in the order of this workload."""
    states = STATES if setting is COLO else (PROTECTED,)
    return states if number % 2 == 0 else states[::-1]


class _Rig:
    """Context manager: a pair, and with COLO another one that stays unprotected."""

    def __init__(self, image: GuestImage, setting: Setting) -> None:
        self._image = image
        self._setting = setting
        self._opened = contextlib.ExitStack()

    def __enter__(self) -> _Rig:
        with contextlib.ExitStack() as opened:
            self._pair = self._boot(opened, self._setting)
            self._twin = self._boot(opened, REMUS[1]) if self._setting is COLO else None
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._opened.close()

    def _boot(self, opened: contextlib.ExitStack, setting: Setting) -> BenchPair:
        lab = opened.enter_context(Lab())
        return opened.enter_context(BenchPair(lab, self._image, setting.sections))

    def measure(self, run: Run, workloads: Sequence[Workload], repeat: int) -> None:
        seed = run.seed + repeat
        for number, workload in enumerate(workloads):
            seen: dict[str, Metrics] = {}
            for state in states_of(self._setting, number):
                run.steps.begin(f"{self._setting.name}, {workload.name}, {state}")
                self._pair.enter_state(PROTECTED if state == PROTECTED else UNPROTECTED)
                with self._twin_under_load(state, workload, run, seed):
                    work = partial(workload.run, Place(self._pair.lab, self._pair.orders, seed), run.seconds)
                    seen[state] = self._pair.measure(work)
                if state == PROTECTED:
                    seen[state] |= self._describe_comparison()
            if BESIDE_TWIN in seen:
                above_twin = compare_with_twin(seen[BESIDE_TWIN], seen[PROTECTED])
                seen[PROTECTED] |= above_twin | compare_states(seen[UNPROTECTED], seen[PROTECTED])
            for state, metrics in seen.items():
                cell = make_cell(setting=self._setting.name, workload=workload.name, state=state)
                run.recorder.add(cell, metrics)

    @contextlib.contextmanager
    def _twin_under_load(self, state: str, workload: Workload, run: Run, seed: int) -> Iterator[None]:
        twin = self._twin
        if twin is None or state != BESIDE_TWIN:
            yield
            return
        place = Place(twin.lab, twin.orders, seed)
        with under_load(lambda: workload.run(place, run.seconds)):
            yield

    def _describe_comparison(self) -> Metrics:
        """Since the pair was protected."""
        status = self._pair.stage.status("a")
        colo = status.get("colo", {})
        if not colo.get("state"):
            return {}
        kinds = colo["kinds"].values()
        matched, committed = (sum(kind[key] for kind in kinds) for key in ("matched", "committed"))
        found = {f"checkpoints, {why}": float(count) for why, count in colo["checkpoints"].items()}
        return found | {"output that both said": 100.0 * matched / max(1, matched + committed)}


def compare_with_twin(beside: Metrics, colo: Metrics) -> Metrics:
    """What COLO has of the rate of a guest beside an unlinked twin, and adds to its latency."""
    names = {"rate of unprotected": "rate of one beside a twin"} | {
        f"added {name}": f"{name} above one beside a twin"
        for name in ("latency avg", "latency p50", "latency p99")
    }
    return {names[name]: value for name, value in compare_states(beside, colo).items()}
