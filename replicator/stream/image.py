"""A guest's memory as a stream leaves it: for each pfn its type and a cell of fixed size.

A cell is the page itself (`Pages`), or its digest where only equality matters (`Digests`). All of it lives in
unnamed temporary files that are as large as what was written: types by pfn, cells by pfn, and of the round that
is not whole yet its entries and cells in their order. So memory use does not grow with the guest, and a round
that breaks off leaves the image as it was.

What an entry does: a type with data replaces the page; BROKEN and XTAB take it away (XTAB also stands for a
page that comes later); XALLOC makes sure that there is one and leaves its content alone. The newest counts.
"""

from __future__ import annotations

import mmap
import os
import re
import tempfile
from array import array
from collections.abc import Iterator
from typing import IO, Final, NamedTuple, Protocol

import xxhash

from replicator.limits import PFN_MAX
from replicator.units import PAGE_SIZE
from replicator.wire import entries as tables
from replicator.wire import layout
from replicator.wire.layout import Buffer, PageType
from replicator.wire.records import PageRun, PageTable

#: Entries of a batch that is read out, as an ordinary sender writes them.
BATCH_ENTRIES: Final = 1024
_KIND_XALLOC: Final = PageType.XALLOC + 1
_KIND_XTAB: Final = PageType.XTAB + 1
_KINDS_WITH_DATA: Final = range(1, PageType.BROKEN + 1)
#: Bytes of the table of types that are looked at together.
_SCAN_BYTES: Final = 1 << 16
#: Runs of pfns that the guest has: neither never named nor last named as XTAB.
_PRESENT: Final = re.compile(rb"[^\x00\x10]+")


class Cells(Protocol):
    """What is kept of a page."""

    size: int

    def make(self, pages: memoryview) -> Buffer:
        """The cells of these pages, one behind the other."""


class Pages:
    """Cells are the pages themselves."""

    size = PAGE_SIZE

    def make(self, pages: memoryview) -> Buffer:
        return pages


class Digests:
    """Cells are 128-bit digests of the pages."""

    size = 16

    def make(self, pages: memoryview) -> Buffer:
        digest = xxhash.xxh3_128_digest
        return b"".join(digest(pages[start : start + PAGE_SIZE]) for start in range(0, len(pages), PAGE_SIZE))


class Batch(NamedTuple):
    """Some of the pfns of an image, ascending, with the cells of those that have data."""

    entries: array[int]
    cells: memoryview


