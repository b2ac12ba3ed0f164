"""Finds pages and device state in the bytes of one epoch.

The payloads of an epoch, joined, are a piece of a checkpointed libxl v2 stream:

    [libxl header, LIBXC_CONTEXT, libxc image header, domain header]   only where a stream starts
    PAGE_DATA and other libxc records ..., CHECKPOINT                  libxc layer
    [EMULATOR_XENSTORE_DATA], EMULATOR_CONTEXT, CHECKPOINT_END         libxl layer

`take` eats whole records and leaves an incomplete one to the caller, who offers it again with more bytes behind
it; where the sender cut its parts does not matter. Page contents are never copied here: a batch points into the
caller's buffer. Order beyond these three layers is the business of wire.grammar, not of the store.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

from replicator.errors import EpochError
from replicator.limits import LIBXL_RECORD_BYTES_MAX, RECORD_BYTES_MAX
from replicator.units import PAGE_SIZE

# libxl stream header, u64 ident; LIBXC_CONTEXT follows it.
_LIBXL_IDENT = struct.pack(">Q", 0x4C6962786C466D74)
_LIBXL_HEADER_BYTES = 16
# libxc image header 24 bytes, domain header 16.
_LIBXC_HEADERS_BYTES = 40
_RECORD = struct.Struct("<II")
_RECORD_ALIGN = 8
#: count, reserved; then the frames as u64, then their pages.
_PAGE_DATA_HEAD = struct.Struct("<II")
_EMULATOR_SUBHEADER_BYTES = 8

_PAGE_DATA = 0x01
_CHECKPOINT = 0x0E
_LIBXL_LIBXC_CONTEXT = 1
_LIBXL_EMULATOR_CONTEXT = 3
_LIBXL_CHECKPOINT_END = 4


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
    """One epoch's reader. `check_pfns` raises when a frame does not exist in the guest."""

    def __init__(self, epoch: int, ram_pages: int, check_pfns: Callable[[array[int]], None]) -> None:
        self._epoch = epoch
        self._ram_pages = ram_pages
        self._check_pfns = check_pfns
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
        position = 0
        while size := self._size_of_next(view[position:]):
            batch = self._read(view[position : position + size])
            if batch is not None:
                batches.append(batch)
            position += size
        return batches, position

    def _size_of_next(self, view: memoryview) -> int:
        """Bytes of the next header or padded record; 0 when it is not whole yet."""
        if not view:
            return 0
        if self._layer is _Layer.START:
            if len(view) < len(_LIBXL_IDENT):
                return 0
            self._layer = _Layer.PROLOGUE if view[:8] == _LIBXL_IDENT else _Layer.LIBXC
        if self._layer is _Layer.DONE:
            raise self._error(f"{len(view)} bytes after CHECKPOINT_END")
        if self._layer is _Layer.PROLOGUE:
            size = _LIBXL_HEADER_BYTES + _RECORD.size
        elif self._layer is _Layer.LIBXC_HEADERS:
            size = _LIBXC_HEADERS_BYTES
        else:
            size = self._record_size(view)
        return size if 0 < size <= len(view) else 0

    def _record_size(self, view: memoryview) -> int:
        if len(view) < _RECORD.size:
            return 0
        kind: int
        length: int
        kind, length = _RECORD.unpack_from(view)
        limit = RECORD_BYTES_MAX if self._layer is _Layer.LIBXC else LIBXL_RECORD_BYTES_MAX
        if length > limit:
            raise self._error(f"record {kind:#x} of {length} bytes is larger than {limit}")
        return _RECORD.size + -(-length // _RECORD_ALIGN) * _RECORD_ALIGN

    def _read(self, view: memoryview) -> PageBatch | None:
        if self._layer is _Layer.PROLOGUE:
            if _RECORD.unpack_from(view, _LIBXL_HEADER_BYTES) != (_LIBXL_LIBXC_CONTEXT, 0):
                raise self._error("the stream's first record is not LIBXC_CONTEXT")
            self._layer = _Layer.LIBXC_HEADERS
            return None
        if self._layer is _Layer.LIBXC_HEADERS:
            self._layer = _Layer.LIBXC
            return None
        kind, length = _RECORD.unpack_from(view)
        body = view[_RECORD.size : _RECORD.size + length]
        if self._layer is _Layer.LIBXC:
            return self._read_libxc(kind, body)
        self._read_libxl(kind, body)
        return None

    def _read_libxc(self, kind: int, body: memoryview) -> PageBatch | None:
        if kind == _CHECKPOINT:
            self._layer = _Layer.LIBXL
        elif kind == _PAGE_DATA:
            return self._read_pages(body)
        return None

    def _read_pages(self, body: memoryview) -> PageBatch:
        count = _PAGE_DATA_HEAD.unpack_from(body)[0] if len(body) >= _PAGE_DATA_HEAD.size else 0
        start = _PAGE_DATA_HEAD.size + count * 8
        if not count or len(body) != start + count * PAGE_SIZE:
            raise self._error(f"PAGE_DATA of {len(body)} bytes for {count} frames")
        pfns = array("Q", body[_PAGE_DATA_HEAD.size : start].tobytes())
        # Bits 63-60 are the page's type: of an HVM guest only 0 (normal) comes with data, so any other is too large.
        if max(pfns) >= self._ram_pages:
            raise self._error(f"frame {max(pfns):#x} lies beyond the guest")
        self._check_pfns(pfns)
        return PageBatch(pfns, body[start:])

    def _read_libxl(self, kind: int, body: memoryview) -> None:
        if kind == _LIBXL_CHECKPOINT_END:
            self._layer = _Layer.DONE
        elif kind == _LIBXL_EMULATOR_CONTEXT:
            if self.device_state is not None:
                raise self._error("second EMULATOR_CONTEXT")
            if len(body) <= _EMULATOR_SUBHEADER_BYTES:
                raise self._error("EMULATOR_CONTEXT without a device state")
            self.device_state = bytes(body[_EMULATOR_SUBHEADER_BYTES:])

    def _error(self, what: str) -> EpochError:
        return EpochError(
            f"epoch {self._epoch}: {what} ({self._layer.value})",
            epoch=self._epoch,
            hint="the primary's stream is damaged; the link resyncs from the last committed epoch",
        )
