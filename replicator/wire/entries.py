"""Tables of page entries, as a whole: what types they hold, how high they reach, which come with a page.

A face of the native core, for a table may have 16 million entries and an ordinary stream a million. A table is
the bytes of little endian u64s, wherever they lie in the stream; `entries` are the same as `array('Q')`.
"""

from __future__ import annotations

from array import array
from typing import NamedTuple

from replicator._native import ffi, lib
from replicator.errors import require
from replicator.units import PAGE_SIZE
from replicator.wire import layout
from replicator.wire.layout import Buffer, PageType

#: Type numbers that no entry may have.
_RESERVED_TYPES = tuple(range(PageType.L4TAB + 1, PageType.L1TAB_PINNED))


class EntrySurvey(NamedTuple):
    """What a table holds."""

    #: How many entries there are of each of the 16 type numbers.
    counts: tuple[int, ...]
    #: The highest pfn, 0 of an empty table.
    pfn_max: int
    #: Reserved bits (59-52) that are set in some entry.
    reserved: int

    @property
    def data_pages(self) -> int:
        """Entries that come with a page."""
        return sum(self.counts) - sum(self.counts[PageType.BROKEN :])

    @property
    def page_tables(self) -> int:
        """Entries of page tables, plain and pinned; only a PV guest has them."""
        return self.data_pages - self.counts[PageType.NOTAB]

    @property
    def reserved_type(self) -> int | None:
        """The lowest reserved type number that an entry has, or None."""
        return next((kind for kind in _RESERVED_TYPES if self.counts[kind]), None)


def survey(table: Buffer) -> EntrySurvey:
    """Count and bound the entries of a table."""
    result = ffi.new("struct rp_entry_survey *")
    lib.rp_entries_survey(ffi.from_buffer(table), len(table) // layout.U64_BYTES, result)
    return EntrySurvey(tuple(ffi.unpack(result.counts, 16)), result.pfn_max, result.reserved)


def mark_kinds(entries: array[int], kinds: bytearray) -> None:
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


def pfns_of(entries: array[int]) -> array[int]:
    """The pfn of each entry, types cut off."""
    return array("Q", (entry & layout.ENTRY_PFN_MASK for entry in entries))


def find_page(pages: Buffer, first: int, start: bytes) -> int | None:
    """Index of the first page, from page `first` on, that starts with these bytes."""
    count = len(pages) // PAGE_SIZE
    found = int(lib.rp_pages_find(ffi.from_buffer(pages), count, first, start, len(start)))
    return found if found < count else None
