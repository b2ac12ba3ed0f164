"""Tables of entries: the native core against the same in plain Python."""

from __future__ import annotations

from array import array
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import InvariantError
from replicator.units import PAGE_SIZE
from replicator.wire import entries as tables

raw_entries = st.lists(st.integers(0, (1 << 64) - 1), max_size=200).map(lambda values: array("Q", values))
small_entries = st.lists(
    st.tuples(st.integers(0, 15), st.integers(0, 63)).map(lambda pair: pair[0] << 60 | pair[1]), max_size=100
).map(lambda values: array("Q", values))


def has_data(entry: int) -> bool:
    return entry >> 60 < 0xD


@given(raw_entries, st.integers(0, 7))
def test_survey(entries: array[int], shift: int) -> None:
    """At any alignment: an xl header may have any length."""
    table = (bytes(shift) + entries.tobytes())[shift:]
    survey = tables.survey(memoryview(bytes(shift) + table)[shift:])
    assert survey.counts == tuple(sum(entry >> 60 == kind for entry in entries) for kind in range(16))
    assert survey.data_pages == sum(map(has_data, entries))
    assert survey.pfn_max == max((entry & ((1 << 52) - 1) for entry in entries), default=0)
    reserved = 0
    for entry in entries:
        reserved |= entry & (0xFF << 52)
    assert survey.reserved == reserved
    kinds = [entry >> 60 for entry in entries if 5 <= entry >> 60 <= 8]
    assert survey.reserved_type == min(kinds, default=0)
    pfns = [entry & ((1 << 52) - 1) for entry in entries]
    assert survey.ascends == all(one < other for one, other in pairwise(pfns))
    assert survey.page_tables == sum(has_data(entry) and entry >> 60 != 0 for entry in entries)


@given(small_entries)
def test_mark_kinds(entries: array[int]) -> None:
    kinds = bytearray(64)
    tables.mark_kinds(entries, kinds)
    expected = bytearray(64)
    for entry in entries:
        expected[entry & 63] = (entry >> 60) + 1
    assert kinds == expected


def test_mark_kinds_writes_nothing_beyond() -> None:
    kinds = bytearray(8)
    with pytest.raises(InvariantError):
        tables.mark_kinds(array("Q", [3, 8]), kinds)
    assert kinds == bytes(8)


@given(raw_entries)
def test_with_data_and_pfns(entries: array[int]) -> None:
    assert list(tables.with_data(entries)) == [entry for entry in entries if has_data(entry)]
    assert list(tables.pfns_of(entries)) == [entry & ((1 << 52) - 1) for entry in entries]


@given(small_entries, st.integers(0, 63))
def test_find_pfn(entries: array[int], pfn: int) -> None:
    expected = next((index for index, entry in enumerate(entries) if entry & 63 == pfn), None)
    assert tables.find_pfn(entries, pfn) == expected


@given(st.lists(st.sampled_from([b"xen-3.0", b"xen-2", b"\0"]), max_size=6), st.integers(0, 7))
def test_find_page(starts: list[bytes], first: int) -> None:
    pages = b"".join(start.ljust(PAGE_SIZE, b"\0") for start in starts)
    found = next((i for i, start in enumerate(starts) if i >= first and start.startswith(b"xen-3.")), None)
    assert tables.find_page(pages, first, b"xen-3.") == found
