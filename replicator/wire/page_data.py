"""The body of a PAGE_DATA record, read in parts: its table first, then its pages as they arrive.

A record may have 128 MiB: 32,704 pages, or 16 million entries without one. Neither is ever held. A table comes
in pieces of at most `TABLE_PIECE_ENTRIES`, pages in runs of at most `RUN_PAGES_MAX`; only the entries that
have a page are kept until it comes. An ordinary record (1,024 entries) has one table.
"""

from __future__ import annotations

from array import array

from replicator.units import PAGE_SIZE
from replicator.wire import entries as tables
from replicator.wire import layout
from replicator.wire.intake import Intake
from replicator.wire.layout import LibxcType
from replicator.wire.records import Envelope, Item, PageData, PageRun, PageTable, Place, Record

#: Entries of the largest piece of a table: half a megabyte.
TABLE_PIECE_ENTRIES = 1 << 16
#: Pages of the largest run, as many as an ordinary record has.
RUN_PAGES_MAX = 1024
NAME = LibxcType.PAGE_DATA.name


class RunReader:
    """Hands out the pages of these entries, all of which have one, as they arrive."""

    def __init__(self, intake: Intake, entries: array[int]) -> None:
        self._intake = intake
        self._entries = entries
        self._at = 0

    @property
    def done(self) -> bool:
        return self._at == len(self._entries)

    def step(self) -> PageRun | None:
        """The next run; None as long as no whole page is here. Not to be called when `done`."""
        left = len(self._entries) - self._at
        pages = self._intake.take_units(PAGE_SIZE, min(left, RUN_PAGES_MAX))
        if pages is None:
            return None
        start, self._at = self._at, self._at + len(pages) // PAGE_SIZE
        return PageRun(self._entries[start : self._at], pages)

    @property
    def missing_bytes(self) -> int:
        """Bytes of pages that are not here yet."""
        return layout.pages_bytes(len(self._entries) - self._at) - self._intake.pending

    def pass_over(self, size: int) -> None:
        """These bytes of pages, and what is here of them, will not be handed out."""
        pages, _ = divmod(self._intake.pending + size, PAGE_SIZE)
        self._intake.pass_over(size)
        self._at += pages


class PageDataReader:
    """Reads one body, whose length passed `libxc.check_length`. Raises BadRecord at `place`."""

    def __init__(self, intake: Intake, length: int, place: Place) -> None:
        self._intake = intake
        self._length = length
        self._place = place
        self._count: int | None = None
        self._reserved = 0
        self._read = 0
        self._with_data: array[int] = array("Q")
        self._runs: RunReader | None = None
        #: All parts were handed out.
        self.done = False

    @property
    def missing_bytes(self) -> int:
        """Bytes of pages that are not here yet; 0 as long as the table is not whole."""
        return self._runs.missing_bytes if self._runs is not None else 0

    def pass_over(self, size: int) -> None:
        """See RunReader; at most `missing_bytes`."""
        if self._runs is not None:
            self._runs.pass_over(size)
            self.done = self._runs.done

    def take_reserved(self) -> int:
        """The reserved field of the body, once; 0 from then on."""
        reserved, self._reserved = self._reserved, 0
        return reserved

    def step(self) -> PageTable | PageRun | None:
        """The next part; None as long as its bytes are not here. Not to be called when `done`."""
        if self._runs is not None:
            return self._read_run(self._runs)
        if self._count is None and not self._read_count():
            return None
        return self._read_table(self._count or 0)

    def _read_count(self) -> bool:
        fixed = self._intake.take(layout.PAGE_DATA.size)
        if fixed is None:
            return False
        count, self._reserved = layout.PAGE_DATA.unpack(fixed)
        if count < 1:
            raise self._place.bad("0 pfns, at least 1 is needed")
        needed = layout.PAGE_DATA.size + count * layout.U64_BYTES
        if self._length < needed:
            raise self._place.bad(f"{count} pfns need {needed} bytes, the body has {self._length}")
        self._count = count
        return True

    def _read_table(self, count: int) -> PageTable | None:
        first = self._read
        piece = min(count - first, TABLE_PIECE_ENTRIES)
        data = self._intake.take(piece * layout.U64_BYTES)
        if data is None:
            return None
        survey = tables.survey(data)
        if survey.reserved_type:
            raise self._place.bad(f"reserved page type {survey.reserved_type:#x}, known are 0-4 and 9-f")
        entries = layout.u64_array(data)
        if survey.data_pages:
            self._with_data += entries if survey.data_pages == piece else tables.with_data(entries)
        self._read += piece
        self._check_length(count)
        if self._read == count:
            self._finish_table()
        first_page = len(self._with_data) - survey.data_pages
        return PageTable(entries, survey, first, count, self._length, first_page)

    def _finish_table(self) -> None:
        if self._with_data:
            self._runs = RunReader(self._intake, self._with_data)
        else:
            self.done = True

    def _read_run(self, runs: RunReader) -> PageRun | None:
        run = runs.step()
        self.done = runs.done
        return run

    def _check_length(self, count: int) -> None:
        """No more pages than the body has room for, and at the end of the table exactly as many."""
        pages = layout.pages_bytes(len(self._with_data))
        expected = layout.PAGE_DATA.size + count * layout.U64_BYTES + pages
        if expected > self._length or (self._read == count and expected != self._length):
            raise self._place.bad(f"body of {self._length} bytes instead of {expected} for {count} pfns")


class PageJoiner:
    """Puts the parts of PAGE_DATA records together again, for whoever wants whole records."""

    def __init__(self) -> None:
        self._entries: array[int] = array("Q")
        self._pages = bytearray()
        self._missing_entries = 0
        self._missing_pages = 0

    def join(self, item: Item) -> Record | Envelope | None:
        """The record that `item` is or completes; None when parts are missing."""
        if isinstance(item, PageTable):
            self._add_table(item)
        elif isinstance(item, PageRun):
            self._pages += item.pages
            self._missing_pages -= len(item.entries)
        else:
            return item
        if self._missing_entries or self._missing_pages:
            return None
        return PageData(self._entries, bytes(self._pages))

    def _add_table(self, table: PageTable) -> None:
        if table.first == 0:
            self._entries, self._pages = array("Q"), bytearray()
            self._missing_entries, self._missing_pages = table.count, 0
        self._entries += table.entries
        self._missing_entries -= len(table.entries)
        self._missing_pages += table.survey.data_pages
