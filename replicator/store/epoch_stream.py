"""Finds pages and device state in the bytes of one epoch.

The payloads of an epoch, joined, are a piece of a checkpointed libxl v2 stream:

    [libxl header, LIBXC_CONTEXT, libxc image header, domain header]   only where a stream starts
    PAGE_DATA and other libxc records ..., CHECKPOINT                  libxc layer
    [EMULATOR_XENSTORE_DATA], EMULATOR_CONTEXT, CHECKPOINT_END         libxl layer

`take` eats whole records and leaves an incomplete one to the caller, who offers it again with more bytes
behind it; where the sender cut its parts does not matter. Page contents are never copied here: a batch points
into the caller's buffer. Order beyond these three layers is the business of wire.grammar, not of the store.
"""

from __future__ import annotations

from array import array
from enum import Enum
from typing import NamedTuple

from replicator.errors import EpochError, NativeError, WireError
from replicator.limits import LIBXL_RECORD_BYTES_MAX, RECORD_BYTES_MAX
from replicator.memory.pages import GuestRam
from replicator.wire import layout
from replicator.wire.epoch_digest import EpochDigest, digest_page_data
from replicator.wire.layout import LibxcType, LibxlType
from replicator.wire.recording import parse_page_data_header

_PROLOGUE_BYTES = layout.LIBXL_HEADER.size + layout.RECORD_HEADER.size
_LIBXC_HEADERS_BYTES = layout.IMAGE_HEADER.size + layout.DOMAIN_HEADER.size
_RECORD_BYTES = layout.RECORD_HEADER.size


class _Layer(Enum):
    START = "start of the epoch"
    PROLOGUE = "stream prologue"
    LIBXC_HEADERS = "libxc headers"
    LIBXC = "libxc records"
    LIBXL = "libxl records"
    DONE = "after CHECKPOINT_END"


class PageBatch(NamedTuple):
    """Guest frames and, in the same order, their contents. `data` points into the buffer given to `take`."""

    pfns: array[int]
    data: memoryview


class EpochStream:
    """One epoch's reader. `ram` knows which frames the guest has; it is not touched."""

    def __init__(self, epoch: int, ram: GuestRam) -> None:
        self._epoch = epoch
        self._ram = ram
        #: Of the records that were read.
        self.digest = EpochDigest()
        self._layer = _Layer.START
        #: Blob of EMULATOR_CONTEXT without its sub-header, once it was seen.
        self.device_state: bytes | None = None

    @property
    def complete(self) -> bool:
        """CHECKPOINT_END was seen."""
        return self._layer is _Layer.DONE

    def take(self, view: memoryview) -> tuple[list[PageBatch], int]:
        """Read the whole records at the start of `view`; return their pages and how many bytes they were.

        Raises EpochError for bytes that are no epoch.
        """
        batches: list[PageBatch] = []
        rest = view
        while rest and (size := self._size_of_next(rest)):
            batch = self._read(rest[:size])
            if batch is not None:
                batches.append(batch)
            rest = rest[size:]
        return batches, len(view) - len(rest)

    def _size_of_next(self, view: memoryview) -> int:
        """Bytes of the next header or padded record; 0 when it is not whole yet. `view` is not empty."""
        if self._layer is _Layer.START:
            if len(view) < _RECORD_BYTES:
                return 0
            is_start = int.from_bytes(view[:_RECORD_BYTES], "big") == layout.LIBXL_IDENT
            self._layer = _Layer.PROLOGUE if is_start else _Layer.LIBXC
        layer = self._layer
        if layer is _Layer.LIBXC or layer is _Layer.LIBXL:
            size = self._record_size(view)
        elif layer is _Layer.PROLOGUE:
            size = _PROLOGUE_BYTES
        elif layer is _Layer.LIBXC_HEADERS:
            size = _LIBXC_HEADERS_BYTES
        else:
            raise self._error(f"{len(view)} bytes after CHECKPOINT_END")
        return size if 0 < size <= len(view) else 0

    def _record_size(self, view: memoryview) -> int:
        if len(view) < _RECORD_BYTES:
            return 0
        kind, length = layout.RECORD_HEADER.unpack_from(view)
        limit = RECORD_BYTES_MAX if self._layer is _Layer.LIBXC else LIBXL_RECORD_BYTES_MAX
        if length > limit:
            raise self._error(f"record {kind:#x} of {length} bytes is larger than {limit}")
        return _RECORD_BYTES + layout.padded(length)

    def _read(self, view: memoryview) -> PageBatch | None:
        layer = self._layer
        if layer is _Layer.LIBXC and layout.RECORD_HEADER.unpack_from(view)[0] == LibxcType.PAGE_DATA:
            return self._read_pages(view)
        self.digest.add(view)
        if layer is _Layer.LIBXC:
            self._read_libxc(view)
        elif layer is _Layer.PROLOGUE:
            record = layout.RECORD_HEADER.unpack_from(view, layout.LIBXL_HEADER.size)
            if record != (LibxlType.LIBXC_CONTEXT, 0):
                raise self._error("the stream's first record is not LIBXC_CONTEXT")
            self._layer = _Layer.LIBXC_HEADERS
        elif layer is _Layer.LIBXC_HEADERS:
            self._layer = _Layer.LIBXC
        else:
            kind, length = layout.RECORD_HEADER.unpack_from(view)
            self._read_libxl(kind, view[_RECORD_BYTES : _RECORD_BYTES + length])
        return None

    def _read_libxc(self, view: memoryview) -> None:
        kind, _ = layout.RECORD_HEADER.unpack_from(view)
        if kind == LibxcType.CHECKPOINT:
            self._layer = _Layer.LIBXL

    def _read_pages(self, view: memoryview) -> PageBatch:
        try:
            pfns, offset = parse_page_data_header(view, self._ram.layout.pfn_limit)
            self._ram.check_frames(pfns)
        except (WireError, NativeError) as error:
            raise self._error(str(error)) from error
        self.digest.add_page_data(digest_page_data(view[:offset], view[offset:]))
        return PageBatch(pfns, view[offset:])

    def _read_libxl(self, kind: int, body: memoryview) -> None:
        if kind == LibxlType.CHECKPOINT_END:
            self._layer = _Layer.DONE
        elif kind == LibxlType.EMULATOR_CONTEXT:
            if self.device_state is not None:
                raise self._error("second EMULATOR_CONTEXT")
            if len(body) <= layout.EMULATOR.size:
                raise self._error("EMULATOR_CONTEXT without a device state")
            self.device_state = bytes(body[layout.EMULATOR.size :])

    def _error(self, what: str) -> EpochError:
        return EpochError(
            f"epoch {self._epoch}: {what} ({self._layer.value})",
            epoch=self._epoch,
            hint="the primary's stream is damaged; the link resyncs from the last committed epoch",
        )
