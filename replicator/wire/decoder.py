"""Bytes to records, at whatever pieces the bytes arrive in.

`feed` takes the next bytes and yields the headers and records that are now whole; the partial one stays here
until the rest arrives. Where the pieces are cut changes nothing: the same records come, then the same error
at the same offset. A record is judged in three steps: its type and length from its eight header bytes (so
that no body is awaited that would be refused), its body on its own (libxc.py, libxl.py, page_data.py), and its
place among the others (grammar.py). PAGE_DATA comes in parts, `PageTable` and then `PageRun`s; only how its
pages are spread over the runs depends on the pieces. Memory: at most one other record of the length limits.py
allows, and what the caller feeds at once.

The strict mode also refuses what a receiver must forgive but a correct sender never writes (faults.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from replicator.errors import BadHeader, BadRecord, TruncatedStream
from replicator.limits import PFN_MAX
from replicator.wire import layout, libxc, libxl
from replicator.wire.faults import Judge, Strict, Tolerant
from replicator.wire.grammar import Grammar, Layer, StreamKind, name_type
from replicator.wire.intake import Intake
from replicator.wire.item_decoder import ItemDecoder
from replicator.wire.layout import Buffer, LibxcType, LibxlType
from replicator.wire.page_data import PageDataReader, PageJoiner
from replicator.wire.pv_state import LookBack
from replicator.wire.records import (
    DomainHeader,
    Envelope,
    Header,
    ImageHeader,
    Item,
    LibxlHeader,
    PageTable,
    Place,
    Record,
)

_MAGIC_BYTES = 8
_HEADER_BYTES = {
    Layer.LIBXL_HEADER: layout.LIBXL_HEADER.size,
    Layer.IMAGE_HEADER: layout.IMAGE_HEADER.size,
    Layer.DOMAIN_HEADER: layout.DOMAIN_HEADER.size,
}
_HEADER_NAMES = {
    Layer.START: "stream header",
    Layer.LIBXL_HEADER: LibxlHeader.NAME,
    Layer.IMAGE_HEADER: ImageHeader.NAME,
    Layer.DOMAIN_HEADER: DomainHeader.NAME,
}
_STARTS = {
    layout.LIBXL_IDENT.to_bytes(_MAGIC_BYTES, "big"): Layer.LIBXL_HEADER,
    layout.IMAGE_MARKER.to_bytes(_MAGIC_BYTES, "big"): Layer.IMAGE_HEADER,
}


class _Head(NamedTuple):
    """A record header that was admitted; its body is awaited."""

    type: int
    length: int
    place: Place
    is_libxl: bool


class StreamDecoder(ItemDecoder):
    """Decodes one libxl or libxc stream. After a WireError it raises that same error for ever.

    `kind` None takes a plain, a Remus or a COLO stream. `judge` decides about faults (tolerant by default).
    `pfn_limit` is one more than the highest pfn of an HVM guest or a back channel. `wide_dirty_lists` reads
    the 16 byte header that Xen 4.18 and later put before the dirty pfns on the back channel. `look_back` reads
    bytes of the stream again (offset, size); with it, pages of a PV guest may be passed over too.
    """

    def __init__(
        self,
        kind: StreamKind | None = None,
        *,
        judge: Judge | None = None,
        pfn_limit: int = PFN_MAX + 1,
        wide_dirty_lists: bool = False,
        intake: Intake | None = None,
        look_back: LookBack | None = None,
    ) -> None:
        super().__init__(intake)
        self._judge: Judge = judge or Tolerant()
        self.grammar = Grammar(kind, judge=self._judge, pfn_limit=pfn_limit, look_back=look_back)
        self._wide_dirty_lists = wide_dirty_lists
        self._head: _Head | None = None
        self._body: PageDataReader | None = None
        # Bytes left of the body of a bad record that is passed over.
        self._skip = 0
        # Where the header or record starts that is read now, or that comes next.
        self._start = self._intake.offset

    @property
    def offset(self) -> int:
        return self._start

    @property
    def passable(self) -> int:
        if self._body is None or self.grammar.needs_pages:
            return 0
        return self._body.missing_bytes

    def pass_over(self, size: int) -> None:
        if self._body is not None and size:
            self._body.pass_over(size)
            self._close_body(self._body)

    def finish(self) -> Iterator[Item]:
        """The bytes are over: raise TruncatedStream when the stream is not. The iterator is empty."""
        self._raise_again()
        if self.pending:
            name = (
                self._head.place.name
                if self._head
                else _HEADER_NAMES.get(self.grammar.layer, "record header")
            )
            raise TruncatedStream(
                f"{self.pending} bytes of it, then nothing", offset=self._start, record=name
            )
        self.grammar.check_end(self._start)
        return iter(())

    def _next(self) -> Item | None:
        layer = self.grammar.layer
        if self._body is not None or layer is Layer.LIBXC or layer is Layer.LIBXL:
            return self._next_record()
        if layer is Layer.START:
            return self._find_start()
        if layer is Layer.AFTER_ROUND:
            return self._settle_kind()
        if layer in _HEADER_BYTES:
            return self._next_header(layer)
        return self._next_record()

    # Headers

    def _find_start(self) -> Item | None:
        magic = self._intake.peek(_MAGIC_BYTES)
        if magic is None:
            return None
        layer = _STARTS.get(magic)
        if layer is None:
            raise BadHeader(
                f"neither a libxl nor a libxc stream starts with {magic.hex()}", offset=self._start
            )
        self.grammar.start(layer)
        return self._next_header(layer)

    def _next_header(self, layer: Layer) -> Header | None:
        data = self._intake.take(_HEADER_BYTES[layer])
        if data is None:
            return None
        header = self._decode_header(layer, data)
        self.grammar.accept_header(header)
        self._start = self._intake.offset
        return header

    def _decode_header(self, layer: Layer, data: memoryview) -> Header:
        if layer is Layer.LIBXL_HEADER:
            header: Header = libxl.decode_header(data, self._start)
            faults = libxl.list_header_faults(data)
        else:
            decode = libxc.decode_image_header if layer is Layer.IMAGE_HEADER else libxc.decode_domain_header
            header = decode(data, self._start)
            faults = libxc.list_header_faults(data)
        for fault in faults if self._judge.strict else ():
            self._judge.fault(
                BadHeader(f"strict reading expects {fault}", offset=self._start, record=header.NAME)
            )
        return header

    def _settle_kind(self) -> Item | None:
        head = self._intake.peek(layout.RECORD_HEADER.size)
        if head is None:
            return None
        self.grammar.settle_kind(*layout.RECORD_HEADER.unpack(head))
        return self._next_record()

    # Records

    def _next_record(self) -> Item | None:
        """The next record or part of one, passing over bad ones that the judge lets pass."""
        while not self.done:
            if self._skip and not self._skip_on():
                return None
            head = self._head or self._read_head()
            if head is None:
                return None
            try:
                if head.type == LibxcType.PAGE_DATA and not head.is_libxl:
                    return self._next_part(head)
                record = self._read_body(head)
            except BadRecord as error:
                self._pass_over(error)
                continue
            if record is not None:
                self._head = None
                self._start = self._intake.offset
            return record
        return None

    def _read_head(self) -> _Head | None:
        data = self._intake.take(layout.RECORD_HEADER.size)
        if data is None:
            return None
        layer = self.grammar.layer
        record_type, length = layout.RECORD_HEADER.unpack(data)
        place = Place(self._start, name_type(layer, record_type))
        is_libxl = _is_libxl(layer, record_type)
        codec = libxl if is_libxl else libxc
        if layer is Layer.BACK_CHANNEL:
            # Only two types are right here, and a wrong one says more than a wrong length.
            self.grammar.admit(record_type, place)
            codec.check_length(record_type, length, place)
        else:
            codec.check_length(record_type, length, place)
            self.grammar.admit(record_type, place)
        self._head = _Head(record_type, length, place, is_libxl)
        return self._head

    def _read_body(self, head: _Head) -> Record | None:
        extra = self._extra_header_bytes(head)
        data = self._intake.take(extra + layout.padded(head.length))
        if data is None:
            return None
        if any(data[:extra]):
            raise head.place.bad(f"16 byte header ends with {bytes(data[:extra]).hex()} instead of zeros")
        body = data[extra : extra + head.length]
        if self._judge.strict and any(data[extra + head.length :]):
            self._judge.fault(head.place.bad("strict reading expects padding of zeros"))
        if head.is_libxl:
            libxl_record = libxl.decode_body(head.type, body, head.place)
            self._judge_faults(libxl.list_faults(head.type, body, libxl_record), head.place)
            self.grammar.accept_libxl(libxl_record, head.place)
            return libxl_record
        record = libxc.decode_body(head.type, body, head.place)
        self._judge_faults(libxc.list_faults(head.type, body, record), head.place)
        self.grammar.accept_libxc(record, head.place)
        return record

    def _extra_header_bytes(self, head: _Head) -> int:
        """Xen 4.18 and later write a C structure as header of the dirty pfns: type, length, a null pointer."""
        is_list = head.type == LibxcType.CHECKPOINT_DIRTY_PFN_LIST and not head.is_libxl
        return layout.U64_BYTES if is_list and self._wide_dirty_lists else 0

    def _next_part(self, head: _Head) -> Item | None:
        """The next part of a PAGE_DATA record. Padding never follows: all its parts are multiples of 8."""
        if self._body is None:
            self._body = PageDataReader(self._intake, head.length, head.place)
        body = self._body
        part = body.step()
        if isinstance(part, PageTable):
            if self._judge.strict:
                self._judge_faults(libxc.list_page_faults(part, body.take_reserved()), head.place)
            self.grammar.accept_table(part, head.place)
        elif part is not None:
            self.grammar.accept_run(part)
        self._close_body(body)
        return part

    def _close_body(self, body: PageDataReader) -> None:
        if body.done:
            self._body = self._head = None
            self._start = self._intake.offset

    def _judge_faults(self, faults: Iterator[str], place: Place) -> None:
        for fault in faults if self._judge.strict else ():
            self._judge.fault(place.bad(f"strict reading expects {fault}"))

    # Bad records

    def _pass_over(self, error: BadRecord) -> None:
        """Go on behind the record that is read now, if the judge lets it pass."""
        self._judge.bad_record(error)
        head = self._head
        if head is None:
            raise error
        size = layout.RECORD_HEADER.size + self._extra_header_bytes(head) + layout.padded(head.length)
        self._skip = self._start + size - self._intake.offset
        self._head = self._body = None
        # Of a body that was read whole nothing is left, and its record may have been the last.
        self._skip_on()

    def _skip_on(self) -> bool:
        """Whether all of a bad record is passed over."""
        self._skip -= self._intake.skip(self._skip)
        if not self._skip:
            self._start = self._intake.offset
        return not self._skip


def _is_libxl(layer: Layer, record_type: int) -> bool:
    if layer is Layer.BACK_CHANNEL:
        return record_type == LibxlType.CHECKPOINT_STATE
    return layer is Layer.LIBXL


def decode_stream(
    data: Buffer | Iterable[Buffer], kind: StreamKind | None = None, *, strict: bool = False
) -> Iterator[Record]:
    """All headers and whole records of a libxl or libxc stream, given as bytes or as pieces of them; raises
    WireError."""
    decoder = StreamDecoder(kind, judge=Strict() if strict else Tolerant())
    joiner = PageJoiner()
    pieces = (data,) if isinstance(data, bytes | bytearray | memoryview) else data
    for piece in pieces:
        for item in decoder.feed(piece):
            record = joiner.join(item)
            if record is not None and not isinstance(record, Envelope):
                yield record
    decoder.finish()
