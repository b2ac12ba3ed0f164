"""Items of a decoder to the bytes of a stream of the newest version, in the framing that is asked for.

    LIBXC   image header, domain header, libxc records
    LIBXL   libxl header, LIBXC_CONTEXT, the same, device model, libxl END
    XL      xl header with the guest's configuration, the same

Pages pass through as views, never copied. What a framing has no place for is dropped and counted; the device
model is part of the guest, so it is dropped only on demand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from enum import Enum

from replicator.errors import LocalWireError
from replicator.wire import layout, xl
from replicator.wire.encoder import encode_record
from replicator.wire.layout import Buffer, LibxcType
from replicator.wire.records import (
    CheckpointEnd,
    CheckpointRecord,
    CheckpointState,
    CpuidPolicy,
    DomainHeader,
    EmulatorContext,
    EmulatorXenstoreData,
    End,
    Handshake,
    ImageHeader,
    Item,
    LibxcContext,
    LibxlEnd,
    LibxlHeader,
    LibxlRecord,
    MsrPolicy,
    PageRun,
    PageTable,
    PvInfo,
    Record,
    StaticDataEnd,
    XlHeader,
    record_name,
)

_NEWEST_VERSION = layout.IMAGE_VERSIONS[-1]
#: What stands before STATIC_DATA_END.
_STATIC = (DomainHeader, PvInfo, CpuidPolicy, MsrPolicy)


class Framing(Enum):
    """What is around the libxc records."""

    LIBXC = "libxc"
    LIBXL = "libxl"
    XL = "xl"


class Rewriter:
    """Writes one stream. `framing` None keeps that of the source; a bare legacy stream counts as libxl.

    `xl_header` takes the place of the source's. LocalWireError when the framing has no place for the device
    model, unless `drop_device_model`, or for COLO.
    """

    def __init__(
        self,
        framing: Framing | None = None,
        *,
        xl_header: XlHeader | None = None,
        drop_device_model: bool = False,
    ) -> None:
        self._framing = framing
        self._xl_header = xl_header
        self._drop_device_model = drop_device_model
        self._started = False
        self._is_source_libxl = False
        # Version 2 has no STATIC_DATA_END; it is written before the first record that needs it.
        self._owes_static_end = False
        #: What was left out, by the names of the records.
        self.dropped: Counter[str] = Counter()

    @property
    def framing(self) -> Framing | None:
        """What is written; None before the first header told what the source has."""
        return self._framing

    def write(self, item: Item) -> Iterator[Buffer]:
        """The bytes that this item adds. A PageRun's are valid as long as the run."""
        match item:
            case PageRun():
                yield item.pages
            case PageTable():
                yield from self._pay_static_end()
                yield _table_bytes(item)
            case XlHeader():
                yield from self._start(Framing.XL, item)
            case Handshake():
                self.dropped[Handshake.NAME] += 1
            case LibxlHeader():
                self._is_source_libxl = True
                yield from self._start(Framing.LIBXL, None)
                if self._framing is not Framing.LIBXC:
                    yield encode_record(item)
            case ImageHeader():
                yield from self._write_image_header(item)
            case _ if isinstance(item, LibxlRecord):
                yield from self._write_libxl(item)
            case _:
                yield from self._write_libxc(item)

    def _start(self, found: Framing, header: XlHeader | None) -> Iterator[Buffer]:
        """Once: settle the framing, and write an xl header or say that it is left out."""
        if self._started:
            return
        self._started = True
        if self._framing is None:
            self._framing = Framing.XL if self._xl_header else found
        if self._framing is Framing.XL:
            yield xl.encode(self._choose_xl_header(header))
        elif header is not None:
            self.dropped[XlHeader.NAME] += 1

    def _choose_xl_header(self, header: XlHeader | None) -> XlHeader:
        chosen = self._xl_header or header or xl.make_header(None, is_json=True)
        return XlHeader(chosen.is_json, True, chosen.optional_flags, chosen.optional_data)

    def _write_image_header(self, header: ImageHeader) -> Iterator[Buffer]:
        yield from self._start(Framing.LIBXC, None)
        if self._framing is not Framing.LIBXC and not self._is_source_libxl:
            yield encode_record(LibxlHeader())
            yield encode_record(LibxcContext())
        self._owes_static_end = header.version < _NEWEST_VERSION
        yield encode_record(ImageHeader(_NEWEST_VERSION))

    def _write_libxl(self, record: LibxlRecord) -> Iterator[Buffer]:
        if self._framing is not Framing.LIBXC:
            yield encode_record(record)
        elif isinstance(record, CheckpointState):
            raise LocalWireError("COLO needs libxl around the libxc stream", record=record_name(record))
        elif isinstance(record, EmulatorContext | EmulatorXenstoreData):
            if not self._drop_device_model:
                raise LocalWireError(
                    "a libxc stream has no place for the device model",
                    record=record_name(record),
                    hint="write libxl or xl framing; --drop-device-model writes the stream without it",
                )
            self.dropped[record_name(record)] += 1
        elif not isinstance(record, LibxcContext | CheckpointEnd | LibxlEnd):
            raise LocalWireError("no libxc record", record=record_name(record))

    def _write_libxc(self, record: Record) -> Iterator[Buffer]:
        if isinstance(record, StaticDataEnd):
            self._owes_static_end = False
        elif not isinstance(record, _STATIC):
            yield from self._pay_static_end()
        yield encode_record(record)
        if self._framing is Framing.LIBXC or self._is_source_libxl:
            return
        if isinstance(record, CheckpointRecord):
            yield encode_record(CheckpointEnd())
        elif isinstance(record, End):
            yield encode_record(LibxlEnd())

    def _pay_static_end(self) -> Iterator[Buffer]:
        if self._owes_static_end:
            self._owes_static_end = False
            yield encode_record(StaticDataEnd())


def _table_bytes(table: PageTable) -> bytes:
    """Entries as they go over the wire; before the first of them the header of their record."""
    entries = layout.u64_bytes(table.entries)
    if table.first:
        return entries
    return layout.PAGE_DATA_RECORD.pack(LibxcType.PAGE_DATA, table.body_bytes, table.count, 0) + entries
