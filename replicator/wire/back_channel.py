"""What COLO's secondary says of checkpoints, as records of a libxl stream's back channel.

A word is one CHECKPOINT_STATE, and behind SVM_SUSPENDED the pfns that the secondary's VM has written, in as many
CHECKPOINT_DIRTY_PFN_LIST records as they need: each piece fits one message. This file does not know when a word is said.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Final, NamedTuple

import xxhash

from replicator.errors import TruncatedStream
from replicator.wire import layout, libxc, libxl
from replicator.wire.layout import CheckpointStateId, LibxcType, LibxlType
from replicator.wire.records import CheckpointState, DirtyPfnList, Place

#: Of one list; 128 KiB.
PFNS_MAX: Final = 1 << 14
#: The largest piece of a word.
PIECE_BYTES_MAX: Final = 3 * layout.RECORD_HEADER.size + layout.U64_BYTES * (PFNS_MAX + 1)


class Piece(NamedTuple):
    records: bytes
    #: Another piece of the same word follows.
    more: bool


def state_word(state: CheckpointStateId) -> bytes:
    """A word without pages."""
    return libxl.encode(CheckpointState(state))


def suspended_word(pfns: array[int]) -> Iterator[Piece]:
    """`pfns`, array('Q'), are those that the secondary's VM has written; one list at least, which may be empty."""
    head = state_word(CheckpointStateId.SVM_SUSPENDED)
    for first in range(0, max(len(pfns), 1), PFNS_MAX):
        last = first + PFNS_MAX
        yield Piece(head + libxc.encode(DirtyPfnList(pfns[first:last])), last < len(pfns))
        head = b""


def check_of(records: bytes | memoryview) -> bytes:
    """Digest of a piece, 16 bytes. Without keys nothing else would show that a pfn became another one on its way, and
    the page that it stood for would stay different on both sides."""
    return xxhash.xxh3_128_digest(records)


def parse_piece(records: memoryview, pfn_end: int) -> tuple[CheckpointStateId | None, array[int]]:
    """The state that a piece begins with, if it does, and its pfns, all below `pfn_end`.

    BadRecord for any other record, TruncatedStream for a part of one."""
    state, pfns, at = None, array("Q"), 0
    while at < len(records):
        record, end = _read(records, at)
        if isinstance(record, DirtyPfnList):
            if record.pfns and max(record.pfns) >= pfn_end:
                raise _place(at).bad(f"pfn {max(record.pfns):#x} is beyond the guest's {pfn_end:#x}")
            pfns.extend(record.pfns)
        elif at:
            raise _place(at).bad("a state stands behind other records")
        else:
            state = record.id
        at = end
    return state, pfns


def _read(records: memoryview, at: int) -> tuple[CheckpointState | DirtyPfnList, int]:
    start = at + layout.RECORD_HEADER.size
    if start > len(records):
        raise TruncatedStream("a record header breaks off", offset=at, record="back channel")
    record_type, length = layout.RECORD_HEADER.unpack_from(records, at)
    if length > PIECE_BYTES_MAX:
        raise _place(at).bad(f"body of {length} bytes")
    end = start + layout.padded(length)
    if end > len(records):
        raise TruncatedStream(f"{len(records) - start} bytes of {length}", offset=at, record="back channel")
    body = records[start : start + length]
    if record_type == LibxlType.CHECKPOINT_STATE:
        place = Place(at, LibxlType.CHECKPOINT_STATE.name)
        libxl.check_length(record_type, length, place)
        state = libxl.decode_body(record_type, body, place)
        assert isinstance(state, CheckpointState)
        return state, end
    if record_type == LibxcType.CHECKPOINT_DIRTY_PFN_LIST:
        pfns = libxc.decode_body(record_type, body, Place(at, LibxcType.CHECKPOINT_DIRTY_PFN_LIST.name))
        assert isinstance(pfns, DirtyPfnList)
        return pfns, end
    raise _place(at).bad(f"type {record_type:#x} does not belong here")


def _place(at: int) -> Place:
    return Place(at, "back channel")
