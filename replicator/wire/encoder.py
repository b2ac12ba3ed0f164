"""Records to bytes: the decoder's counterpart.

`encode_record` looks at one record; `StreamEncoder` also keeps the order, by the strict grammar, so that what
it wrote passes the strict verifier. Whatever cannot be written is a LocalWireError: the fault is ours.
"""

from __future__ import annotations

from replicator.errors import LocalWireError, RemoteWireError, TruncatedStream
from replicator.wire import entries, layout, libxc, libxl
from replicator.wire.faults import Strict
from replicator.wire.grammar import Grammar, Layer, StreamKind
from replicator.wire.records import (
    DomainHeader,
    ImageHeader,
    LibxlHeader,
    LibxlRecord,
    OptionalRecord,
    PageData,
    PageRun,
    PageTable,
    Place,
    Record,
    record_name,
)


def encode_record(record: Record) -> bytes:
    """The bytes of a header or of a whole record with its padding; LocalWireError when no reader would take
    it."""
    if isinstance(record, LibxlHeader):
        return libxl.encode_header(record)
    if isinstance(record, ImageHeader):
        return libxc.encode_image_header(record)
    if isinstance(record, DomainHeader):
        return libxc.encode_domain_header(record)
    return libxl.encode(record) if isinstance(record, LibxlRecord) else libxc.encode(record)


class StreamEncoder:
    """Encodes one stream, in order."""

    def __init__(self, kind: StreamKind) -> None:
        self._grammar = Grammar(kind, judge=Strict())
        #: Bytes written so far.
        self.offset = 0

    def encode(self, record: Record) -> bytes:
        """The bytes of the next header or record; LocalWireError when it may not stand here."""
        data = encode_record(record)
        try:
            self._step(record)
        except RemoteWireError as error:
            raise LocalWireError(f"may not be written: {error}") from None
        self.offset += len(data)
        return data

    def finish(self) -> None:
        """LocalWireError when the stream may not end here."""
        try:
            self._grammar.check_end(self.offset)
        except TruncatedStream as error:
            raise LocalWireError(f"may not end here: {error}") from None

    def _step(self, record: Record) -> None:
        place = Place(self.offset, record_name(record))
        layer = self._grammar.layer
        if isinstance(record, LibxlHeader | ImageHeader | DomainHeader):
            self._step_header(record, place)
            return
        own = Layer.LIBXL if isinstance(record, LibxlRecord) else Layer.LIBXC
        if layer not in (own, Layer.BACK_CHANNEL, Layer.AFTER_ROUND):
            raise place.order(f"the stream is at {layer.name}")
        self._grammar.admit(record.record_type if isinstance(record, OptionalRecord) else record.TYPE, place)
        if isinstance(record, LibxlRecord):
            self._grammar.accept_libxl(record, place)
        elif isinstance(record, PageData):
            self._accept_pages(record, place)
        else:
            self._grammar.accept_libxc(record, place)

    def _accept_pages(self, record: PageData, place: Place) -> None:
        survey = entries.survey(layout.u64_bytes(record.entries))
        count = len(record.entries)
        self._grammar.accept_table(PageTable(record.entries, survey, 0, count, 0), place)
        self._grammar.accept_run(PageRun(entries.with_data(record.entries), memoryview(record.pages)))

    def _step_header(self, header: LibxlHeader | ImageHeader | DomainHeader, place: Place) -> None:
        own = {
            LibxlHeader: Layer.LIBXL_HEADER,
            ImageHeader: Layer.IMAGE_HEADER,
            DomainHeader: Layer.DOMAIN_HEADER,
        }[type(header)]
        layer = self._grammar.layer
        if layer is Layer.START and own is not Layer.DOMAIN_HEADER:
            self._grammar.start(own)
        elif layer is not own:
            raise place.order(f"the stream is at {layer.name}")
        self._grammar.accept_header(header)
