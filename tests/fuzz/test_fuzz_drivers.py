"""The properties of the fuzz drivers hold for all seeds; and each driver fuzzes for a moment, the same inputs each
time."""

from __future__ import annotations

import importlib
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest
import seeds

#: Inputs of each driver, the seeds included; as long as all of them take about the same time.
RUNS = {"cuts": 2500, "snapshot": 3000, "rewrite": 4000, "any": 3000, "legacy": 4000}
RUNS_OTHERWISE = 8000
#: A driver that is slower stops there, and has passed.
SECONDS_MAX = 9
HERE = Path(__file__).parent
Run = subprocess.CompletedProcess[str]


@pytest.mark.parametrize("driver", seeds.drivers())
def test_the_property_holds_for_every_seed(driver: str) -> None:
    check = importlib.import_module(f"fuzz_{driver}").check
    found = seeds.seeds_of(driver)
    assert found
    for name, data in found.items():
        try:
            check(data)
        except Exception as error:
            raise AssertionError(f"seed {name}") from error


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Run]]]:
    """All drivers, as many at a time as there are cores."""
    is_missing = find_spec("atheris") is None
    if is_missing and (sys.platform, platform.machine()) == ("linux", "x86_64"):
        pytest.fail("atheris is not installed, though it has a wheel here: make venv")
    if is_missing:
        pytest.skip("atheris is not installed: it has no wheel for this platform")
    folder = tmp_path_factory.mktemp("fuzz")
    seeds.write_seeds(folder / "seeds")
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        yield {driver: pool.submit(_fuzz, driver, folder) for driver in seeds.drivers()}
        pool.shutdown(cancel_futures=True)


def _fuzz(driver: str, folder: Path) -> Run:
    corpus = folder / "corpus" / driver
    corpus.mkdir(parents=True)
    options = {
        "runs": RUNS.get(driver, RUNS_OTHERWISE),
        "seed": 1,
        "max_total_time": SECONDS_MAX,
        "dict": folder / "seeds" / seeds.DICTIONARY,
        "artifact_prefix": f"{folder}/crash-{driver}-",
    }
    script = [sys.executable, HERE / f"fuzz_{driver}.py", corpus, folder / "seeds" / driver]
    return subprocess.run(
        [*map(str, script), *(f"-{name}={value}" for name, value in options.items())],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=os.environ | {"PYTHONHASHSEED": "0"},
        timeout=100,
    )


@pytest.mark.parametrize("driver", seeds.drivers())
def test_a_short_run_finds_nothing(driver: str, runs: dict[str, Future[Run]]) -> None:
    """One that finds something prints the input; what it prints last says where it was left."""
    done = runs[driver].result()
    assert done.returncode == 0, done.stdout[-6000:]
    assert "DONE" in done.stdout, done.stdout[-6000:]
    assert (
        f"INFO: Instrumenting replicator.wire.{'session' if driver == 'session' else 'decoder'}"
        in done.stdout
    )
