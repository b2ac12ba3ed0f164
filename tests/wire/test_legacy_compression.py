"""Packed pages of compressed checkpoints: the native core against plain Python, at any split, within bounds."""

from __future__ import annotations

import random
import traceback
from array import array
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from legacy_maker import pack_page

from replicator.errors import BadRecord, RecordTooLarge
from replicator.limits import LEGACY_PENDING_ENTRIES_MAX
from replicator.units import PAGE_SIZE
from replicator.wire import layout
from replicator.wire.layout import PageType
from replicator.wire.legacy.bases import MemoryBases
from replicator.wire.legacy.compression import GROUP_ENTRIES, MalformedPage, PageRebuilder, unpack_page
from replicator.wire.records import PageRun, PageTable, Place

PLACE = Place(77, "legacy chunk")
WORDS = PAGE_SIZE // 4


def unpack_reference(packed: bytes, base: bytes) -> tuple[bytes, int] | None:
    """The page and the size of its packed form; None when more bytes are needed; MalformedPage."""
    if packed[:1] == b"\0":
        return base, 1
    if packed[:1] == b"\x80":
        return (packed[1 : 1 + PAGE_SIZE], 1 + PAGE_SIZE) if len(packed) > PAGE_SIZE else None
    page, at = b"", 0
    while len(page) < PAGE_SIZE:
        if at >= len(packed):
            return None
        skips, words = divmod(packed[at], 0x80)
        run = base[len(page) :] if skips else packed[at + 1 :]
        if words == 0 or len(page) + words * 4 > PAGE_SIZE:
            raise MalformedPage
        at += 1 + (0 if skips else words * 4)
        page += run[: words * 4].ljust(words * 4)
    return (page, at) if at <= len(packed) else None


def compare(packed: bytes, base: bytes) -> None:
    """Both give the same, and the native core touches the page only when it is whole."""
    page = bytearray(base)
    try:
        expected = unpack_reference(packed, base)
    except MalformedPage:
        with pytest.raises(MalformedPage):
            unpack_page(packed, memoryview(page))
        assert page == base
        return
    consumed = unpack_page(packed, memoryview(page))
    assert (bytes(page), consumed) == (expected or (base, None))


pages = st.builds(lambda seed: random.Random(seed).randbytes(PAGE_SIZE), st.integers(0, 1 << 32))
#: Runs that fill a page, or nearly.
markers = st.lists(st.one_of(st.integers(0, 255), st.sampled_from([0x7F, 0xFF, 0x01, 0x81])), max_size=60)


@st.composite
def runs(draw: st.DrawFn) -> bytes:
    """Mostly a packed page of runs, which may be too long or cut."""
    packed, filled = b"", 0
    for marker in draw(markers):
        words = marker & 0x7F
        if filled + words > WORDS and draw(st.booleans()):
            marker, words = marker & 0x80 | WORDS - filled, WORDS - filled
        packed += bytes([marker]) + (b"" if marker & 0x80 else bytes([marker]) * words * 4)
        filled += words
        if filled >= WORDS:
            break
    return packed[: draw(st.one_of(st.just(len(packed)), st.integers(0, len(packed))))]


@given(st.one_of(runs(), st.binary(max_size=50)), pages)
@settings(max_examples=300)
def test_any_bytes_unpack_as_in_plain_python(packed: bytes, base: bytes) -> None:
    compare(packed, base)


@given(pages, pages, st.integers(0, 1 << 32), st.integers(0, PAGE_SIZE))
@settings(max_examples=100)
def test_what_was_packed_is_the_page_again(old: bytes, new: bytes, seed: int, same: int) -> None:
    """Whatever the two pages have in common; and cut short it needs more bytes."""
    new = old[:same] + new[same:]
    rng = random.Random(seed)
    packed = pack_page(rng.choice([old, None]), new, rng)
    page = bytearray(old)
    assert unpack_page(packed + b"behind", memoryview(page)) == len(packed)
    assert page == new
    compare(packed[: rng.randrange(len(packed))], old)


def test_an_error_keeps_no_buffer() -> None:
    """The garbage collector of CPython 3.11 dies of a memoryview that is exported by something in its cycle."""
    with pytest.raises(MalformedPage) as caught:
        unpack_page(b"\xff\x80", memoryview(bytearray(PAGE_SIZE)))
    frames = [frame for frame, _ in traceback.walk_tb(caught.value.__traceback__)]
    frames[-1].f_locals["page"].release()


def test_the_longest_packed_page_is_as_long_as_the_bound() -> None:
    packed = b"\x01word" * WORDS
    assert len(packed) == layout.LEGACY_PACKED_BYTES_MAX
    assert unpack_page(packed, memoryview(bytearray(PAGE_SIZE))) == len(packed)


