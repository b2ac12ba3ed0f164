"""By how much the numbers of one connection differ between two copies of a guest.

Sequence numbers and timestamps of a connection that was born after a checkpoint begin differently on the two sides
(RFC 6528, 7323): `seq` and `ts` are the secondary's less the primary's. The world knows the primary's only.

    to the secondary's guest       ack + seq, SACK edges + seq, TSecr + ts
    from it, once it speaks        seq - seq, TSval - ts, and never less than the world has seen
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from replicator.engine.compare.checksum import sum_words, update_checksum
from replicator.engine.compare.numbers import MASK, is_at_or_after
from replicator.engine.compare.packet import ACK, TCP_HEADER_BYTES, TcpSegment

_U16 = struct.Struct("!H")
_U32 = struct.Struct("!I")
_SEQ_AT, _ACK_AT, _CHECKSUM_AT = 4, 8, 16


@dataclass(frozen=True, slots=True)
class Shift:
    """Modulo 2^32."""

    seq: int = 0
    ts: int = 0

    def __add__(self, other: Shift) -> Shift:
        """Of `self` from one copy to the next, and `other` from there on."""
        return Shift((self.seq + other.seq) & MASK, (self.ts + other.ts) & MASK)


NO_SHIFT: Final = Shift()


def shift_input(frame: bytes, tcp: TcpSegment, shift: Shift, *, ts_newest: int | None = None) -> bytes:
    """A frame of the world for the shifted guest. `ts_newest` is the newest TSval that this guest said: an echo of
    a later one, which a floor may cause, becomes an echo of that."""
    options = tcp.options(frame)
    if options.is_signed or not tcp.flags & ACK:
        return frame
    changes: list[tuple[int, int]] = []
    if shift.seq:
        changes.append((tcp.at + _ACK_AT, tcp.ack + shift.seq))
        for place in options.sack_edges_at:
            at = tcp.at + TCP_HEADER_BYTES + place
            changes.append((at, _U32.unpack_from(frame, at)[0] + shift.seq))
    if options.tsval is not None and options.tsecr:
        echo = (options.tsecr + shift.ts) & MASK
        if ts_newest is not None and is_at_or_after(echo, ts_newest):
            echo = ts_newest
        changes.append((tcp.at + TCP_HEADER_BYTES + options.times_at + 4, echo))
    return _write(frame, tcp, changes)


def shift_output(frame: bytes, tcp: TcpSegment, shift: Shift, *, ts_floor: int | None = None) -> bytes:
    """A frame of the shifted guest for the world. Its TSval is `ts_floor` at least, or the world would take it for
    an old duplicate (PAWS) and drop it."""
    options = tcp.options(frame)
    if options.is_signed:
        return frame
    changes: list[tuple[int, int]] = []
    if shift.seq:
        changes.append((tcp.at + _SEQ_AT, tcp.seq - shift.seq))
    if options.tsval is not None:
        stamp = (options.tsval - shift.ts) & MASK
        if ts_floor is not None and is_at_or_after(ts_floor, stamp):
            stamp = ts_floor
        changes.append((tcp.at + TCP_HEADER_BYTES + options.times_at, stamp))
    return _write(frame, tcp, changes)


def _write(frame: bytes, tcp: TcpSegment, changes: list[tuple[int, int]]) -> bytes:
    """Set 32-bit words; the checksum follows the change of the whole header, so that no word need be aligned."""
    changed = [(at, value & MASK) for at, value in changes if _U32.unpack_from(frame, at)[0] != value & MASK]
    if not changed:
        return frame
    out = bytearray(frame)
    for at, value in changed:
        _U32.pack_into(out, at, value)
    header = slice(tcp.at, tcp.payload_at)
    (checksum,) = _U16.unpack_from(frame, tcp.at + _CHECKSUM_AT)
    _U16.pack_into(
        out,
        tcp.at + _CHECKSUM_AT,
        update_checksum(checksum, sum_words(frame[header]), sum_words(out[header])),
    )
    return bytes(out)
