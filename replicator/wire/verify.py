"""Reads a whole stream, keeps nothing of it but numbers, and says whether it is valid.

Strict: the stream follows the specification to the letter and ends where it may end. Not strict: what a Xen
receiver would make of it: a checkpointed stream that breaks off is good up to its last whole checkpoint.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

from replicator.errors import TruncatedStream
from replicator.wire.decoder import StreamDecoder
from replicator.wire.faults import Strict
from replicator.wire.grammar import StreamKind
from replicator.wire.layout import Buffer, DomainType
from replicator.wire.records import (
    EmulatorContext,
    Item,
    PageRun,
    PageTable,
    record_name,
)

_READ_BYTES = 1 << 20


@runtime_checkable
class Readable(Protocol):
    """Something to read bytes from; b"" is the end."""

    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What a valid stream holds."""

    kind: StreamKind
    #: Of the libxc stream; None on a back channel, as the two below.
    version: int | None
    guest: DomainType | None
    #: Version of Xen that wrote the stream, (0, n) for others.
    xen_version: tuple[int, int] | None
    is_qemu_recording: bool
    #: How often each header and record occurs, by name.
    records: Mapping[str, int]
    #: Whole checkpoints.
    checkpoints: int
    #: Entries of all PAGE_DATA records, and how many of them came with a page.
    page_entries: int
    data_pages: int
    #: Size of the newest EMULATOR_CONTEXT's blob.
    device_state_bytes: int
    #: Bytes of whole headers and records.
    stream_bytes: int
    #: Bytes up to and with the last whole checkpoint (or END): what a receiver could use.
    usable_bytes: int
    #: Bytes behind `usable_bytes`: a round that was cut off. Always 0 in strict mode.
    discarded_bytes: int


class _Tally:
    """Counts while the records pass by."""

    def __init__(self) -> None:
        self.records: Counter[str] = Counter()
        self.page_entries = 0
        self.data_pages = 0
        self.device_state_bytes = 0

    def add(self, record: Item) -> None:
        if isinstance(record, PageRun) or (isinstance(record, PageTable) and record.first):
            return
        self.records[record_name(record)] += 1
        match record:
            case PageTable():
                self.page_entries += len(record.entries)
                self.data_pages += record.survey.data_pages
            case EmulatorContext():
                self.device_state_bytes = len(record.blob)


def verify_stream(
    source: Iterable[Buffer] | Readable, strict: bool = True, kind: StreamKind | None = None
) -> VerifyReport:
    """Read a stream to its end and report what it holds; raises WireError where it is not valid.

    `source` is something to read from, or the pieces themselves. `kind` None takes a plain or a Remus stream.
    """
    decoder = StreamDecoder(kind, judge=Strict() if strict else None)
    tally = _Tally()
    usable = fed = 0
    for piece in _pieces(source):
        fed += len(piece)
        for record in decoder.feed(piece):
            tally.add(record)
            if decoder.grammar.may_end:
                usable = decoder.offset
    try:
        decoder.finish()
        usable = decoder.offset
    except TruncatedStream:
        if strict or not decoder.grammar.checkpoints:
            raise
    return _report(decoder, tally, usable, fed)


def _report(decoder: StreamDecoder, tally: _Tally, usable: int, fed: int) -> VerifyReport:
    grammar = decoder.grammar
    domain = grammar.domain
    return VerifyReport(
        kind=grammar.kind or StreamKind.PLAIN,
        version=grammar.version,
        guest=domain.type if domain else None,
        xen_version=(domain.xen_major, domain.xen_minor) if domain else None,
        is_qemu_recording=domain is not None and domain.is_qemu_recording,
        records=dict(tally.records),
        checkpoints=grammar.checkpoints,
        page_entries=tally.page_entries,
        data_pages=tally.data_pages,
        device_state_bytes=tally.device_state_bytes,
        stream_bytes=decoder.offset,
        usable_bytes=usable,
        discarded_bytes=fed - usable,
    )


def _pieces(source: Iterable[Buffer] | Readable) -> Iterator[Buffer]:
    if isinstance(source, Readable):
        return iter(partial(source.read, _READ_BYTES), b"")
    if isinstance(source, bytes | bytearray | memoryview):
        return iter((source,))
    return iter(source)