# Rebuilding


def rebuild(rebuilder: PageRebuilder, pieces: Iterable[bytes]) -> list[tuple[list[int], bytes]]:
    """Entries and pages of each table that comes out of these packed pages and the end of the checkpoint."""
    found: list[tuple[list[int], bytes]] = []
    steps = [rebuilder.unpack(piece, PLACE) for piece in pieces] + [rebuilder.finish(PLACE)]
    for step in steps:
        for part in step:
            if isinstance(part, PageTable):
                assert (part.first, part.count) == (0, len(part.entries))
                found.append((list(part.entries), b""))
            elif isinstance(part, PageRun):
                found[-1] = (found[-1][0], bytes(part.pages))
    return found


def entry(pfn: int, kind: PageType = PageType.NOTAB) -> int:
    return kind << layout.ENTRY_TYPE_SHIFT | pfn


@given(st.lists(st.integers(0, 20_000), max_size=12), st.integers(0, 1 << 32))
@settings(max_examples=100)
def test_where_packed_pages_are_cut_changes_nothing(cuts: list[int], seed: int) -> None:
    rng = random.Random(seed)
    kinds = [rng.choice([PageType.NOTAB, PageType.L1TAB, PageType.XTAB, PageType.BROKEN]) for _ in range(30)]
    entries = array("Q", [entry(pfn % 11, kind) for pfn, kind in enumerate(kinds)])
    memory: dict[int, bytes] = {}
    packed, expected = b"", b""
    for each in entries:
        if each >> layout.ENTRY_TYPE_SHIFT < PageType.BROKEN:
            pfn = each & layout.ENTRY_PFN_MASK
            old = memory.get(pfn, bytes(PAGE_SIZE))
            memory[pfn] = old[:2000] + rng.randbytes(8) + old[2008:]
            packed += pack_page(old, memory[pfn], rng)
            expected += memory[pfn]
    offsets = [0, *sorted(cut % (len(packed) + 1) for cut in cuts), len(packed)]
    bases = MemoryBases()
    rebuilder = PageRebuilder(bases)
    rebuilder.add(entries, PLACE)
    found = rebuild(rebuilder, [packed[a:b] for a, b in pairwise(offsets)])
    assert [each for table, _ in found for each in table] == list(entries)
    assert b"".join(data for _, data in found) == expected
    assert all(bases.load(pfn) == page for pfn, page in memory.items())


def test_tables_are_bounded_also_of_entries_without_pages() -> None:
    rebuilder = PageRebuilder(MemoryBases())
    count = 3 * GROUP_ENTRIES + 1
    rebuilder.add(array("Q", [entry(pfn, PageType.XTAB) for pfn in range(count)]), PLACE)
    assert [len(table) for table, _ in rebuild(rebuilder, [])] == 3 * [GROUP_ENTRIES] + [1]


def test_a_page_that_never_came_is_zeros() -> None:
    rebuilder = PageRebuilder(MemoryBases())
    rebuilder.add(array("Q", [entry(3)]), PLACE)
    assert rebuild(rebuilder, [b"\0"]) == [([3], bytes(PAGE_SIZE))]


def test_a_group_handed_out_before_a_page_is_whole_does_not_harm_it() -> None:
    bases = MemoryBases()
    bases.keep_rebuilt(5, b"5" * PAGE_SIZE)
    rebuilder = PageRebuilder(bases)
    rebuilder.add(array("Q", [entry(4), entry(5)]), PLACE)
    assert list(rebuilder.unpack(b"\0\xff", PLACE)) == []
    table, run = rebuilder.flush()
    assert isinstance(table, PageTable)
    assert isinstance(run, PageRun)
    ((_, page),) = rebuild(rebuilder, [b"\xff" * 7 + b"\x88"])
    assert page == b"5" * PAGE_SIZE


def test_the_entries_that_wait_are_bounded() -> None:
    rebuilder = PageRebuilder(MemoryBases())
    rebuilder.add(array("Q", range(LEGACY_PENDING_ENTRIES_MAX)), PLACE)
    with pytest.raises(RecordTooLarge, match="entries wait") as caught:
        rebuilder.add(array("Q", [1]), PLACE)
    assert (caught.value.offset, caught.value.record) == PLACE


def test_pages_of_one_checkpoint_are_not_those_of_the_next() -> None:
    rebuilder = PageRebuilder(MemoryBases())
    for pfn in (1, 2):
        rebuilder.add(array("Q", [entry(pfn)]), PLACE)
        assert rebuild(rebuilder, [b"\0"]) == [([pfn], bytes(PAGE_SIZE))]
    with pytest.raises(BadRecord, match="more data"):
        rebuild(rebuilder, [b"\0"])