class GuestImage:
    """The memory of one guest. Temporary files go to `folder` (None: where the system has them)."""

    def __init__(self, cells: Cells, folder: str | os.PathLike[str] | None = None) -> None:
        self._cells = cells
        self._folder = folder
        self._kinds_file = self._new_file()
        self._kinds_file.truncate(PFN_MAX + 1)
        # Type + 1 of each pfn, 0 of one that was never named.
        self._kinds = mmap.mmap(self._kinds_file.fileno(), PFN_MAX + 1)
        self._cells_file = self._new_file()
        self._staged_entries = self._new_file()
        self._staged_cells = self._new_file()
        #: Pfns below this one were named; higher ones were not.
        self.pfn_limit = 0

    def close(self) -> None:
        """Give the temporary files back."""
        self._kinds.close()
        for file in (self._kinds_file, self._cells_file, self._staged_entries, self._staged_cells):
            file.close()

    # At once

    def apply_table(self, table: PageTable) -> None:
        """Change the types of these pfns; their pages come by `apply_run`."""
        self._apply_kinds(table.entries, table.survey.counts[PageType.XALLOC] > 0)
        self.pfn_limit = max(self.pfn_limit, table.survey.pfn_max + 1)

    def apply_run(self, run: PageRun) -> None:
        """Put pages to their pfns."""
        self._write_cells(run.entries, memoryview(self._cells.make(run.pages)))

    # Round by round

    def stage_table(self, table: PageTable) -> None:
        """As `apply_table`, from the next `commit_round` on."""
        self._staged_entries.write(table.entries)

    def stage_run(self, run: PageRun) -> None:
        """As `apply_run`, from the next `commit_round` on."""
        self._staged_cells.write(self._cells.make(run.pages))

    def drop_round(self) -> None:
        """Forget what was staged."""
        for file in (self._staged_entries, self._staged_cells):
            file.seek(0)
            file.truncate()

    def commit_round(self) -> None:
        """Apply what was staged, in its order."""
        self._staged_entries.seek(0)
        self._staged_cells.seek(0)
        while chunk := self._staged_entries.read(BATCH_ENTRIES * layout.U64_BYTES):
            entries = array("Q")
            entries.frombytes(chunk)
            survey = tables.survey(layout.u64_bytes(entries))
            self._apply_kinds(entries, survey.counts[PageType.XALLOC] > 0)
            self.pfn_limit = max(self.pfn_limit, survey.pfn_max + 1)
            cells = self._staged_cells.read(survey.data_pages * self._cells.size)
            self._write_cells(tables.with_data(entries), memoryview(cells))
        self.drop_round()

    # Reading

    def batches(self, first: int = 0, end: int | None = None) -> Iterator[Batch]:
        """All pfns from `first` to before `end` that the guest has, ascending, in batches."""
        entries: array[int] = array("Q")
        for start, kinds in self._present_runs(first, self.pfn_limit if end is None else end):
            for pfn, kind in enumerate(kinds, start):
                entries.append((kind - 1) << layout.ENTRY_TYPE_SHIFT | pfn)
                if len(entries) == BATCH_ENTRIES:
                    yield self._read_batch(entries)
                    entries = array("Q")
        if entries:
            yield self._read_batch(entries)

    def kinds(self, first: int, end: int) -> bytes:
        """Type + 1 of these pfns; 0 of one that the guest does not have."""
        return self._kinds[first:end].replace(bytes([_KIND_XTAB]), b"\0")

    def cells(self, first: int, end: int) -> bytes:
        """The cells of these pfns; those of pfns without data may be anything."""
        size = self._cells.size
        data = os.pread(self._cells_file.fileno(), (end - first) * size, first * size)
        return data.ljust((end - first) * size, b"\0")

    # Inside

    def _new_file(self) -> IO[bytes]:
        return tempfile.TemporaryFile(dir=self._folder)

    def _apply_kinds(self, entries: array[int], has_xalloc: bool) -> None:
        if not has_xalloc:
            tables.mark_kinds(entries, self._kinds)
            return
        for entry in entries:
            pfn = entry & layout.ENTRY_PFN_MASK
            kind = (entry >> layout.ENTRY_TYPE_SHIFT) + 1
            if kind != _KIND_XALLOC or self._kinds[pfn] not in _KINDS_WITH_DATA:
                self._kinds[pfn] = kind

    def _write_cells(self, entries: array[int], cells: memoryview) -> None:
        """One write for each run of neighbours: streams go through the memory in order."""
        fd, size = self._cells_file.fileno(), self._cells.size
        start = 0
        for end in range(1, len(entries) + 1):
            if end < len(entries) and _pfn(entries[end]) == _pfn(entries[end - 1]) + 1:
                continue
            _write_all(fd, cells[start * size : end * size], _pfn(entries[start]) * size)
            start = end

    def _present_runs(self, first: int, limit: int) -> Iterator[tuple[int, bytes]]:
        for start in range(first, limit, _SCAN_BYTES):
            kinds = self._kinds[start : min(start + _SCAN_BYTES, limit)]
            for match in _PRESENT.finditer(kinds):
                yield start + match.start(), match.group()

    def _read_batch(self, entries: array[int]) -> Batch:
        with_data = tables.with_data(entries)
        parts: list[bytes] = []
        start = 0
        for end in range(1, len(with_data) + 1):
            if end < len(with_data) and _pfn(with_data[end]) == _pfn(with_data[end - 1]) + 1:
                continue
            parts.append(self.cells(_pfn(with_data[start]), _pfn(with_data[end - 1]) + 1))
            start = end
        return Batch(entries, memoryview(parts[0] if len(parts) == 1 else b"".join(parts)))


def _pfn(entry: int) -> int:
    return entry & layout.ENTRY_PFN_MASK


def _write_all(fd: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(fd, data, offset)
        data, offset = data[written:], offset + written
