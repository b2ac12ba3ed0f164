"""What a frame says, and on which connection.

Any bytes give a packet: what is broken, unknown or cut is `Kind.OTHER`, compared as it is. Padding behind the IP
packet, TTL, IP identification and checksums say nothing and are left out of what is compared.

A connection's key names the guest's end first, so that inputs and outputs of one connection have the same key.
"""

from __future__ import annotations

import struct
from enum import Enum
from ipaddress import ip_address
from typing import Final, NamedTuple

from replicator.compare.api import Connection
from replicator.engine.compare.tcp_options import NO_OPTIONS, TcpOptions, parse_options
from replicator.wire.tcp_segments import read_segment


class Kind(Enum):
    TCP = "tcp"
    UDP = "udp"
    ICMP = "icmp"
    FRAGMENT = "fragment"
    #: ARP, RARP, neighbour and group membership discovery: of the link, not of what the guest does.
    UPKEEP = "upkeep"
    OTHER = "other"

    def __init__(self, word: str) -> None:
        #: Tells the keys of different kinds apart.
        self.prefix = word[:2].encode()


FIN: Final = 0x01
SYN: Final = 0x02
RST: Final = 0x04
ACK: Final = 0x10


class TcpSegment(NamedTuple):
    seq: int
    ack: int
    flags: int
    #: Where its header begins and its payload, counted in the frame.
    at: int
    payload_at: int
    payload: bytes

    def options(self, frame: bytes | bytearray) -> TcpOptions:
        if self.payload_at == self.at + TCP_HEADER_BYTES:
            return NO_OPTIONS
        return parse_options(bytes(frame[self.at + TCP_HEADER_BYTES : self.payload_at]))


class Packet(NamedTuple):
    kind: Kind
    key: bytes
    #: What is compared; of TCP the segment says it.
    content: bytes
    tcp: TcpSegment | None = None


TCP_HEADER_BYTES: Final = 20
_ETHERNET_BYTES: Final = 14
_VLAN_TYPES: Final = (0x8100, 0x88A8)
_VLANS_MAX: Final = 2
_IPV4, _IPV6, _ARP, _RARP = 0x0800, 0x86DD, 0x0806, 0x8035
_TCP, _UDP, _ICMP, _ICMPV6, _IGMP = 6, 17, 1, 58, 2
_IPV4_HEADER = struct.Struct("!BBHHHBBH4s4s")
_IPV6_HEADER = struct.Struct("!IHBB16s16s")
_TCP_HEADER = struct.Struct("!HHIIBBHHH")
_UDP_HEADER = struct.Struct("!HHHH")
_U16 = struct.Struct("!H")
#: IPv4: more-fragments flag and offset.
_FRAGMENT_BITS: Final = 0x3FFF
#: IPv6 extension headers with a length of their own (hop-by-hop, routing, destination options).
_EXTENSIONS: Final = (0, 43, 60)
_EXTENSIONS_MAX: Final = 8
_FRAGMENT_HEADER: Final = 44
#: Multicast listener 130..132 and 143, router and neighbour discovery 133..137.
_UPKEEP_ICMPV6: Final = frozenset((*range(130, 138), 143))
_ECHOES: Final = (0, 8, 128, 129)


def parse_frame(frame: bytes, nic: int, *, from_guest: bool) -> Packet:
    """Never raises, whatever the bytes."""
    found = read_segment(frame, nic, from_guest)
    if found is None:
        return parse_plainly(frame, nic, from_guest=from_guest)
    key, seq, ack, flags, at, payload_at, end = found
    return Packet(Kind.TCP, key, b"", TcpSegment(seq, ack, flags, at, payload_at, frame[payload_at:end]))


