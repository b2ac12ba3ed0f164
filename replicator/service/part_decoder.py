"""Rebuilds the parts of an epoch from what has travelled, exactly as the primary's stream has them.

Bases are read from the replica's RAM, which holds the epoch before until this one is applied. A part that does not come
out as it was announced is an EpochError, before the store has seen a byte of it.
"""

from __future__ import annotations

from array import array

import xxhash

from replicator._native import ffi
from replicator.errors import EpochError, NativeError, WireError
from replicator.limits import PART_BYTES_MAX
from replicator.memory.encodings import decode_pages
from replicator.memory.pages import GuestRam
from replicator.units import PAGE_SIZE
from replicator.wire.coded_part import PAGES, PLAIN, count_blocks, split_pages
from replicator.wire.epoch_digest import digest_page_data
from replicator.wire.recording import page_data_header
from replicator.wire.session import EpochPart

#: What is in the room is overwritten.
_allocate = ffi.new_allocator(should_clear_after_alloc=False)
#: A part, and what it hashes to.
Rebuilt = tuple[memoryview, bytes]


class PartDecoder:
    """Rebuilds one part after the other, each in the memory of the one before: new memory for each would cost more than
    what is done with it."""

    def __init__(self) -> None:
        # Of the largest part, in whole blocks; what no part needs is never touched.
        self._room = memoryview(ffi.buffer(_allocate("uint8_t[]", PART_BYTES_MAX)))

    def rebuild(self, header: EpochPart, payload: memoryview, ram: GuestRam | None) -> memoryview:
        """The part that `payload` stands for, until the next one is rebuilt. `ram` has the bases; None when the epoch
        may not have any.

        EpochError when it cannot be rebuilt.
        """
        if header.encoding == PLAIN:
            return payload
        make = self._make_pages if header.encoding == PAGES else self._make_blocks
        try:
            part, digest = make(header, payload, ram)
        except (WireError, NativeError) as error:
            raise _refuse(header, str(error)) from error
        if digest != header.check:
            raise _refuse(header, "it does not come out as it was sent: damaged, or made upon other bases")
        return part

    def _make_pages(self, header: EpochPart, payload: memoryview, ram: GuestRam | None) -> Rebuilt:
        pfns, encoded = split_pages(payload, header.part_bytes)
        if ram is not None:
            ram.check_frames(pfns)
        head = page_data_header(pfns)
        part = self._room[: header.part_bytes]
        part[: len(head)] = head
        pages = part[len(head) :]
        decode_pages(pfns, encoded, ram, pages)
        return part, digest_page_data(head, pages)

    def _make_blocks(self, header: EpochPart, payload: memoryview, _: GuestRam | None) -> Rebuilt:
        blocks = count_blocks(header.part_bytes)
        decode_pages(array("Q", range(blocks)), payload, None, self._room[: blocks * PAGE_SIZE])
        part = self._room[: header.part_bytes]
        return part, xxhash.xxh3_128_digest(part)


def _refuse(header: EpochPart, what: str) -> EpochError:
    return EpochError(
        f"epoch {header.epoch}: part {header.index} is refused: {what}",
        epoch=header.epoch,
        hint="the primary sends the epoch anew, without bases",
    )
