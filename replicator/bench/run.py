"""One run of a benchmark, from its beginning to its result."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from replicator.bench.figures.result import BenchResult, Recorder
from replicator.bench.output.machine import describe_everything
from replicator.bench.output.progress import Steps
from replicator.errors import ReplicatorError


@dataclass(frozen=True, slots=True)
class Run:
    """What a benchmark is given. `repeats` of each cell, about `seconds` each."""

    repeats: int
    seconds: float
    seed: int
    steps: Steps
    recorder: Recorder = field(default_factory=Recorder)


def carry_out(
    bench: str,
    measure: Callable[[Run], None],
    run: Run,
    options: Mapping[str, str | int | float | bool],
    *,
    axis: str = "",
) -> BenchResult:
    """The result of `measure`, which fills the run's recorder."""
    began, began_s = time.strftime("%Y-%m-%dT%H:%M:%S%z"), time.monotonic()
    with run.steps:
        measure(run)
    return BenchResult(
        bench=bench,
        began=began,
        duration_s=time.monotonic() - began_s,
        seed=run.seed,
        machine=describe_everything(),
        options={"repeats": run.repeats, "seconds": run.seconds, **options},
        figures=run.recorder.figures(),
        failures=run.recorder.failures(),
        axis=axis,
    )


def describe_error(error: ReplicatorError) -> str:
    """In one line; of a hint with ends of logs the last line that says something."""
    lines = [line.strip() for line in error.hint.split("\n") if not line.strip().endswith(":")]
    said = [line for line in lines if line]
    return f"{error} ({said[-1]})" if said else str(error)
