"""Every function of the native core has a test that runs under sanitizers, and a fuzz driver if it reads tables or bytes
that came from elsewhere. The table says which; it must name all functions and only what is there."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import NamedTuple

import build_fuzzers
import build_native
import pytest

from replicator._native import lib

ROOT = Path(__file__).parents[2]
FUNCTION = re.compile(r"^[a-z][\w \*]*?\b(rp_\w+)\(([^;]*)\);", re.MULTILINE)
#: Arguments that are a table or bytes of somebody else's making.
FOREIGN = re.compile(r"const (uint8_t|uint64_t|struct rp_segment|struct rp_mapping) \*")
#: Sources that are no part of the module, and the sanitized tests that run them.
BESIDE_THE_MODULE = {"preload.c": ("tests/memory/test_trackers.py", "preloaded")}

BITMAP, PAGES = "tests/memory/test_bitmap.py", "tests/memory/test_pages.py"
TRACKERS, BOUNDS = "tests/memory/test_trackers.py", "tests/memory/test_native_bounds.py"
INJECTION, OWN_UFFD = "tests/memory/test_injection.py", "tests/native/test_own_uffd.py"
ENTRIES, PLACES = "tests/wire/test_entries.py", "tests/native/test_entry_places.py"
COMPRESSION = "tests/wire/test_legacy_compression.py"


class Proof(NamedTuple):
    """The test, a word of it by which the function is reached, and the driver ("": it reads nothing foreign)."""

    test: str
    word: str
    driver: str = ""


PROOFS = {
    "rp_bitmap_create": Proof(BITMAP, "DirtyBitmap(", "bitmap"),
    "rp_bitmap_destroy": Proof(BITMAP, "DirtyBitmap(", "bitmap"),
    "rp_bitmap_words": Proof(BITMAP, ".words(", "bitmap"),
    "rp_bitmap_count": Proof(BITMAP, ".count(", "bitmap"),
    "rp_bitmap_set_range": Proof(BITMAP, "set_range(", "bitmap"),
    "rp_bitmap_clear_range": Proof(BITMAP, "bitmap.clear(", "bitmap"),
    "rp_bitmap_set_list": Proof(BITMAP, "set_pfns(", "bitmap"),
    "rp_bitmap_test": Proof(BITMAP, " in ", "bitmap"),
    "rp_bitmap_merge": Proof(BITMAP, "merge(", "bitmap"),
    "rp_bitmap_subtract": Proof(BITMAP, "subtract(", "bitmap"),
    "rp_bitmap_next_run": Proof(BITMAP, "runs(", "bitmap"),
    "rp_bitmap_list": Proof(BITMAP, "pfns(", "bitmap"),
    "rp_bitmap_read_and_clear": Proof(BITMAP, "read_and_clear(", "bitmap"),
    "rp_bitmap_take": Proof(BITMAP, "take(", "bitmap"),
    "rp_layout_create": Proof(PAGES, "GuestLayout(", "layout"),
    "rp_layout_destroy": Proof(PAGES, "GuestLayout(", "layout"),
    "rp_layout_pfn_limit": Proof(PAGES, "pfn_limit", "layout"),
    "rp_layout_file_pages": Proof(PAGES, "file_bytes", "layout"),
    "rp_layout_find": Proof(PAGES, "file_page(", "layout"),
    "rp_layout_mark": Proof(BOUNDS, "rp_layout_mark(", "layout"),
    "rp_ram_create": Proof(PAGES, "make_ram(", "ram"),
    "rp_ram_destroy": Proof(PAGES, "close(", "ram"),
    "rp_ram_layout": Proof(TRACKERS, "ShadowTracker(", "ram"),
    "rp_ram_base": Proof(TRACKERS, "ShadowTracker(", "ram"),
    "rp_ram_check": Proof(PAGES, "check_frames(", "ram"),
    "rp_ram_gather": Proof(PAGES, "gather(", "ram"),
    "rp_ram_scatter": Proof(PAGES, "scatter(", "ram"),
    "rp_ram_zero_mask": Proof(PAGES, "zero_mask(", "ram"),
    "rp_zero_mask": Proof(PAGES, "zero_mask(", "ram"),
    "rp_shadow_create": Proof(TRACKERS, "ShadowTracker(", "ram"),
    "rp_shadow_destroy": Proof(BOUNDS, "shadow.close(", "ram"),
    "rp_shadow_scan": Proof(TRACKERS, "ShadowTracker(", "ram"),
    "rp_uffd_open": Proof(OWN_UFFD, "open_own_uffd("),
    "rp_uffd_enable": Proof(TRACKERS, "UffdTracker("),
    "rp_uffd_register": Proof(BOUNDS, "rp_uffd_register(", "scanner"),
    "rp_scanner_create": Proof(BOUNDS, "rp_scanner_create(", "scanner"),
    "rp_scanner_destroy": Proof(TRACKERS, "UffdTracker(", "scanner"),
    "rp_scanner_scan": Proof(TRACKERS, ".scan(", "scanner"),
    "rp_inject_uffd": Proof(INJECTION, "rp_inject_uffd("),
    "rp_entries_survey": Proof(ENTRIES, "survey(", "entries"),
    "rp_entries_mark": Proof(ENTRIES, "mark_kinds(", "entries"),
    "rp_entries_with_data": Proof(ENTRIES, "with_data(", "entries"),
    "rp_entries_locate": Proof(PLACES, "locate_pages(", "entries"),
    "rp_entries_find": Proof(ENTRIES, "find_pfn(", "entries"),
    "rp_pages_find": Proof(ENTRIES, "find_page(", "page_search"),
    "rp_entries_from_legacy": Proof(PLACES, "from_legacy(", "legacy_batch"),
    "rp_page_unpack": Proof(COMPRESSION, "unpack_page(", "unpack"),
}


def declared() -> dict[str, str]:
    """Function -> its parameters, of all headers that Python sees."""
    text = "\n".join(build_native.read_declarations(header) for header in build_native.HEADERS)
    return {name: " ".join(parameters.split()) for name, parameters in FUNCTION.findall(text)}


@pytest.fixture(scope="module")
def sanitized_tests() -> list[Path]:
    """The files that `make native-test` hands to pytest."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    printed = subprocess.check_output(
        ["make", "-o", "venv", "-n", "native-test"], cwd=ROOT, env=clean, text=True
    )
    named = [ROOT / word for word in printed.split() if word.startswith("tests/")]
    return [file for path in named for file in ([path] if path.is_file() else path.rglob("test_*.py"))]


