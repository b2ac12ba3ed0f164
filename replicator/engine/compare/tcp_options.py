"""TCP options: those that a comparison and a rewriting need, and where they stand."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

_END, _NOP, _SACK, _TIMESTAMPS = 0, 1, 5, 8
#: MD5 (RFC 2385) and TCP-AO (RFC 5925): the header is signed, nobody else may change it.
_SIGNATURES: Final = (19, 29)
_TIMES = struct.Struct("!II")


class TcpOptions(NamedTuple):
    tsval: int | None = None
    tsecr: int = 0
    #: Places of TSval and of the SACK edges, counted in the option bytes.
    times_at: int = 0
    sack_edges_at: tuple[int, ...] = ()
    is_signed: bool = False
    #: What a SYN negotiates: (kind, value) of each option, without times.
    offers: tuple[tuple[int, bytes], ...] = ()


NO_OPTIONS: Final = TcpOptions()


def parse_options(raw: bytes) -> TcpOptions:
    """Up to the first one that is broken."""
    tsval, tsecr, times_at = None, 0, 0
    edges: tuple[int, ...] = ()
    is_signed = False
    offers: list[tuple[int, bytes]] = []
    at = 0
    while at < len(raw) and raw[at] != _END:
        if raw[at] == _NOP:
            at += 1
            continue
        if at + 1 >= len(raw) or raw[at + 1] < 2 or at + raw[at + 1] > len(raw):
            break
        kind, size = raw[at], raw[at + 1]
        if kind == _TIMESTAMPS and size == 2 + _TIMES.size:
            times_at = at + 2
            tsval, tsecr = _TIMES.unpack_from(raw, times_at)
            offers.append((kind, b""))
        elif kind == _SACK and (size - 2) % 8 == 0:
            edges = tuple(range(at + 2, at + size, 4))
        else:
            is_signed = is_signed or kind in _SIGNATURES
            offers.append((kind, b"" if kind in _SIGNATURES else raw[at + 2 : at + size]))
        at += size
    return TcpOptions(tsval, tsecr, times_at, edges, is_signed, tuple(offers))
