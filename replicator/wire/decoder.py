"""Bytes to records, at whatever pieces the bytes arrive in.

`feed` takes the next bytes and yields the headers and records that are now whole; the partial one stays here
until the rest arrives. Where the pieces are cut changes nothing: the same records come, then the same error
at the same offset. A record is judged in three steps: its type and length from its eight header bytes (so
that no body is awaited that would be refused), its body on its own (libxc.py, libxl.py), and its place among
the others (grammar.py). Memory: at most one record of the length limits.py allows, and what the caller feeds
at once.

The strict mode also refuses what a receiver must forgive but a correct sender never writes: reserved fields
and padding that are not zero, records in an unusual order, records without a meaning.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from replicator.errors import BadHeader, RecordOrder, TruncatedStream, WireError
from replicator.limits import PFN_MAX
from replicator.wire import layout, libxc, libxl
from replicator.wire.grammar import Grammar, Layer, StreamKind, name_type
from replicator.wire.layout import Buffer, LibxlType
from replicator.wire.records import DomainHeader, Header, ImageHeader, LibxlHeader, Place, Record

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


class StreamDecoder:
    """Decodes one stream. After a WireError it raises that same error for ever."""

    def __init__(
        self, kind: StreamKind | None = None, *, strict: bool = False, pfn_limit: int = PFN_MAX + 1
    ) -> None:
        self.grammar = Grammar(kind, strict=strict, pfn_limit=pfn_limit)
        self._strict = strict
        self._buffer = bytearray()
        self._head: _Head | None = None
        self._error: WireError | None = None
        #: Bytes of whole headers and records so far: the offset of the next one.
        self.offset = 0

    @property
    def pending(self) -> int:
        """Bytes fed and not yet part of a whole record."""
        return len(self._buffer)

    @property
    def done(self) -> bool:
        """The stream's last record was read."""
        return self.grammar.layer is Layer.DONE

    def feed(self, data: Buffer) -> Iterator[Record]:
        """Take bytes at once; the iterator then decodes one record a step and raises WireError where they go
        wrong. Records left in an iterator that was dropped come out of the next one."""
        if self._error is not None:
            raise self._error
        self._buffer += data
        return self._drain()

    def finish(self) -> None:
        """The bytes are over: raise TruncatedStream when the stream is not."""
        if self._error is not None:
            raise self._error
        if self._buffer:
            name = (
                self._head.place.name
                if self._head
                else _HEADER_NAMES.get(self.grammar.layer, "record header")
            )
            raise TruncatedStream(
                f"{self.pending} bytes of it, then nothing", offset=self.offset, record=name
            )
        self.grammar.check_end(self.offset)

    def take_rest(self) -> bytes:
        """Take the bytes behind the stream's end out of the decoder (after the iterator gave the last
        record)."""
        rest = bytes(self._buffer)
        self._buffer = bytearray()
        return rest

    def _drain(self) -> Iterator[Record]:
        while True:
            try:
                record = self._next()
            except WireError as error:
                self._error = error
                raise
            if record is None:
                return
            yield record

    def _next(self) -> Record | None:
        if not self._buffer:
            return None
        layer = self.grammar.layer
        if layer is Layer.DONE:
            raise RecordOrder("bytes behind the end of the stream", offset=self.offset)
        if layer is Layer.START:
            return self._find_start()
        if layer in _HEADER_BYTES:
            return self._next_header(layer)
        return self._next_record(layer)

    # Headers

    def _find_start(self) -> Record | None:
        if len(self._buffer) < _MAGIC_BYTES:
            return None
        magic = bytes(self._buffer[:_MAGIC_BYTES])
        layer = _STARTS.get(magic)
        if layer is None:
            raise BadHeader(
                f"neither a libxl nor a libxc stream starts with {magic.hex()}", offset=self.offset
            )
        self.grammar.start(layer)
        return self._next_header(layer)

    def _next_header(self, layer: Layer) -> Header | None:
        size = _HEADER_BYTES[layer]
        if len(self._buffer) < size:
            return None
        with memoryview(self._buffer)[:size] as data:
            header = self._decode_header(layer, data)
        self.grammar.accept_header(header)
        self._consume(size)
        return header

    def _decode_header(self, layer: Layer, data: memoryview) -> Header:
        if layer is Layer.LIBXL_HEADER:
            header: Header = libxl.decode_header(data, self.offset)
            faults = libxl.list_header_faults(data)
        else:
            decode = libxc.decode_image_header if layer is Layer.IMAGE_HEADER else libxc.decode_domain_header
            header = decode(data, self.offset)
            faults = libxc.list_header_faults(data)
        fault = next(faults, None) if self._strict else None
        if fault is not None:
            raise BadHeader(f"strict reading expects {fault}", offset=self.offset, record=header.NAME)
        return header

    # Records

    def _next_record(self, layer: Layer) -> Record | None:
        if self._head is None:
            if len(self._buffer) < layout.RECORD_HEADER.size:
                return None
            self._head = self._read_head(layer)
        head = self._head
        start = layout.RECORD_HEADER.size
        end = start + head.length
        size = start + layout.padded(head.length)
        if len(self._buffer) < size:
            return None
        with memoryview(self._buffer) as view, view[start:end] as body, view[end:size] as padding:
            record = self._decode_record(layer, head, body)
            if self._strict and any(padding):
                raise head.place.bad("strict reading expects padding of zeros")
        self._head = None
        self._consume(size)
        return record

    def _read_head(self, layer: Layer) -> _Head:
        record_type, length = layout.RECORD_HEADER.unpack_from(self._buffer)
        place = Place(self.offset, name_type(layer, record_type))
        codec = libxl if _is_libxl(layer, record_type) else libxc
        codec.check_length(record_type, length, place)
        self.grammar.admit(record_type, place)
        return _Head(record_type, length, place)

    def _decode_record(self, layer: Layer, head: _Head, body: memoryview) -> Record:
        if _is_libxl(layer, head.type):
            libxl_record = libxl.decode_body(head.type, body, head.place)
            self._refuse_faults(libxl.list_faults(head.type, body, libxl_record), head.place)
            self.grammar.accept_libxl(libxl_record, head.place)
            return libxl_record
        record = libxc.decode_body(head.type, body, head.place)
        self._refuse_faults(libxc.list_faults(head.type, body, record), head.place)
        self.grammar.accept_libxc(record, head.place)
        return record

    def _refuse_faults(self, faults: Iterator[str], place: Place) -> None:
        fault = next(faults, None) if self._strict else None
        if fault is not None:
            raise place.bad(f"strict reading expects {fault}")

    def _consume(self, size: int) -> None:
        del self._buffer[:size]
        self.offset += size


def _is_libxl(layer: Layer, record_type: int) -> bool:
    if layer is Layer.BACK_CHANNEL:
        return record_type == LibxlType.CHECKPOINT_STATE
    return layer is Layer.LIBXL


def decode_stream(
    data: Buffer | Iterable[Buffer], kind: StreamKind | None = None, *, strict: bool = False
) -> Iterator[Record]:
    """All headers and records of a whole stream, given as bytes or as pieces of them; raises WireError."""
    decoder = StreamDecoder(kind, strict=strict)
    pieces = (data,) if isinstance(data, bytes | bytearray | memoryview) else data
    for piece in pieces:
        yield from decoder.feed(piece)
    decoder.finish()