def test_the_headers_are_what_the_module_has() -> None:
    assert set(declared()) == {name for name in dir(lib) if name.startswith("rp_")}


def test_the_table_names_every_function_and_no_other() -> None:
    assert set(PROOFS) == set(declared())


def test_every_source_is_in_the_module_or_has_its_test(sanitized_tests: list[Path]) -> None:
    sources = {path.name for path in build_native.NATIVE.glob("*.c")}
    assert sources == {*build_native.SOURCES, *BESIDE_THE_MODULE}
    for test, word in BESIDE_THE_MODULE.values():
        assert ROOT / test in sanitized_tests
        assert word in (ROOT / test).read_text()


@pytest.mark.parametrize("name", PROOFS)
def test_a_sanitized_test_reaches_the_function(name: str, sanitized_tests: list[Path]) -> None:
    proof = PROOFS[name]
    assert ROOT / proof.test in sanitized_tests, "make native-test does not run it: see NATIVE_TESTS"
    assert proof.word in (ROOT / proof.test).read_text()


@pytest.mark.parametrize("name", PROOFS)
def test_what_reads_foreign_tables_is_fuzzed(name: str) -> None:
    driver = PROOFS[name].driver
    if driver:
        assert f"{name}(" in (build_fuzzers.HERE / f"fuzz_{driver}.c").read_text()
    else:
        assert not FOREIGN.search(declared()[name]), "it needs a driver in native/fuzz/"


def test_every_driver_is_named() -> None:
    assert {proof.driver for proof in PROOFS.values() if proof.driver} == set(build_fuzzers.drivers())
