"""`bench link` and `bench pages`: the micro-benchmarks of a checkout (`benchmarks/`), with their figures as a result.

Such a script times its candidates in turns and shows each case with `show` of benchmarks/tools.py; that is listened to.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import runpy
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import replicator
from replicator.bench.figures.result import make_cell
from replicator.bench.run import Run
from replicator.errors import ConfigError

#: What a title says behind its colon is measured, and no name of a case.
_SHARE = re.compile(r"([\d.]+) ?% of the bytes")
_FOLDER = Path(replicator.__file__).parents[1] / "benchmarks"


def find_script(name: str) -> Path:
    """ConfigError when there is none: an installed package has no benchmarks/."""
    path = _FOLDER / f"{name}.py"
    if not path.exists():
        raise ConfigError(
            f"{path} does not exist", hint="run it from a checkout: .venv/bin/replicator bench " + name
        )
    return path


def measure_script(run: Run, script: Path, rounds: int) -> None:
    """Fills the recorder with the milliseconds of each round, and the throughput where bytes are moved."""

    def take(title: str, times: Mapping[str, list[float]], size_bytes: int) -> None:
        case, _, measured = title.partition(":")
        if (share := _SHARE.search(measured)) is not None:
            run.recorder.add(make_cell(case=case), {"size of plain": float(share[1])})
        for name, values_ms in times.items():
            cell = make_cell(case=case, candidate=name)
            for value_ms in values_ms:
                run.recorder.add(cell, {"time": value_ms})
                if size_bytes:
                    run.recorder.add(cell, {"throughput": size_bytes / value_ms / 1e3})

    run.steps.begin(f"{script.name}, {rounds} rounds")
    with importable(script.parent), called_with([str(script), "--rounds", str(rounds)]):
        listeners = importlib.import_module("tools").listeners
        listeners.append(take)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                runpy.run_path(str(script), run_name="__main__")
        finally:
            listeners.remove(take)


@contextlib.contextmanager
def importable(folder: Path) -> Iterator[None]:
    """As for a script that is started from there."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


@contextlib.contextmanager
def called_with(arguments: Sequence[str]) -> Iterator[None]:
    before, sys.argv = sys.argv, list(arguments)
    try:
        yield
    finally:
        sys.argv = before
