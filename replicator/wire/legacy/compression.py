"""Unpacks the pages of a compressed checkpoint, one at a time, and hands them out as PAGE_DATA.

Such a checkpoint lists its pages in batches without data; their packed forms come in chunks of their own, in the
same order, and may be cut anywhere between two of those. A packed page says what became of the page that stood
there before (native/compress.h), so this file asks `PageBases` for that one. Memory, whatever a chunk announces:
one group of pages, the start of a packed page whose rest is awaited, and the entries that wait for their pages.
How pages are grouped depends on the stream alone, never on the pieces in which it arrives.
"""

from __future__ import annotations

import errno
from array import array
from collections.abc import Iterator

from replicator._native import ffi, lib
from replicator.limits import LEGACY_PENDING_ENTRIES_MAX
from replicator.units import PAGE_SIZE
from replicator.wire import entries as tables
from replicator.wire import layout
from replicator.wire.layout import Buffer, PageType
from replicator.wire.legacy.bases import PageBases
from replicator.wire.legacy.tables import make_table
from replicator.wire.records import PageRun, PageTable, Place

#: Entries of the largest group, which is held until it is whole: 1 MiB of pages.
GROUP_ENTRIES = 256


class MalformedPage(ValueError):
    """Bytes that are no packed page."""


def unpack_page(packed: Buffer, page: memoryview) -> int | None:
    """Unpack the first page of `packed` onto `page`, in place; the bytes that its packed form had, or None (and
    nothing is unpacked) when more are needed. Raises MalformedPage."""
    consumed = ffi.new("size_t *")
    # Released here: a traceback that kept the two would hand the garbage collector a view that is still exported,
    # of which CPython 3.11 dies.
    with (
        ffi.from_buffer(packed) as source,
        ffi.from_buffer("uint8_t[]", page, require_writable=True) as target,
    ):
        code = lib.rp_page_unpack(source, len(packed), target, consumed)
    if code == -errno.EBADMSG:
        raise MalformedPage("runs that do not make up a page of 4096 bytes")
    return None if code else int(consumed[0])


class PageRebuilder:
    """The compressed checkpoints of one stream, one after the other."""

    def __init__(self, bases: PageBases) -> None:
        self._bases = bases
        # Entries in the order of the stream; those before `_at` are in a group or went out.
        self._entries: array[int] = array("Q")
        self._at = 0
        # The group, and the pages of its entries that have one.
        self._group: array[int] = array("Q")
        self._pages = memoryview(bytearray(layout.pages_bytes(GROUP_ENTRIES)))
        self._page_count = 0
        # The page behind those of the group holds what it is unpacked onto.
        self._is_based = False
        # Start of a packed page whose rest did not come yet.
        self._start = bytearray()

    def add(self, entries: array[int], place: Place) -> None:
        """Pages that are to come; RecordTooLarge when too many wait."""
        if self._at >= len(self._entries) // 2:
            # Only then, so that moving the rest costs no more than what went out.
            del self._entries[: self._at]
            self._at = 0
        waiting = len(self._entries) - self._at + len(entries)
        if waiting > LEGACY_PENDING_ENTRIES_MAX:
            raise place.too_large(
                f"{waiting} entries wait for compressed pages, at most {LEGACY_PENDING_ENTRIES_MAX} are allowed"
            )
        self._entries += entries

    def unpack(self, packed: bytes, place: Place) -> Iterator[PageTable | PageRun]:
        """Take packed pages; raises BadRecord when they are malformed or too many."""
        at = 0
        while at < len(packed):
            yield from self._pass_pageless()
            used, is_whole = self._unpack_next(memoryview(packed)[at:], place)
            at += used
            if is_whole:
                yield from self._move_entry()

    def flush(self) -> Iterator[PageTable | PageRun]:
        """Hand out the group as it is."""
        if not self._group:
            return
        entries, self._group = self._group, array("Q")
        count, self._page_count = self._page_count, 0
        self._is_based = False
        yield make_table(entries, tables.survey(layout.u64_bytes(entries)))
        if count:
            yield PageRun(tables.with_data(entries), self._pages[: layout.pages_bytes(count)])

    def finish(self, place: Place) -> Iterator[PageTable | PageRun]:
        """The checkpoint is over: hand out the rest. BadRecord when pages are missing."""
        yield from self._pass_pageless()
        missing = len(tables.with_data(self._entries[self._at :]))
        if missing:
            raise place.bad(f"{missing} of the listed pages did not come")
        yield from self.flush()

    def _unpack_next(self, packed: memoryview, place: Place) -> tuple[int, bool]:
        """Unpack the page of the next entry: how many of the bytes were used, and whether the page is whole."""
        page = self._base_page(place)
        held = len(self._start)
        if held:
            self._start += packed[: layout.LEGACY_PACKED_BYTES_MAX - held]
        try:
            consumed = unpack_page(self._start or packed, page)
        except MalformedPage as error:
            raise place.bad(f"pfn {self._next_pfn:#x}: {error}") from None
        if consumed is None:
            if not held:
                self._start += packed
            return len(packed), False
        self._start.clear()
        self._is_based = False
        self._bases.keep_rebuilt(self._next_pfn, bytes(page))
        self._page_count += 1
        return consumed - held, True

    def _base_page(self, place: Place) -> memoryview:
        """Where the page of the next entry goes, with what it is unpacked onto."""
        if self._at == len(self._entries):
            raise place.bad("more data than the listed pages have")
        start = layout.pages_bytes(self._page_count)
        page = self._pages[start : start + PAGE_SIZE]
        if not self._is_based:
            page[:] = self._bases.load(self._next_pfn)
            self._is_based = True
        return page

    @property
    def _next_pfn(self) -> int:
        return self._entries[self._at] & layout.ENTRY_PFN_MASK

    def _pass_pageless(self) -> Iterator[PageTable | PageRun]:
        """Put the entries into the group that stand before the next one with a page."""
        while self._at < len(self._entries):
            if self._entries[self._at] >> layout.ENTRY_TYPE_SHIFT < PageType.BROKEN:
                return
            yield from self._move_entry()

    def _move_entry(self) -> Iterator[PageTable | PageRun]:
        self._group.append(self._entries[self._at])
        self._at += 1
        if len(self._group) == GROUP_ENTRIES:
            yield from self.flush()
