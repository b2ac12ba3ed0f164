"""The drivers of libFuzzer for the native core: each fuzzes for a moment and finds nothing, and each finds a defect that
was planted into a copy of what it judges."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import build_fuzzers
import native_seeds
import pytest

Run = subprocess.CompletedProcess[str]
#: Inputs of each driver, the seeds included; as many as take about a second.
RUNS = {
    "ram": 3000,
    "unpack": 3000,
    "bases": 3000,
    "decode_pages": 2000,
    "layout": 8000,
    "bitmap": 10_000,
    "steady": 10_000,
}
RUNS_OTHERWISE = 30_000
#: Inputs after which a planted defect must be found; with other seeds it took up to 19,000.
RUNS_TO_FIND = 100_000
SEED = 1
#: A broken promise, and a bad access.
REPORTS = ("does not hold: ", "ERROR: AddressSanitizer: ")


class Defect(NamedTuple):
    """In `source`, one text is another."""

    source: str
    right: str
    wrong: str


DEFECTS = {
    "bases": Defect("bases.c", "return slot < bases->used &&", "return slot <= bases->used &&"),
    "bitmap": Defect("bitmap.c", "pfns[i] >= bitmap->bits", "pfns[i] > bitmap->bits"),
    "decode_pages": Defect("delta.c", "> reader->end - reader->at", "> reader->end - reader->at + 1"),
    "entries": Defect("entries.c", "& PFN_MASK) >= limit", "& PFN_MASK) > limit"),
    "frame_message": Defect(
        "frame_message.c", "(reader->end - reader->at) < size", "(reader->end - reader->at) + 1 < size"
    ),
    "layout": Defect("layout.c", "<= segment->first_pfn &&", "<= segment->first_pfn + 1 &&"),
    "legacy_batch": Defect("entries.c", "legacy + 4 * index", "legacy + 4 * index + 1"),
    "page_search": Defect("entries.c", "index < count && memcmp", "index <= count && memcmp"),
    "ram": Defect("layout.c", "first_pfn < segment->pages)", "first_pfn <= segment->pages)"),
    "relay_book": Defect("relay_book.c", "size < at + bytes", "size + 1 < at + bytes"),
    "scanner": Defect("uffd.c", "scan.walk_end <= scan.start", "scan.walk_end < scan.start"),
    "shift_table": Defect("shift_entries.c", "!is_closed(entry) && !is_shifted(entry)", "!is_closed(entry)"),
    "steady": Defect(
        "steady_flow.c", "first->end > flow->state.position", "first->end > flow->state.position + 1"
    ),
    "unpack": Defect("compress.c", "filled > PAGE_BYTES", "filled > PAGE_BYTES + 4"),
}


def fuzz(driver: str, folder: Path, native: Path, runs: int, seeds: dict[str, bytes]) -> Run:
    """Build the driver around the sources in `native` and run it."""
    program = build_fuzzers.build(driver, folder / "drivers", native)
    corpus = folder / "corpus" / driver
    corpus.mkdir(parents=True)
    for name, data in seeds.items():
        (corpus / name).write_bytes(data)
    options = (f"-runs={runs}", f"-seed={SEED}", f"-artifact_prefix={folder}/crash-{driver}-")
    return subprocess.run(
        [program, corpus, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=100,
    )


def fuzz_defect(driver: str, folder: Path) -> Run:
    """The same around a copy with the defect in it, and without seeds: it is the search that must find it."""
    defect = DEFECTS[driver]
    copy = folder / f"defect-{driver}" / "native"
    shutil.copytree(build_fuzzers.NATIVE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    source = copy / defect.source
    text = source.read_text()
    assert text.count(defect.right) == 1, f"{defect.source} has no such place any more"
    source.write_text(text.replace(defect.right, defect.wrong))
    return fuzz(driver, copy.parent, copy, RUNS_TO_FIND, {})


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Future[Run]]]:
    """Runs as many at a time as there are cores."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        yield pool.submit
        pool.shutdown(cancel_futures=True)


@pytest.fixture(scope="module")
def runs(
    start: Callable[..., Future[Run]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Future[Run]]:
    folder = tmp_path_factory.mktemp("fuzz")
    return {
        driver: start(
            fuzz,
            driver,
            folder,
            build_fuzzers.NATIVE,
            RUNS.get(driver, RUNS_OTHERWISE),
            native_seeds.seeds_of(driver),
        )
        for driver in build_fuzzers.drivers()
    }


@pytest.fixture(scope="module")
def findings(
    runs: dict[str, Future[Run]],
    start: Callable[..., Future[Run]],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Future[Run]]:
    folder = tmp_path_factory.mktemp("defects")
    return {driver: start(fuzz_defect, driver, folder) for driver in DEFECTS}


def test_every_driver_has_seeds_and_a_defect_to_find() -> None:
    assert sorted(DEFECTS) == build_fuzzers.drivers()
    for driver in build_fuzzers.drivers():
        assert native_seeds.seeds_of(driver)


@pytest.mark.parametrize("driver", build_fuzzers.drivers())
def test_a_short_run_finds_nothing(driver: str, runs: dict[str, Future[Run]]) -> None:
    """One that finds something prints the input; what it prints last says where it was left."""
    done = runs[driver].result()
    assert done.returncode == 0, done.stdout[-6000:]
    assert f"Done {RUNS.get(driver, RUNS_OTHERWISE)} runs" in done.stdout


@pytest.mark.parametrize("driver", build_fuzzers.drivers())
def test_a_planted_defect_is_found(driver: str, findings: dict[str, Future[Run]]) -> None:
    done = findings[driver].result()
    assert done.returncode != 0, f"not found in {RUNS_TO_FIND} runs"
    assert any(report in done.stdout for report in REPORTS), done.stdout[-6000:]
    assert "Test unit written to" in done.stdout
