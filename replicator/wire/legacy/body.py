"""The body of a checkpoint, or of a whole plain stream: chunks up to chunk 0.

A chunk starts with an i32: a positive one is a page batch of that many entries, the others are `LegacyChunk`s. Most
of them say something that belongs into the tail; it is collected in a `Body`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from replicator.errors import UnknownMandatoryRecord
from replicator.wire import layout
from replicator.wire.layout import LegacyChunk
from replicator.wire.legacy.batches import BatchReader
from replicator.wire.legacy.header import LegacyGuest
from replicator.wire.legacy.source import Source, Steps
from replicator.wire.legacy.tmem import TmemReader
from replicator.wire.legacy.toolstack import XenstoreEntries, parse_toolstack
from replicator.wire.libxl import XENSTORE_BYTES_MAX
from replicator.wire.records import Place, TscInfo, Verify

_IOREQ_PAIR: Final = (
    layout.LEGACY_HVM_PARAMS[LegacyChunk.HVM_IOREQ_SERVER_PFN],
    layout.LEGACY_HVM_PARAMS[LegacyChunk.HVM_IOREQ_SERVER_PAGES],
)


@dataclass(slots=True)
class Body:
    """What the chunks of one body said."""

    #: No checkpoint follows this one.
    is_last: bool = False
    #: Of an HVM guest, by number.
    params: dict[int, int] = field(default_factory=dict)
    xenstore: XenstoreEntries = ()


class BodyReader:
    """Reads the bodies of one stream, one after the other."""

    def __init__(
        self, source: Source, guest: LegacyGuest, batches: BatchReader, tmem: TmemReader, *, may_verify: bool
    ) -> None:
        self._source = source
        self._guest = guest
        self._batches = batches
        self._tmem = tmem
        self._may_verify = may_verify
        #: Vcpus that are online; a sender that names none means the first one.
        self.vcpus: tuple[int, ...] = (0,)
        #: Pages are compared from here on, not stored: Verify was yielded.
        self.is_verifying = False

    def read(self) -> Steps[Body]:
        """One body. Yields the PAGE_DATA in it, TSC_INFO and VERIFY."""
        body = Body()
        while True:
            self._source.begin("legacy chunk")
            head = yield from self._source.peek(layout.LEGACY_CHUNK.size)
            (chunk,) = layout.LEGACY_CHUNK.unpack(head)
            place = self._source.begin(_name_chunk(chunk))
            yield from self._source.take(layout.LEGACY_CHUNK.size)
            if chunk > 0:
                yield from self._batches.read(chunk, place)
            else:
                yield from self._read_chunk(chunk, body, place)
            if chunk == LegacyChunk.END:
                return body

    def _read_chunk(self, chunk: int, body: Body, place: Place) -> Steps[None]:
        match chunk:
            case LegacyChunk.END:
                self._judge_params(body, place)
                yield from self._batches.end_body(place)
            case LegacyChunk.VERIFY_MODE:
                yield from self._begin_verify()
            case LegacyChunk.VCPU_INFO:
                yield from self._read_vcpus(place)
            case LegacyChunk.TMEM:
                yield from self._tmem.read(place)
            case LegacyChunk.TMEM_EXTRA:
                yield from self._tmem.read_extra(place)
            case LegacyChunk.TSC_INFO:
                mode, nsec, khz, incarnation = yield from self._source.unpack(layout.LEGACY_TSC_INFO)
                yield TscInfo(mode, khz, nsec, incarnation)
            case LegacyChunk.LAST_CHECKPOINT:
                body.is_last = True
            case LegacyChunk.COMPRESSED_DATA:
                yield from self._batches.read_packed(place)
            case LegacyChunk.ENABLE_COMPRESSION:
                self._batches.announce_compression()
            case LegacyChunk.TOOLSTACK:
                body.xenstore = yield from self._read_toolstack(place)
            case _:
                yield from self._read_param(chunk, body, place)

    def _begin_verify(self) -> Steps[None]:
        """Pages that are compared come again as they were, so a reader that stores them loses nothing; and must,
        when checkpoints follow."""
        if self._may_verify and not self.is_verifying:
            self.is_verifying = True
            yield Verify()

    def _read_vcpus(self, place: Place) -> Steps[None]:
        (highest,) = yield from self._source.unpack(layout.LEGACY_VCPU_MAX)
        if not 0 <= highest <= layout.LEGACY_VCPU_ID_MAX:
            raise place.bad(f"highest vcpu {highest}, possible are 0 to {layout.LEGACY_VCPU_ID_MAX}")
        words = highest // layout.LEGACY_VCPU_MAP_BITS + 1
        data = yield from self._source.take(words * layout.U64_BYTES)
        online = int.from_bytes(data, "little")
        self.vcpus = tuple(vcpu_id for vcpu_id in range(highest + 1) if online >> vcpu_id & 1)

    def _read_toolstack(self, place: Place) -> Steps[XenstoreEntries]:
        (length,) = yield from self._source.unpack(layout.LEGACY_LENGTH)
        if length > XENSTORE_BYTES_MAX:
            raise place.too_large(f"{length} bytes, at most {XENSTORE_BYTES_MAX} are allowed")
        blob = yield from self._source.take(length)
        entries = parse_toolstack(bytes(blob), self._guest.bits, place)
        if entries and self._guest.pv:
            raise place.order("a PV guest has no device model")
        return entries

    def _read_param(self, chunk: int, body: Body, place: Place) -> Steps[None]:
        param = layout.LEGACY_HVM_PARAMS.get(chunk)
        if param is None:
            raise UnknownMandatoryRecord("unknown chunk", offset=place.offset, record=place.name)
        if self._guest.pv:
            raise place.order("a PV guest has no such parameter")
        (body.params[param],) = yield from self._source.unpack(layout.LEGACY_HVM_PARAM)

    def _judge_params(self, body: Body, place: Place) -> None:
        present = [param for param in _IOREQ_PAIR if param in body.params]
        if len(present) == 1:
            raise place.bad("only one of the chunks -19 and -20 (ioreq server) came before, they are a pair")


def _name_chunk(chunk: int) -> str:
    if chunk > 0:
        return "legacy page batch"
    try:
        return f"legacy chunk {chunk} ({LegacyChunk(chunk).name.lower().replace('_', ' ')})"
    except ValueError:
        return f"legacy chunk {chunk}"
