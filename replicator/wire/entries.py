"""Tables of page entries, as a whole: what types they hold, how high they reach, which come with a page.

A face of the native core, for a table may have 16 million entries and an ordinary stream a million. A table is
the bytes of little endian u64s, wherever they lie in the stream; `entries` are the same as `array('Q')`.
"""

from __future__ import annotations

from array import array
from mmap import mmap
from typing import NamedTuple

from replicator._native import ffi, lib
from replicator.errors import require
from replicator.units import PAGE_SIZE
from replicator.wire import layout
from replicator.wire.layout import Buffer, PageType


class EntrySurvey(NamedTuple):
    """What a table holds."""

    #: How many entries there are of each of the 16 type numbers.
    counts: tuple[int, ...]
    #: Entries that come with a page.
    data_pages: int
    #: The highest pfn, 0 of an empty table.
    pfn_max: int
    #: Reserved bits (59-52) that are set in some entry.
    reserved: int
    #: The lowest reserved type number (5 to 8) that an entry has; 0 when none has one.
    reserved_type: int
    #: Each pfn is above the one before it, so that none comes twice.
    ascends: bool

    @property
    def page_tables(self) -> int:
        """Entries of page tables, plain and pinned; only a PV guest has them."""
        return self.data_pages - self.counts[PageType.NOTAB]


def survey(table: Buffer) -> EntrySurvey:
    """Count and bound the entries of a table."""
    result = ffi.new("struct rp_entry_survey *")
    lib.rp_entries_survey(ffi.from_buffer(table), len(table) // layout.U64_BYTES, result)
    counts = tuple(ffi.unpack(result.counts, 16))
    return EntrySurvey(
        counts,
        result.data_pages,
        result.pfn_max,
        result.reserved,
        result.reserved_type,
        bool(result.ascends),
    )


def mark_kinds(entries: array[int], kinds: bytearray | mmap) -> None:
    """Set kinds[pfn] to type + 1 for each entry, in order; every pfn is below len(kinds)."""
    table = ffi.from_buffer("uint64_t[]", entries)
    target = ffi.from_buffer("uint8_t[]", kinds, require_writable=True)
    code = lib.rp_entries_mark(table, len(entries), target, len(kinds))
    require(code == 0, "a page entry beyond the table of kinds")


def with_data(entries: array[int]) -> array[int]:
    """The entries that come with a page, in order."""
    found = array("Q", bytes(len(entries) * layout.U64_BYTES))
    count = lib.rp_entries_with_data(
        ffi.from_buffer("uint64_t[]", entries),
        len(entries),
        ffi.from_buffer("uint64_t[]", found, require_writable=True),
    )
    del found[count:]
    return found


def from_legacy(batch: Buffer, width: int) -> array[int]:
    """The entries of a legacy page batch (u32s or u64s, by `width`) without its unmapped slots. ValueError when
    one has bits that no such entry has."""
    count = len(batch) // width
    entries = array("Q", bytes(count * layout.U64_BYTES))
    target = ffi.from_buffer("uint64_t[]", entries, require_writable=True)
    written = lib.rp_entries_from_legacy(ffi.from_buffer(batch), count, width, target)
    ffi.release(target)
    if written < 0:
        raise ValueError("a page entry with more than 32 bits")
    del entries[written:]
    return entries


def locate_pages(entries: array[int], offset: int, offsets: array[int]) -> None:
    """Set offsets[pfn] to where the page of each entry lies that has one, when the first lies at `offset`; every
    pfn is below len(offsets)."""
    table = ffi.from_buffer("uint64_t[]", entries)
    target = ffi.from_buffer("uint64_t[]", offsets, require_writable=True)
    code = lib.rp_entries_locate(table, len(entries), offset, target, len(offsets))
    require(code == 0, "a page entry beyond the table of offsets")


def find_pfn(entries: array[int], pfn: int) -> int | None:
    """Index of the first entry with this pfn."""
    count = len(entries)
    found = int(lib.rp_entries_find(ffi.from_buffer("uint64_t[]", entries), count, pfn))
    return found if found < count else None


def pfns_of(entries: array[int]) -> array[int]:
    """The pfn of each entry, types cut off."""
    return array("Q", (entry & layout.ENTRY_PFN_MASK for entry in entries))


def find_page(pages: Buffer, first: int, start: bytes) -> int | None:
    """Index of the first page, from page `first` on, that starts with these bytes."""
    count = len(pages) // PAGE_SIZE
    found = int(lib.rp_pages_find(ffi.from_buffer(pages), count, first, start, len(start)))
    return found if found < count else None
