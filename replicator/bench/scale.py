"""`bench scale`: synthetic guests that are large, that change altogether, that have very short epochs, and that are many.

    ram      an idle guest by its size: what an epoch costs though nothing has changed, and how that grows
    dirty    one epoch in which every page has changed
    rate     epochs a second when they are as short as the configuration allows
    guests   so many pairs of daemons at once on this machine: are all protected, and what does each cost

A synthetic guest is a process of ours, so this measures the daemons, the link and the store, and no hypervisor. It
tells its dirty pages itself: scanning a QEMU's page tables is in `bench pause`.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from replicator.bench.figures.epochs import read_epochs
from replicator.bench.figures.result import make_cell
from replicator.bench.figures.stats import line_through
from replicator.bench.rig.synthetic import SyntheticPair, SyntheticSpec, require_memory
from replicator.bench.run import Run, describe_error
from replicator.demo.lab import Lab
from replicator.demo.timeline import Event
from replicator.errors import GuestError, ReplicatorError
from replicator.units import NS_PER_S, PAGE_SIZE

PARTS: Final = ("ram", "dirty", "rate", "guests")
_GIB_MIB: Final = 1024
_RATE_MIB: Final = 64
_GUEST_MIB: Final = 64
_LOOK_S: Final = 0.1
_EPOCH: Final = {"epoch": {"interval_ms": 50}}
#: As often as the machine can.
_SHORTEST: Final = {"epoch": {"pacing": "adaptive", "interval_min_ms": 1, "interval_max_ms": 1}}
#: Of all pages: the registers' page changes for itself.
_ALMOST_ALL: Final = 0.9
_POLL_S: Final = 0.05
_EPOCH_S: Final = 120.0
Metrics = dict[str, float]


@dataclass(frozen=True, slots=True)
class Scale:
    """What is asked for; sizes in MiB."""

    parts: tuple[str, ...]
    sizes: tuple[int, ...]
    dirty_sizes: tuple[int, ...]
    guests: tuple[int, ...]

    def require_memory(self) -> None:
        """ConfigError unless each of them fits by itself."""
        for size in self.sizes if "ram" in self.parts else ():
            require_memory([idle_guest(size)], f"a guest of {size} MiB")
        for size in self.dirty_sizes if "dirty" in self.parts else ():
            require_memory([changing_guest(size)], f"a guest of {size} MiB of which every page changes")
        for count in self.guests if "guests" in self.parts else ():
            require_memory([one_of_many()] * count, f"{count} guests of {_GUEST_MIB} MiB")

    @property
    def steps(self) -> int:
        """Of one repeat."""
        counts = {
            "ram": len(self.sizes),
            "dirty": len(self.dirty_sizes),
            "rate": 1,
            "guests": len(self.guests),
        }
        return sum(counts[part] for part in self.parts)


def idle_guest(size_mib: int) -> SyntheticSpec:
    return SyntheticSpec(size_mib, _EPOCH)


def changing_guest(size_mib: int) -> SyntheticSpec:
    return SyntheticSpec(size_mib, _EPOCH, has_nic=True, copies=3)


def one_of_many() -> SyntheticSpec:
    return SyntheticSpec(_GUEST_MIB, _EPOCH, steps_per_ms=1.0)


def measure_scale(run: Run, scale: Scale) -> None:
    """Fills the recorder; a cell that fails stops no other."""
    measures = {
        "ram": _measure_sizes,
        "dirty": _measure_dirty,
        "rate": _measure_rate,
        "guests": _measure_guests,
    }
    for _ in range(run.repeats):
        for part in scale.parts:
            measures[part](run, scale)


def _measure_sizes(run: Run, scale: Scale) -> None:
    points = []
    for size in scale.sizes:
        metrics = _try_pair(run, "ram", idle_guest(size), f"{size} MiB")
        if "pause p50" in metrics:
            points.append((size / _GIB_MIB, metrics["pause p50"]))
    if len(points) > 1:
        slope, _ = line_through(points)
        run.recorder.add(make_cell(part="ram", guest="all sizes"), {"pause a GiB": slope})


def _measure_rate(run: Run, _: Scale) -> None:
    _try_pair(run, "rate", SyntheticSpec(_RATE_MIB, _SHORTEST), "epochs as short as can be")


def _try_pair(run: Run, part: str, spec: SyntheticSpec, name: str) -> Metrics:
    """Metrics of some seconds of one pair, recorded; nothing when it failed."""
    cell = make_cell(part=part, guest=name)
    run.steps.begin(f"{part}, {name}")
    try:
        with Lab() as lab, SyntheticPair(lab, spec) as pair:
            metrics = measure_window(pair, run.seconds)
    except ReplicatorError as error:
        run.recorder.fail(cell, describe_error(error))
        return {}
    run.recorder.add(cell, metrics)
    return metrics


def measure_window(pair: SyntheticPair, seconds: float) -> Metrics:
    """Epochs, processor time and memory of one pair within so many seconds."""
    began_ns, cpu = time.monotonic_ns(), [pair.cpu_ns(name) for name in ("a", "b")]
    time.sleep(seconds)
    ended_ns = time.monotonic_ns()
    passed_ns = ended_ns - began_ns
    used = [pair.cpu_ns(name) - before for name, before in zip(("a", "b"), cpu, strict=True)]
    return {
        **read_epochs(pair.events(), began_ns, ended_ns).to_metrics(),
        "CPU of primary's daemon": 100 * used[0] / passed_ns,
        "CPU of secondary's daemon": 100 * used[1] / passed_ns,
        "memory of primary's daemon": pair.memory_mib("a"),
        "memory of secondary's daemon": pair.memory_mib("b"),
    }


def _measure_dirty(run: Run, scale: Scale) -> None:
    for size in scale.dirty_sizes:
        cell = make_cell(part="dirty", guest=f"{size} MiB")
        run.steps.begin(f"dirty, {size} MiB")
        try:
            with Lab() as lab, SyntheticPair(lab, changing_guest(size)) as pair:
                run.recorder.add(cell, measure_full_epochs(pair))
        except ReplicatorError as error:
            run.recorder.fail(cell, describe_error(error))


def measure_full_epochs(pair: SyntheticPair) -> Metrics:
    """Write every page, and look at the epochs that carry them until the last one is committed. GuestError when the
    largest of them is not committed in time."""
    began_ns = time.monotonic_ns()
    pair.dirty_all()
    deadline = time.monotonic() + _EPOCH_S
    while (found := find_full_epoch(pair.events(), began_ns, pair.spec.pages)) is None:
        if time.monotonic() > deadline:
            raise GuestError(f"the epoch of all pages was not committed within {_EPOCH_S:.0f} s")
        time.sleep(_POLL_S)
    return {
        **found,
        "memory of primary's daemon": pair.memory_mib("a"),
        "memory of secondary's daemon": pair.memory_mib("b"),
    }


def find_full_epoch(events: Sequence[Event], after_ns: int, pages: int) -> Metrics | None:
    """The largest epoch, once epochs with almost all of so many pages are committed; None before."""
    epochs = read_epochs(events, after_ns, sys.maxsize)
    committed = epochs.dirty_pages[: len(epochs.commits_ms)]
    if sum(committed) < _ALMOST_ALL * pages:
        return None
    largest = max(range(len(committed)), key=committed.__getitem__)
    took_ms = epochs.pauses_ms[largest] + epochs.commits_ms[largest]
    return {
        "pause max": epochs.pauses_ms[largest],
        "commit max": epochs.commits_ms[largest],
        "pages in the epoch": float(committed[largest]),
        "throughput": committed[largest] * PAGE_SIZE / took_ms / 1e3,
    }


def _measure_guests(run: Run, scale: Scale) -> None:
    for count in scale.guests:
        cell = make_cell(part="guests", guest=f"{count} of {_GUEST_MIB} MiB")
        run.steps.begin(f"{count} guests of {_GUEST_MIB} MiB")
        try:
            with Lab() as lab, contextlib.ExitStack() as opened:
                pairs = [SyntheticPair(lab, one_of_many(), number) for number in range(count)]
                for pair in pairs:
                    opened.push(pair)
                    pair.begin()
                for pair in pairs:
                    pair.await_protected()
                run.recorder.add(cell, measure_many(pairs, run.seconds))
        except ReplicatorError as error:
            run.recorder.fail(cell, describe_error(error))


def measure_many(pairs: Sequence[SyntheticPair], seconds: float) -> Metrics:
    """Protection at each look, and what a pair costs on average."""
    began_ns = time.monotonic_ns()
    before = [pair.cpu_ns(name) for pair in pairs for name in ("a", "b")]
    protected, lags_ms = len(pairs), [0.0]
    while time.monotonic_ns() - began_ns < seconds * NS_PER_S:
        looks = [pair.status() for pair in pairs]
        protected = min(protected, sum(is_protected(look) for look in looks))
        lags_ms += [float(look.get("lag_ms", 0.0)) for look in looks]
        time.sleep(_LOOK_S)
    ended_ns = time.monotonic_ns()
    used = sum(pair.cpu_ns(name) for pair in pairs for name in ("a", "b")) - sum(before)
    epochs = [read_epochs(pair.events(), began_ns, ended_ns) for pair in pairs]
    pauses_ms = [pause_ms for one in epochs for pause_ms in one.pauses_ms]
    return {
        "protected guests": float(protected),
        "lag max": max(lags_ms),
        "epochs": len(pauses_ms) * NS_PER_S / (ended_ns - began_ns) / len(pairs),
        "pause max": max(pauses_ms, default=0.0),
        "CPU of a pair": 100 * used / (ended_ns - began_ns) / len(pairs),
        "memory of primary's daemon": sum(pair.memory_mib("a") for pair in pairs) / len(pairs),
        "memory of secondary's daemon": sum(pair.memory_mib("b") for pair in pairs) / len(pairs),
    }


def is_protected(status: dict[str, object]) -> bool:
    return str(status.get("state", "")).startswith("protected")
