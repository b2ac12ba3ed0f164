"""Frames of guests and their peers, made field by field, and a checksum of its own to check those of the code."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from ipaddress import ip_address

GUEST_MAC = bytes.fromhex("525400000001")
PEER_MAC = bytes.fromhex("525400000002")
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
NOP = b"\1"
SYN_OPTIONS = bytes.fromhex("020405b4") + b"\4\2" + b"\3\3\7"


def ones_sum(data: bytes) -> int:
    """The ones' complement sum, as a remainder (2^16 is 1 modulo 2^16 - 1): 0xFFFF over correct data."""
    number = int.from_bytes(data + b"\0" * (len(data) % 2), "big")
    return (number - 1) % 0xFFFF + 1 if number else 0


def checksum(data: bytes) -> int:
    return 0xFFFF - ones_sum(data)


def times(value: int, echo: int = 0) -> bytes:
    return NOP + NOP + struct.pack("!BBII", 8, 10, value & 0xFFFFFFFF, echo & 0xFFFFFFFF)


def sacks(*edges: tuple[int, int]) -> bytes:
    body = b"".join(struct.pack("!II", left & 0xFFFFFFFF, right & 0xFFFFFFFF) for left, right in edges)
    return NOP + NOP + bytes((5, 2 + len(body))) + body


@dataclass(frozen=True)
class Ends:
    """Source and target of a packet."""

    source: str = "10.0.0.1"
    source_port: int = 80
    target: str = "10.0.0.2"
    target_port: int = 40000
    vlans: tuple[int, ...] = ()

    def flipped(self) -> Ends:
        return replace(
            self,
            source=self.target,
            source_port=self.target_port,
            target=self.source,
            target_port=self.source_port,
        )


def ethernet(ethertype: int, body: bytes, *, vlans: tuple[int, ...] = ()) -> bytes:
    tags = b"".join(struct.pack("!HH", 0x8100, vlan) for vlan in vlans)
    return (PEER_MAC + GUEST_MAC + tags + struct.pack("!H", ethertype) + body).ljust(60, b"\0")


def ip_packet(ends: Ends, protocol: int, body: bytes, *, ident: int = 0, fragment: int = 0x4000) -> bytes:
    source, target = ip_address(ends.source), ip_address(ends.target)
    if source.version == 6:
        head = struct.pack("!IHBB", 6 << 28, len(body), protocol, 64)
        return head + source.packed + target.packed + body
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), ident, fragment, 64, protocol, 0)
    head += source.packed + target.packed
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + body


def ip_frame(ends: Ends, protocol: int, body: bytes, *, ident: int = 0, fragment: int = 0x4000) -> bytes:
    ethertype = 0x86DD if ":" in ends.source else 0x0800
    return ethernet(
        ethertype, ip_packet(ends, protocol, body, ident=ident, fragment=fragment), vlans=ends.vlans
    )


def pseudo(ends: Ends, protocol: int, size: int) -> bytes:
    source, target = ip_address(ends.source), ip_address(ends.target)
    return source.packed + target.packed + struct.pack("!IHBB", size, 0, 0, protocol)


def tcp_frame(
    ends: Ends,
    seq: int,
    *,
    ack: int | None = None,
    flags: int = 0,
    data: bytes = b"",
    options: bytes = b"",
    window: int = 1000,
    ident: int = 0,
) -> bytes:
    options += b"\0" * (-len(options) % 4)
    flags |= 0 if ack is None else ACK
    head = struct.pack(
        "!HHIIBBHHH",
        ends.source_port,
        ends.target_port,
        seq & 0xFFFFFFFF,
        (ack or 0) & 0xFFFFFFFF,
        (5 + len(options) // 4) << 4,
        flags,
        window,
        0,
        0,
    )
    segment = head + options + data
    total = checksum(pseudo(ends, 6, len(segment)) + segment)
    return ip_frame(ends, 6, segment[:16] + struct.pack("!H", total) + segment[18:], ident=ident)


def udp_frame(ends: Ends, data: bytes, *, ident: int = 0) -> bytes:
    head = struct.pack("!HHHH", ends.source_port, ends.target_port, 8 + len(data), 0)
    return ip_frame(ends, 17, head + data, ident=ident)


def echo_reply(ends: Ends, ident: int, number: int, data: bytes = b"ping") -> bytes:
    message = struct.pack("!BBHHH", 0, 0, 0, ident, number) + data
    return ip_frame(ends, 1, message[:2] + struct.pack("!H", checksum(message)) + message[4:])


def arp_frame(operation: int = 2) -> bytes:
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation)
    return ethernet(0x0806, body + GUEST_MAC + bytes(4) + PEER_MAC + bytes(4))


@dataclass(frozen=True)
class Segment:
    """A TCP frame taken apart, its checksum verified."""

    seq: int
    ack: int
    flags: int
    data: bytes
    tsval: int | None
    tsecr: int | None
    sacks: tuple[tuple[int, int], ...]


def read_segment(frame: bytes) -> Segment:
    """Of an untagged frame with whole, right headers. AssertionError when the checksum is wrong."""
    version = frame[14] >> 4
    if version == 4:
        at, protocol = 14 + (frame[14] & 15) * 4, frame[23]
        end = 14 + struct.unpack_from("!H", frame, 16)[0]
        addresses = frame[26:34]
    else:
        at, protocol = 54, frame[20]
        end = 54 + struct.unpack_from("!H", frame, 18)[0]
        addresses = frame[22:54]
    assert protocol == 6
    segment = frame[at:end]
    assert ones_sum(addresses + struct.pack("!IHBB", len(segment), 0, 0, 6) + segment) == 0xFFFF
    _, _, seq, ack, words, flags, _, _, _ = struct.unpack_from("!HHIIBBHHH", segment)
    head = (words >> 4) * 4
    tsval = tsecr = None
    edges: list[tuple[int, int]] = []
    options = segment[20:head]
    while options and options[0]:
        if options[0] == 1:
            options = options[1:]
            continue
        kind, body, options = options[0], options[2 : options[1]], options[options[1] :]
        if kind == 8:
            tsval, tsecr = struct.unpack("!II", body)
        elif kind == 5:
            edges = [struct.unpack_from("!II", body, place) for place in range(0, len(body), 8)]
    return Segment(seq, ack, flags, segment[head:], tsval, tsecr, tuple(edges))