def parse_plainly(frame: bytes, nic: int, *, from_guest: bool) -> Packet:
    """The same without the native core."""
    at = _ETHERNET_BYTES
    if len(frame) < at:
        return Packet(Kind.OTHER, bytes((nic, 0)), frame)
    (ethertype,) = _U16.unpack_from(frame, at - 2)
    vlans = b""
    while ethertype in _VLAN_TYPES and len(vlans) < 2 * _VLANS_MAX and len(frame) >= at + 4:
        tag, ethertype = struct.unpack_from("!HH", frame, at)
        vlans += _U16.pack(tag & 0xFFF)
        at += 4
    link = bytes((nic, len(vlans) // 2)) + vlans
    packet: Packet | None = None
    if ethertype == _IPV4:
        packet = _parse_ipv4(frame, at, link, from_guest)
    elif ethertype == _IPV6:
        packet = _parse_ipv6(frame, at, link, from_guest)
    elif ethertype in (_ARP, _RARP):
        packet = Packet(Kind.UPKEEP, link, b"")
    if packet is not None:
        return packet
    ends = frame[:12] if from_guest else frame[6:12] + frame[:6]
    return Packet(Kind.OTHER, link + b"\0" + _U16.pack(ethertype) + ends, frame[at:])


def describe_key(key: bytes, *, from_start: bool) -> Connection | None:
    """The connection that a TCP or UDP packet's key names, None for other keys."""
    vlans_end = 2 + 2 * key[1]
    link, rest = key[:vlans_end], key[vlans_end:]
    size = 4 if rest[:1] == b"\4" else 16
    if rest[:1] not in (b"\4", b"\6") or len(rest) != 2 + 2 * size + 4 or rest[1] not in (_TCP, _UDP):
        return None
    guest, peer = rest[2 : 2 + size], rest[2 + size : 2 + 2 * size]
    guest_port, peer_port = struct.unpack_from("!HH", rest, 2 + 2 * size)
    return Connection(
        protocol="tcp" if rest[1] == _TCP else "udp",
        guest=str(ip_address(guest)),
        guest_port=guest_port,
        peer=str(ip_address(peer)),
        peer_port=peer_port,
        nic=link[0],
        vlans=struct.unpack(f"!{link[1]}H", link[2:]),
        from_start=from_start,
    )


def _parse_ipv4(frame: bytes, at: int, link: bytes, from_guest: bool) -> Packet | None:
    if len(frame) < at + _IPV4_HEADER.size:
        return None
    version, _, total, _, fragment, _, protocol, _, source, target = _IPV4_HEADER.unpack_from(frame, at)
    head = (version & 15) * 4
    if version >> 4 != 4 or head < _IPV4_HEADER.size or not head <= total <= len(frame) - at:
        return None
    ends = (source, target) if from_guest else (target, source)
    prefix = b"".join((link, b"\4", bytes((protocol,)), *ends))
    if fragment & _FRAGMENT_BITS:
        return Packet(
            Kind.FRAGMENT,
            prefix + b"frag",
            _U16.pack(fragment & _FRAGMENT_BITS) + frame[at + head : at + total],
        )
    return _parse_transport(frame, at + head, at + total, protocol, prefix, from_guest)


def _parse_ipv6(frame: bytes, at: int, link: bytes, from_guest: bool) -> Packet | None:
    if len(frame) < at + _IPV6_HEADER.size:
        return None
    version, size, following, _, source, target = _IPV6_HEADER.unpack_from(frame, at)
    at += _IPV6_HEADER.size
    end = at + size
    if version >> 28 != 6 or end > len(frame):
        return None
    for _ in range(_EXTENSIONS_MAX):
        if following not in _EXTENSIONS:
            break
        if end < at + 8:
            return None
        following, length = frame[at], frame[at + 1]
        at += 8 + 8 * length
    ends = (source, target) if from_guest else (target, source)
    prefix = b"".join((link, b"\6", bytes((following,)), *ends))
    if following == _FRAGMENT_HEADER and end >= at + 8:
        # Next header, reserved, offset and flag; the identification behind them is not compared.
        return Packet(Kind.FRAGMENT, prefix + b"frag", frame[at : at + 4] + frame[at + 8 : end])
    if following in _EXTENSIONS or at > end:
        return None
    return _parse_transport(frame, at, end, following, prefix, from_guest)


def _parse_transport(
    frame: bytes, at: int, end: int, protocol: int, prefix: bytes, from_guest: bool
) -> Packet | None:
    if protocol == _TCP:
        return _parse_tcp(frame, at, end, prefix, from_guest)
    if protocol == _UDP:
        return _parse_udp(frame, at, end, prefix, from_guest)
    if protocol in (_ICMP, _ICMPV6):
        return _parse_icmp(frame, at, end, protocol, prefix)
    if protocol == _IGMP:
        return Packet(Kind.UPKEEP, prefix, b"")
    return Packet(Kind.OTHER, prefix, frame[at:end])


def _parse_tcp(frame: bytes, at: int, end: int, prefix: bytes, from_guest: bool) -> Packet | None:
    if end - at < TCP_HEADER_BYTES:
        return None
    _, _, seq, ack, words, flags, _, _, _ = _TCP_HEADER.unpack_from(frame, at)
    head = (words >> 4) * 4
    if not TCP_HEADER_BYTES <= head <= end - at:
        return None
    segment = TcpSegment(seq, ack, flags, at, at + head, frame[at + head : end])
    return Packet(Kind.TCP, prefix + _ports(frame, at, from_guest), b"", segment)


def _parse_udp(frame: bytes, at: int, end: int, prefix: bytes, from_guest: bool) -> Packet | None:
    if end - at < _UDP_HEADER.size:
        return None
    _, _, size, _ = _UDP_HEADER.unpack_from(frame, at)
    if not _UDP_HEADER.size <= size <= end - at:
        return None
    content = frame[at + _UDP_HEADER.size : at + size]
    return Packet(Kind.UDP, prefix + _ports(frame, at, from_guest), content)


def _parse_icmp(frame: bytes, at: int, end: int, protocol: int, prefix: bytes) -> Packet | None:
    if end - at < 8:
        return None
    kind = frame[at]
    if protocol == _ICMPV6 and kind in _UPKEEP_ICMPV6:
        return Packet(Kind.UPKEEP, prefix, b"")
    # The checksum of ICMPv6 covers the addresses, which the key has.
    content = frame[at : at + 2] + frame[at + 4 : end]
    ident = frame[at + 4 : at + 6] if kind in _ECHOES else b"\0\0"
    return Packet(Kind.ICMP, prefix + b"\0\0" + ident, content)


def _ports(frame: bytes, at: int, from_guest: bool) -> bytes:
    if from_guest:
        return frame[at : at + 4]
    return frame[at + 2 : at + 4] + frame[at : at + 2]
