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
SPARSE = "tests/memory/test_sparse.py"
TRACKERS, BOUNDS = "tests/memory/test_trackers.py", "tests/memory/test_native_bounds.py"
INJECTION, OWN_UFFD = "tests/memory/test_injection.py", "tests/native/test_own_uffd.py"
ENTRIES, PLACES = "tests/wire/test_entries.py", "tests/native/test_entry_places.py"
COMPRESSION = "tests/wire/test_legacy_compression.py"
MODELS, RELAY = "tests/output/test_native_models.py", "tests/output/test_relay_live.py"
NATIVE_RELAY = "tests/output/test_native_relay_live.py"
SIMD, BASES = "tests/memory/test_simd.py", "tests/memory/test_bases.py"
ENCODINGS = "tests/memory/test_encodings.py"
SHIFTS = "tests/output/test_native_shifts.py"
MESSAGES, FAST = "tests/output/test_frame_message.py", "tests/output/test_fast_path.py"
STEADY = "tests/engine/compare/test_compare_steady.py"


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
    "rp_layout_segment": Proof(PAGES, "file_page(", "layout"),
    "rp_layout_mark": Proof(BOUNDS, "rp_layout_mark(", "layout"),
    "rp_ram_create": Proof(PAGES, "make_ram(", "ram"),
    "rp_ram_destroy": Proof(PAGES, "close(", "ram"),
    "rp_ram_layout": Proof(TRACKERS, "ShadowTracker(", "ram"),
    "rp_ram_base": Proof(TRACKERS, "ShadowTracker(", "ram"),
    "rp_ram_page": Proof(ENCODINGS, "decode_pages(", "ram"),
    "rp_ram_check": Proof(PAGES, "check_frames(", "ram"),
    "rp_ram_gather": Proof(PAGES, "gather(", "ram"),
    "rp_ram_scatter": Proof(PAGES, "scatter(", "ram"),
    "rp_ram_zero_mask": Proof(PAGES, "zero_mask(", "ram"),
    "rp_zero_mask": Proof(PAGES, "zero_mask(", "ram"),
    "rp_ram_find_absent": Proof(SPARSE, "find_absent(", "ram"),
    "rp_ram_gather_present": Proof(SPARSE, "gather_present(", "ram"),
    "rp_ram_fill": Proof(SPARSE, "ram.fill(", "ram"),
    "rp_prints_create": Proof(TRACKERS, "Fingerprints(", "ram"),
    "rp_prints_destroy": Proof(TRACKERS, "Fingerprints(", "ram"),
    "rp_prints_scan": Proof(TRACKERS, "Fingerprints(", "ram"),
    "rp_shadow_create": Proof(TRACKERS, "ShadowTracker(", "ram"),
    "rp_shadow_destroy": Proof(BOUNDS, "shadow.close(", "ram"),
    "rp_shadow_scan": Proof(TRACKERS, "ShadowTracker(", "ram"),
    "rp_shadow_absorb": Proof(TRACKERS, "shadow.absorb(", "ram"),
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
    "rp_simd_levels": Proof(SIMD, "LEVELS", "decode_pages"),
    "rp_simd_level": Proof(SIMD, "rp_simd_level(", "decode_pages"),
    "rp_simd_force": Proof(SIMD, "rp_simd_force(", "decode_pages"),
    "rp_page_is_zero": Proof(SIMD, "rp_page_is_zero(", "decode_pages"),
    "rp_page_diff": Proof(SIMD, "rp_page_diff(", "decode_pages"),
    "rp_hold_create": Proof(MODELS, "NativeHold("),
    "rp_hold_destroy": Proof(MODELS, "NativeHold("),
    "rp_hold_add": Proof(MODELS, "side.hold("),
    "rp_hold_count_lost": Proof(MODELS, "count_lost("),
    "rp_hold_inject": Proof(MODELS, "side.inject("),
    "rp_hold_mark_barrier": Proof(MODELS, "mark_barrier("),
    "rp_hold_release": Proof(MODELS, "side.release("),
    "rp_hold_set_mode": Proof(MODELS, "set_mode("),
    "rp_hold_discard": Proof(MODELS, "side.discard("),
    "rp_hold_next_leaving": Proof(MODELS, "next_leaving("),
    "rp_hold_mark_left": Proof(MODELS, "mark_left("),
    "rp_hold_is_full": Proof(MODELS, "side.full"),
    "rp_hold_count": Proof(MODELS, "side.counters("),
    "rp_inputs_create": Proof(MODELS, "NativeInputs("),
    "rp_inputs_destroy": Proof(MODELS, "NativeInputs("),
    "rp_inputs_has_room": Proof(MODELS, "has_room("),
    "rp_inputs_accept": Proof(MODELS, "side.accept("),
    "rp_inputs_peek": Proof(MODELS, "side.deliver("),
    "rp_inputs_mark_given": Proof(MODELS, "side.deliver("),
    "rp_inputs_mark_refused": Proof(MODELS, "side.deliver("),
    "rp_inputs_wants_look": Proof(MODELS, "side.deliver("),
    "rp_inputs_prune": Proof(MODELS, "side.deliver("),
    "rp_inputs_hold": Proof(MODELS, '"hold"'),
    "rp_inputs_note_unread": Proof(MODELS, '"note_unread"'),
    "rp_inputs_note_stop": Proof(MODELS, '"note_stop"'),
    "rp_inputs_doubtful": Proof(MODELS, "doubtful("),
    "rp_inputs_resume": Proof(MODELS, '"resume"'),
    "rp_inputs_forget_given": Proof(MODELS, "forget_given("),
    "rp_inputs_count": Proof(MODELS, "native.counts("),
    "rp_book_init": Proof(MODELS, "NativeBook(", "relay_book"),
    "rp_book_learn": Proof(MODELS, "learn_output(", "relay_book"),
    "rp_deadline_store": Proof(RELAY, "SharedDeadline("),
    "rp_deadline_load": Proof(RELAY, "SharedDeadline("),
    "rp_relay_create": Proof(NATIVE_RELAY, "NativeRelay("),
    "rp_relay_set_nic": Proof(NATIVE_RELAY, "relay.start("),
    "rp_relay_start": Proof(NATIVE_RELAY, "relay.start("),
    "rp_relay_hurry": Proof(NATIVE_RELAY, "urgency.PRIORITY"),
    "rp_relay_stop": Proof(NATIVE_RELAY, "relay.stop("),
    "rp_relay_destroy": Proof(NATIVE_RELAY, "NativeRelay("),
    "rp_relay_abort": Proof(NATIVE_RELAY, "a_callback_that_fails"),
    "rp_relay_hold_input": Proof(RELAY, "hold_input("),
    "rp_relay_quiesce_input": Proof(RELAY, "quiesce_input("),
    "rp_relay_drain_and_mark": Proof(RELAY, "drain_and_mark("),
    "rp_relay_copy_doubtful": Proof(NATIVE_RELAY, "doubtful("),
    "rp_relay_resume_input": Proof(RELAY, "resume_input("),
    "rp_relay_restart_inputs": Proof(RELAY, "restart_inputs("),
    "rp_relay_replay": Proof(RELAY, "replay("),
    "rp_relay_release": Proof(RELAY, "release("),
    "rp_relay_set_mode": Proof(RELAY, "set_mode("),
    "rp_relay_discard_output": Proof(RELAY, "discard_output("),
    "rp_relay_announce": Proof(RELAY, "announce("),
    "rp_relay_set_deadline": Proof(NATIVE_RELAY, "set_deadline("),
    "rp_relay_read_stats": Proof(RELAY, "stats("),
    "rp_relay_read_book": Proof(NATIVE_RELAY, "addresses("),
    "rp_relay_read_failure": Proof(NATIVE_RELAY, "relay has failed"),
    "rp_relay_take_news": Proof(NATIVE_RELAY, "heard.wait_for("),
    "rp_bases_create": Proof(BASES, "BaseCache(", "bases"),
    "rp_bases_destroy": Proof(BASES, "cache.close(", "bases"),
    "rp_bases_find": Proof(BASES, "lookup(", "bases"),
    "rp_bases_update": Proof(BASES, "update(", "bases"),
    "rp_bases_drop": Proof(BASES, "cache.drop(", "bases"),
    "rp_bases_drop_all": Proof(BASES, "drop_all(", "bases"),
    "rp_bases_count": Proof(BASES, "counts(", "bases"),
    "rp_tcp_read": Proof(SHIFTS, "rp_tcp_read(", "shift_table"),
    "rp_tcp_read_options": Proof(SHIFTS, "rp_tcp_read_options(", "shift_table"),
    "rp_shift_input": Proof(SHIFTS, "rp_shift_input", "shift_table"),
    "rp_shift_output": Proof(SHIFTS, "rp_shift_output", "shift_table"),
    "rp_shift_table_create": Proof(SHIFTS, "NativeShiftTable(", "shift_table"),
    "rp_shift_table_destroy": Proof(SHIFTS, "NativeShiftTable(", "shift_table"),
    "rp_shift_table_count": Proof(SHIFTS, "len(native)", "shift_table"),
    "rp_shift_table_to_guest": Proof(SHIFTS, ".to_guest", "shift_table"),
    "rp_shift_table_from_guest": Proof(SHIFTS, ".from_guest", "shift_table"),
    "rp_shift_table_learn": Proof(SHIFTS, ".learn(", "shift_table"),
    "rp_shift_table_adopt": Proof(SHIFTS, ".adopt(", "shift_table"),
    "rp_shift_table_recent": Proof(SHIFTS, ".recent_of(", "shift_table"),
    "rp_shift_table_next_lasting": Proof(SHIFTS, ".export(", "shift_table"),
    "rp_shift_table_commit": Proof(SHIFTS, '"commit"', "shift_table"),
    "rp_shift_table_take_over": Proof(SHIFTS, ".take_over(", "shift_table"),
    "rp_shift_table_forget_lasting": Proof(SHIFTS, '"forget_lasting"', "shift_table"),
    "rp_steady_create": Proof(STEADY, "lends_steady=", "steady"),
    "rp_steady_destroy": Proof(STEADY, "lends_steady=", "steady"),
    "rp_steady_report": Proof(STEADY, "lends_steady=", "steady"),
    "rp_steady_put": Proof(STEADY, "a_connection_that_goes_on_is_lent", "steady"),
    "rp_steady_find": Proof(STEADY, "is_taken_back", "steady"),
    "rp_steady_find_late": Proof(STEADY, '"wait"', "steady"),
    "rp_steady_find_ahead": Proof(STEADY, '"commit"', "steady"),
    "rp_steady_commit": Proof(STEADY, '"commit"', "steady"),
    "rp_steady_drop": Proof(STEADY, "is_taken_back", "steady"),
    "rp_steady_say_primary": Proof(STEADY, '"primary", "next"', "steady"),
    "rp_steady_say_secondary": Proof(STEADY, '"secondary", "next"', "steady"),
    "rp_steady_note_input": Proof(STEADY, '"input"', "steady"),
    "rp_steady_confirm": Proof(STEADY, '"log"', "steady"),
    "rp_encode_bound": Proof(ENCODINGS, "encode_bound(", "decode_pages"),
    "rp_encode_pages": Proof(ENCODINGS, "encode_pages(", "decode_pages"),
    "rp_decode_pages": Proof(ENCODINGS, "decode_pages(", "decode_pages"),
    "rp_message_read": Proof(MESSAGES, "rp_message_read(", "frame_message"),
    "rp_message_write": Proof(MESSAGES, "rp_message_write(", "frame_message"),
    "rp_fast_create": Proof(FAST, "FastPath("),
    "rp_fast_destroy": Proof(FAST, "FastPath("),
    "rp_fast_set_nic": Proof(FAST, "path.run("),
    "rp_fast_run": Proof(FAST, "path.run("),
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
