"""Page encodings: how pages travel between the daemons, and how the far end makes them again, byte for byte.

Each page of a body is encoded by the method that makes it small: nothing for a page of zeros or one that is as it was
sent last, the difference to what was sent last, an LZ4 block, or the page as it is. native/encode.h has the form.

The sender's bases are in a `BaseCache`, the receiver's in the guest's RAM. Both must be the same version of the page:
nothing here can tell when they are not, only the digest of the epoch does. An encoded body says nothing of the frames
either, the list of them travels beside it.
"""

from __future__ import annotations

import errno
from array import array
from enum import IntEnum
from operator import add
from typing import NamedTuple

from replicator._native import ffi, lib
from replicator.errors import BadRecord, RemoteWireError, require
from replicator.frozen import frozen
from replicator.memory.bases import BaseCache
from replicator.memory.bitmap import frames_pointer
from replicator.memory.check import check
from replicator.memory.pages import Buffer, GuestRam
from replicator.units import PAGE_SIZE

#: Zeroing the worst case would take longer than encoding.
_allocate = ffi.new_allocator(should_clear_after_alloc=False)
_RECORD = "encoded pages"
#: What each error code of the decoder says of a page; the first one also of the body as a whole.
_FAULTS = {
    -errno.EMSGSIZE: "the table of lengths and the data differ",
    -errno.EINVAL: "a method that there is not, or a length that it cannot have",
    -errno.EPERM: "it needs a base, and none may be used here",
    -errno.ERANGE: "it needs a base, and the frame is no RAM of this guest",
    -errno.EBADMSG: "its data cannot be decoded",
}


class PageMethod(IntEnum):
    """How a page is encoded."""

    ZERO = lib.RP_PAGE_ZERO
    #: As it was sent last.
    SAME = lib.RP_PAGE_SAME
    #: The difference to what was sent last.
    DELTA = lib.RP_PAGE_DELTA
    LZ4 = lib.RP_PAGE_LZ4
    RAW = lib.RP_PAGE_RAW


@frozen
class EncodingStats:
    """What became of pages, by method (the index is a PageMethod)."""

    pages: tuple[int, ...] = (0,) * len(PageMethod)
    #: Encoded data; the table (2 bytes a page) is not counted.
    data_bytes: tuple[int, ...] = (0,) * len(PageMethod)

    def __add__(self, other: EncodingStats) -> EncodingStats:
        return EncodingStats(
            tuple(map(add, self.pages, other.pages)),
            tuple(map(add, self.data_bytes, other.data_bytes)),
        )


class EncodedPages(NamedTuple):
    """An encoded body, in the room that was given for it or in memory of its own."""

    data: memoryview
    stats: EncodingStats


def encode_bound(count: int) -> int:
    """Most bytes that `count` encoded pages have."""
    return int(lib.rp_encode_bound(count))


def encode_pages(
    pfns: array[int],
    body: Buffer,
    bases: BaseCache | None = None,
    *,
    compress: bool = True,
    head: bytes = b"",
    room: Buffer | None = None,
) -> EncodedPages:
    """Encode the pages of `body`, which are those of the frames in this order; without `compress` none by LZ4. `head`
    is put in front of the encoded body. Both go to the start of `room`, which has `encode_bound` bytes more than the
    head; None: new memory. Only reads the bases: several threads may do this at the same time, while none updates the
    cache."""
    require(len(body) == len(pfns) * PAGE_SIZE, "encode: body and frame list differ in size")
    bound = encode_bound(len(pfns))
    require(room is None or len(room) >= len(head) + bound, "encode: the room is too small")
    out = (
        _allocate("uint8_t[]", len(head) + bound)
        if room is None
        else ffi.from_buffer("uint8_t[]", room, require_writable=True)
    )
    ffi.memmove(out, head, len(head))
    size, stats = ffi.new("uint64_t *"), ffi.new("struct rp_page_stats *")
    code = lib.rp_encode_pages(
        frames_pointer(pfns),
        len(pfns),
        ffi.from_buffer("uint8_t[]", body),
        ffi.NULL if bases is None else bases.native,
        compress,
        out + len(head),
        bound,
        size,
        stats,
    )
    check(code, f"cannot encode {len(pfns)} pages")
    counted = EncodingStats(tuple(ffi.unpack(stats.pages, 5)), tuple(ffi.unpack(stats.bytes, 5)))
    return EncodedPages(memoryview(ffi.buffer(out, len(head) + size[0])), counted)


def decode_pages(pfns: array[int], data: Buffer, ram: GuestRam | None, out: Buffer) -> None:
    """Make the pages again, into `out`, which has exactly their size. Bases are read from `ram`, which nobody may
    change meanwhile; None refuses pages that need one. RemoteWireError that names the page for bytes that are no
    such body; then `out` holds anything."""
    require(len(out) == len(pfns) * PAGE_SIZE, "decode: buffer and frame list differ in size")
    bad_index = ffi.new("uint64_t *")
    code = lib.rp_decode_pages(
        frames_pointer(pfns),
        len(pfns),
        ffi.from_buffer("uint8_t[]", data),
        len(data),
        ffi.NULL if ram is None else ram.native,
        ffi.from_buffer("uint8_t[]", out, require_writable=True),
        bad_index,
    )
    if code != 0:
        raise _describe(code, pfns, bad_index[0])


def _describe(code: int, pfns: array[int], index: int) -> RemoteWireError:
    where = f"page {index} (frame {pfns[index]:#x})" if index < len(pfns) else f"{len(pfns)} pages"
    hint = "do both hosts run the same version of replicator?"
    return BadRecord(f"{where}: {_FAULTS[code]}", record=_RECORD, hint=hint)
