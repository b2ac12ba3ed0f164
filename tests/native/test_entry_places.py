"""Entries of page tables, where the tests of the formats seldom come: places of pages, reserved types, refusals. They
run under sanitizers too."""

from __future__ import annotations

import errno
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator._native import ffi, lib
from replicator.errors import InvariantError
from replicator.units import PAGE_SIZE
from replicator.wire import entries as tables

FRAMES = 64
UNTOUCHED = 2**64 - 1
small_entries = st.lists(
    st.tuples(st.integers(0, 15), st.integers(0, FRAMES - 1)).map(lambda pair: pair[0] << 60 | pair[1]),
    max_size=100,
).map(lambda values: array("Q", values))


@given(small_entries, st.integers(0, 2**40))
def test_pages_lie_one_behind_the_other(entries: array[int], offset: int) -> None:
    offsets = array("Q", [UNTOUCHED] * FRAMES)
    tables.locate_pages(entries, offset, offsets)
    expected = [UNTOUCHED] * FRAMES
    with_page = [entry & (FRAMES - 1) for entry in entries if entry >> 60 < 0xD]
    for index, pfn in enumerate(with_page):
        expected[pfn] = offset + index * PAGE_SIZE
    assert list(offsets) == expected


def test_a_place_of_a_frame_beyond_the_table_writes_nothing() -> None:
    offsets = array("Q", [UNTOUCHED] * 8)
    with pytest.raises(InvariantError):
        tables.locate_pages(array("Q", [3, 8]), 0, offsets)
    assert list(offsets) == [UNTOUCHED] * 8


@pytest.mark.parametrize("kinds", [(5,), (8, 6), (7, 8, 15), (4, 9)])
def test_the_lowest_reserved_type_is_told(kinds: tuple[int, ...]) -> None:
    table = array("Q", [kind << 60 | pfn for pfn, kind in enumerate(kinds)]).tobytes()
    assert tables.survey(table).reserved_type == min((kind for kind in kinds if 5 <= kind <= 8), default=0)


@pytest.mark.parametrize("width", [0, 1, 2, 3, 5, 16])
def test_a_batch_of_another_width_is_refused_unread(width: int) -> None:
    assert lib.rp_entries_from_legacy(ffi.NULL, 1, width, ffi.NULL) == -errno.EINVAL


def test_a_wide_entry_with_high_bits_is_refused() -> None:
    with pytest.raises(ValueError, match="more than 32 bits"):
        tables.from_legacy(array("Q", [1, 1 << 32]).tobytes(), 8)
