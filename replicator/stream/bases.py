"""Where a compressed legacy stream finds the pages that its newer ones build on.

From the second checkpoint on such a stream has only what changed in a page, so the reader needs all pages that
came before. That a stream is compressed shows when the first checkpoint is over. An input that can be read
again is then read again; of a pipe all pages must be kept from the start, which is done only on demand.
"""

from __future__ import annotations

from array import array

from replicator.stream.image import GuestImage, Pages
from replicator.stream.source import PIECE_BYTES, Source
from replicator.units import PAGE_SIZE
from replicator.wire import entries as tables
from replicator.wire import layout
from replicator.wire.any_decoder import AnyDecoder, ReadOptions
from replicator.wire.legacy import PageBases
from replicator.wire.records import PageRun, PageTable


def bases_for(source: Source, reading: ReadOptions, spool: str | None = None) -> PageBases | None:
    """What fits the input: a file is read again when it turns out to be compressed, a pipe is spooled when a
    folder was given. None: a compressed stream will be refused."""
    if source.is_file:
        return RereadBases(source, reading, spool)
    return SpooledBases(spool) if spool is not None else None


class SpooledBases:
    """Keeps every page in a temporary file of `folder`."""

    needs_pages = True

    def __init__(self, folder: str | None) -> None:
        self._image = GuestImage(Pages(), folder)

    def keep(self, entries: array[int], offset: int, pages: memoryview) -> None:
        self._image.apply_table(_table_of(entries))
        self._image.apply_run(PageRun(entries, pages))

    def keep_rebuilt(self, pfn: int, page: bytes) -> None:
        self.keep(array("Q", [pfn]), 0, memoryview(page))

    def pass_over(self, end: int) -> None:
        """Never called."""

    def load(self, pfn: int) -> bytes:
        return self._image.cells(pfn, pfn + 1)


class RereadBases:
    """Keeps nothing until a page is asked for; then reads the input again up to there and keeps everything."""

    def __init__(self, source: Source, reading: ReadOptions, folder: str | None) -> None:
        self._source = source
        self._reading = reading
        self._folder = folder
        # Where the input is from now on kept page by page.
        self._end = 0
        self._spooled: SpooledBases | None = None

    @property
    def needs_pages(self) -> bool:
        return self._spooled is not None

    def pass_over(self, end: int) -> None:
        self._end = end

    def keep(self, entries: array[int], offset: int, pages: memoryview) -> None:
        self._end = offset + len(pages)
        if self._spooled is not None:
            self._spooled.keep(entries, offset, pages)

    def keep_rebuilt(self, pfn: int, page: bytes) -> None:
        self._read_again().keep_rebuilt(pfn, page)

    def load(self, pfn: int) -> bytes:
        return self._read_again().load(pfn)

    def _read_again(self) -> SpooledBases:
        if self._spooled is None:
            self._spooled = SpooledBases(self._folder)
            decoder = AnyDecoder(self._reading, bases=self._spooled)
            for start in range(0, self._end, PIECE_BYTES):
                size = min(PIECE_BYTES, self._end - start)
                for _ in decoder.feed(self._source.look_back(start, size)):
                    pass
        return self._spooled


def _table_of(entries: array[int]) -> PageTable:
    survey = tables.survey(layout.u64_bytes(entries))
    return PageTable(entries, survey, 0, len(entries), len(entries) * (layout.U64_BYTES + PAGE_SIZE))
