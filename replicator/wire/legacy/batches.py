"""Page batches: the pages of a body, as the batches bring them or, compressed, in chunks of their own.

    batch                      N words: types and pfns; then a page for each entry whose type has one
    batch, compressed          N words
    chunk -12                  word: size; then packed pages, for the entries of the batches so far

A chunk -13 announces that the bodies behind this one are compressed.
"""

from __future__ import annotations

from array import array

from replicator.errors import UnknownMandatoryRecord
from replicator.wire import entries as tables
from replicator.wire import layout
from replicator.wire.legacy.bases import PageBases
from replicator.wire.legacy.compression import PageRebuilder
from replicator.wire.legacy.header import LegacyGuest
from replicator.wire.legacy.source import Source, Steps
from replicator.wire.legacy.tables import make_table, read_entries
from replicator.wire.page_data import RunReader
from replicator.wire.records import Place


class BatchReader:
    """Reads the pages of one stream. Yields PAGE_DATA in parts."""

    def __init__(self, source: Source, guest: LegacyGuest, bases: PageBases | None) -> None:
        self._source = source
        self._guest = guest
        self._word = layout.LEGACY_WORD[guest.bits]
        self._bases = bases
        self._rebuilder: PageRebuilder | None = None
        self._is_announced = False
        #: This body is a compressed one.
        self._is_compressed = False
        # Of the batch whose pages are read now.
        self._reader: RunReader | None = None

    @property
    def missing_bytes(self) -> int:
        """Bytes of pages that come next and need not be handed out."""
        if self._reader is None or (self._bases is not None and self._bases.needs_pages):
            return 0
        return self._reader.missing_bytes

    def pass_over(self, size: int) -> None:
        """These bytes, at most `missing_bytes`, will not be handed out."""
        if self._reader is None:
            return
        self._reader.pass_over(size)
        if self._bases is not None:
            self._bases.pass_over(self._source.intake.offset)

    def announce_compression(self) -> None:
        """The bodies behind this one are compressed."""
        self._is_announced = True

    def read(self, count: int, place: Place) -> Steps[None]:
        """A batch of `count` entries."""
        if count > layout.LEGACY_BATCH_ENTRIES_MAX:
            raise place.bad(f"{count} entries, at most {layout.LEGACY_BATCH_ENTRIES_MAX} are allowed")
        batch = yield from self._source.take(count * self._word.size)
        entries, survey = read_entries(batch, self._guest, place)
        if self._is_compressed:
            self._need_rebuilder(place).add(entries, place)
        elif entries:
            yield make_table(entries, survey)
            yield from self._read_pages(entries)

    def read_packed(self, place: Place) -> Steps[None]:
        """The packed pages of a chunk -12."""
        if not self._is_compressed:
            raise place.order("nothing announced that this checkpoint is compressed")
        rebuilder = self._need_rebuilder(place)
        (left,) = yield from self._source.unpack(self._word)
        while left:
            packed = yield from self._source.take_some(left)
            left -= len(packed)
            yield from rebuilder.unpack(packed, place)
        yield from rebuilder.flush()

    def end_body(self, place: Place) -> Steps[None]:
        """The body is over; BadRecord when pages of it did not come."""
        if self._rebuilder is not None:
            yield from self._rebuilder.finish(place)
        self._is_compressed = self._is_announced

    def _read_pages(self, entries: array[int]) -> Steps[None]:
        reader = self._reader = RunReader(self._source.intake, tables.with_data(entries))
        while not reader.done:
            run = reader.step()
            if run is None:
                yield from self._source.await_more()
                continue
            if self._bases is not None:
                self._bases.keep(run.entries, self._source.intake.offset - len(run.pages), run.pages)
            if reader.done:
                self._source.settle()
            yield run
        self._source.settle()
        self._reader = None

    def _need_rebuilder(self, place: Place) -> PageRebuilder:
        if self._rebuilder is None:
            if self._bases is None:
                raise UnknownMandatoryRecord(
                    "a compressed checkpoint builds on pages of earlier ones, which this reader does not keep",
                    offset=place.offset,
                    record=place.name,
                    hint="give the stream as a file; of a pipe the pages are kept with --spool FOLDER",
                )
            self._rebuilder = PageRebuilder(self._bases)
        return self._rebuilder
