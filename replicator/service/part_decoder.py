"""Rebuilds the parts of an epoch from what has travelled, exactly as the primary's stream has them.

Bases are read from the replica's RAM, which holds the epoch before until this one is applied. A part that does not come
out as it was announced is an EpochError, before the store has seen a byte of it.
"""

from __future__ import annotations

from array import array

import xxhash

from replicator._native import ffi
from replicator.errors import EpochError, NativeError, WireError
from replicator.memory.encodings import decode_pages
from replicator.memory.pages import GuestRam
from replicator.units import PAGE_SIZE
from replicator.wire.coded_part import PAGES, PLAIN, count_blocks, split_pages
from replicator.wire.recording import page_data_header
from replicator.wire.session import EpochPart

_allocate = ffi.new_allocator(should_clear_after_alloc=False)


def rebuild_part(header: EpochPart, payload: memoryview, ram: GuestRam | None) -> memoryview:
    """The part that `payload` stands for. `ram` has the bases; None when the epoch may not have any.

    EpochError when it cannot be rebuilt.
    """
    if header.encoding == PLAIN:
        return payload
    try:
        part = (
            _rebuild_pages(header, payload, ram)
            if header.encoding == PAGES
            else _rebuild_blocks(header, payload)
        )
    except (WireError, NativeError) as error:
        raise _refuse(header, str(error)) from error
    if xxhash.xxh3_64_digest(part) != header.check:
        raise _refuse(header, "it does not come out as it was sent: damaged, or made upon other bases")
    return part


def _rebuild_pages(header: EpochPart, payload: memoryview, ram: GuestRam | None) -> memoryview:
    pfns, encoded = split_pages(payload, header.part_bytes)
    if ram is not None:
        ram.check_frames(pfns)
    head = page_data_header(pfns)
    # Each byte is written: zeroing it before would cost as much again.
    part = memoryview(ffi.buffer(_allocate("uint8_t[]", header.part_bytes)))
    part[: len(head)] = head
    decode_pages(pfns, encoded, ram, part[len(head) :])
    return part


def _rebuild_blocks(header: EpochPart, payload: memoryview) -> memoryview:
    blocks = count_blocks(header.part_bytes)
    body = memoryview(bytearray(blocks * PAGE_SIZE))
    decode_pages(array("Q", range(blocks)), payload, None, body)
    return body[: header.part_bytes]


def _refuse(header: EpochPart, what: str) -> EpochError:
    return EpochError(
        f"epoch {header.epoch}: part {header.index} is refused: {what}",
        epoch=header.epoch,
        hint="the primary sends the epoch anew, without bases",
    )
