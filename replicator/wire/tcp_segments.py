"""TCP segments in Ethernet frames, read by the native core. `engine.compare.packet` does the same in Python, and all
that is no TCP; it is the oracle of the tests."""

from __future__ import annotations

import struct
from typing import Final

from replicator._native import ffi, lib

_SEGMENT: Final = ffi.typeof("struct rp_tcp_segment *")
#: seq, ack, flags, at, payload_at, end, key_bytes; then the key.
_NUMBERS: Final = struct.Struct("=7I")
_new: Final = ffi.new
_buffer: Final = ffi.buffer
_read: Final = lib.rp_tcp_read


def read_segment(
    frame: bytes, nic: int, from_guest: bool
) -> tuple[bytes, int, int, int, int, int, int] | None:
    """The connection's key (the guest's end first), seq, ack, flags, and where in the frame the header and the payload
    begin and the payload ends. None for a frame that holds no whole segment."""
    found = _new(_SEGMENT)
    if not _read(frame, len(frame), nic, from_guest, found):
        return None
    raw = _buffer(found)[:]
    seq, ack, flags, at, payload_at, end, key_bytes = _NUMBERS.unpack_from(raw)
    return raw[_NUMBERS.size : _NUMBERS.size + key_bytes], seq, ack, flags, at, payload_at, end
