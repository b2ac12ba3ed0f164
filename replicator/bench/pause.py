"""`bench pause`: the pause of an epoch against the least that QEMU's own commands need, on one guest, in turns.

The guest is a QEMU that the daemon is attached to, with a monitor of ours beside. In each repeat it is protected for a
while and its pauses are read from the journal; then it is unprotected, and as often as before QEMU is told `stop`,
`xen-save-devices-state` and `cont`: once one after the other, once all three at once, which is the least there can be.
The load is the same; unprotected the client gets its replies earlier and asks more.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from replicator.bench.figures.result import make_cell
from replicator.bench.figures.stats import percentile
from replicator.bench.loads.background import under_load
from replicator.bench.loads.workloads import Place, Workload
from replicator.bench.rig.attached import AttachedPair
from replicator.bench.rig.monitor import Monitor
from replicator.bench.rig.pair import PROTECTED, UNPROTECTED
from replicator.bench.run import Run, describe_error
from replicator.demo.guest_image import GuestImage
from replicator.demo.lab import Lab
from replicator.errors import ReplicatorError
from replicator.units import NS_PER_MS, NS_PER_S

OURS, IN_TURN, AT_ONCE = "replicator", "QEMU, one after the other", "QEMU, all at once"
CANDIDATES: Final = (OURS, IN_TURN, AT_ONCE)
#: As the daemon's.
_NICE: Final = -10


def measure_pauses(run: Run, image: GuestImage, interval_ms: int, workloads: Sequence[Workload]) -> None:
    """Fills the recorder. One guest for all repeats."""
    settings = {"epoch": {"interval_ms": interval_ms}}
    try:
        with Lab() as lab, AttachedPair(lab, image, settings) as pair, pair.monitor("source") as monitor:
            for repeat in range(run.repeats):
                for workload in workloads:
                    _measure_turn(run, pair, monitor, interval_ms, workload, repeat)
    except ReplicatorError as error:
        run.recorder.fail(make_cell(workload="every workload"), describe_error(error))


def _measure_turn(
    run: Run, pair: AttachedPair, monitor: Monitor, interval_ms: int, workload: Workload, repeat: int
) -> None:
    place = Place(pair.lab, pair.orders, run.seed + repeat)
    run.steps.begin(f"{workload.name}, {OURS}")
    pair.enter_state(PROTECTED)
    seen = {OURS: pair.measure(lambda: workload.run(place, run.seconds))}
    pair.enter_state(UNPROTECTED)
    state_path = pair.stage.scratch / "state-of-the-bench"
    for name, pause in (
        (IN_TURN, pause_in_turn(monitor, str(state_path))),
        (AT_ONCE, pause_at_once(monitor, str(state_path))),
    ):
        run.steps.begin(f"{workload.name}, {name}")
        with under_load(lambda: workload.run(place, run.seconds)):
            pauses_ms = pause_repeatedly(pause, interval_ms, run.seconds)
        seen[name] = describe_pauses(pauses_ms)
    for name, metrics in seen.items():
        if name == OURS:
            metrics = metrics | compare_pauses(metrics, seen[IN_TURN])
        run.recorder.add(make_cell(workload=workload.name, candidate=name), metrics)


def compare_pauses(ours: dict[str, float], theirs: dict[str, float]) -> dict[str, float]:
    """How many times as long as QEMU's own."""
    return {
        f"{name} of QEMU's own": ours[name] / theirs[name]
        for name in ("pause p50", "pause p99")
        if ours.get(name) and theirs.get(name)
    }


def describe_pauses(pauses_ms: Sequence[float]) -> dict[str, float]:
    return {
        "pause p50": percentile(pauses_ms, 0.5),
        "pause p90": percentile(pauses_ms, 0.9),
        "pause p99": percentile(pauses_ms, 0.99),
        "pause max": max(pauses_ms),
    }


def pause_in_turn(monitor: Monitor, state_path: str) -> Callable[[], object]:
    """Each command is sent when the one before was answered."""
    commands = _commands(monitor, state_path)
    return lambda: [monitor.send(command) for command in commands]


def pause_at_once(monitor: Monitor, state_path: str) -> Callable[[], object]:
    commands = _commands(monitor, state_path)
    return lambda: monitor.send(*commands)


def _commands(monitor: Monitor, state_path: str) -> list[bytes]:
    save = monitor.encode("xen-save-devices-state", filename=state_path, live=False)
    return [monitor.encode("stop"), save, monitor.encode("cont")]


def pause_repeatedly(pause: Callable[[], object], interval_ms: int, seconds: float) -> list[float]:
    """Milliseconds of each pause; the guest runs for an interval between two of them."""
    pauses_ms: list[float] = []
    with raised_priority():
        end_ns = time.monotonic_ns() + int(seconds * NS_PER_S)
        while not pauses_ms or time.monotonic_ns() < end_ns:
            time.sleep(interval_ms / 1000)
            began_ns = time.monotonic_ns()
            pause()
            pauses_ms.append((time.monotonic_ns() - began_ns) / NS_PER_MS)
    return pauses_ms


@contextlib.contextmanager
def raised_priority() -> Iterator[None]:
    """This thread is scheduled like the daemon's."""
    before = os.getpriority(os.PRIO_PROCESS, 0)
    os.setpriority(os.PRIO_PROCESS, 0, _NICE)
    try:
        yield
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, before)
