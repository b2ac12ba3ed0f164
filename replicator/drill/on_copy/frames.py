"""Ethernet frames that a neighbour of the guest sends and understands: ARP, ping, UDP echo, the start of a TCP connection.

Bytes only; see neighbour.py for what is asked when.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

FRAME_BYTES_MIN: Final = 60
BROADCAST: Final = b"\xff" * 6
ETHERTYPE_IPV4, ETHERTYPE_ARP = 0x0800, 0x0806
ICMP, TCP, UDP = 1, 6, 17
UDP_ECHO_PORT: Final = 7
FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10

_ETHERNET = struct.Struct("!6s6sH")
_ARP = struct.Struct("!HHBBH6s4s6s4s")
_ARP_KIND = (1, ETHERTYPE_IPV4, 6, 4)
_ARP_REQUEST, _ARP_REPLY = 1, 2
_IPV4 = struct.Struct("!BBHHHBBH4s4s")
_ICMP = struct.Struct("!BBHHH")
_ECHO_REQUEST, _ECHO_REPLY = 8, 0
_UDP = struct.Struct("!HHHH")
_TCP = struct.Struct("!HHIIBBHHH")


@dataclass(frozen=True, slots=True)
class Station:
    mac: bytes
    ip: IPv4Address


@dataclass(frozen=True, slots=True)
class ArpMessage:
    is_reply: bool
    sender: Station
    wanted: IPv4Address


@dataclass(frozen=True, slots=True)
class Packet:
    """An IPv4 packet that is whole. Ports and flags are 0 where the protocol has none; `id` is a ping's."""

    protocol: int
    source: IPv4Address
    target: IPv4Address
    source_port: int = 0
    target_port: int = 0
    flags: int = 0
    sequence: int = 0
    is_echo_reply: bool = False
    id: int = 0


def read_arp(frame: bytes) -> ArpMessage | None:
    if len(frame) < _ETHERNET.size + _ARP.size or _ETHERNET.unpack_from(frame)[2] != ETHERTYPE_ARP:
        return None
    *kind, operation, mac, ip, _, wanted = _ARP.unpack_from(frame, _ETHERNET.size)
    if tuple(kind) != _ARP_KIND or operation not in (_ARP_REQUEST, _ARP_REPLY):
        return None
    return ArpMessage(operation == _ARP_REPLY, Station(mac, IPv4Address(ip)), IPv4Address(wanted))


def read_packet(frame: bytes) -> Packet | None:
    """None for what is no whole IPv4 packet; fragments are none."""
    body = frame[_ETHERNET.size :]
    if len(body) < _IPV4.size or _ETHERNET.unpack_from(frame)[2] != ETHERTYPE_IPV4:
        return None
    version, _, total, _, fragment, _, protocol, _, source, target = _IPV4.unpack_from(body)
    head = (version & 15) * 4
    if version >> 4 != 4 or head < _IPV4.size or fragment & 0x3FFF or not head <= total <= len(body):
        return None
    ends = (protocol, IPv4Address(source), IPv4Address(target))
    return _read_inner(ends, body[head:total])


def _read_inner(ends: tuple[int, IPv4Address, IPv4Address], inner: bytes) -> Packet:
    protocol = ends[0]
    if protocol == ICMP and len(inner) >= _ICMP.size:
        kind, _, _, number, sequence = _ICMP.unpack_from(inner)
        return Packet(*ends, is_echo_reply=kind == _ECHO_REPLY, id=number, sequence=sequence)
    if protocol == UDP and len(inner) >= _UDP.size:
        source_port, target_port, _, _ = _UDP.unpack_from(inner)
        return Packet(*ends, source_port, target_port)
    if protocol == TCP and len(inner) >= _TCP.size:
        source_port, target_port, sequence, _, _, flags, _, _, _ = _TCP.unpack_from(inner)
        return Packet(*ends, source_port, target_port, flags, sequence)
    return Packet(*ends)


def arp_request(sender: Station, wanted: IPv4Address) -> bytes:
    body = _ARP.pack(*_ARP_KIND, _ARP_REQUEST, sender.mac, sender.ip.packed, bytes(6), wanted.packed)
    return _frame(BROADCAST, sender.mac, ETHERTYPE_ARP, body)


def arp_reply(sender: Station, asker: Station) -> bytes:
    body = _ARP.pack(*_ARP_KIND, _ARP_REPLY, sender.mac, sender.ip.packed, asker.mac, asker.ip.packed)
    return _frame(asker.mac, sender.mac, ETHERTYPE_ARP, body)


def ping(sender: Station, target: Station, number: int, sequence: int) -> bytes:
    message = _ICMP.pack(_ECHO_REQUEST, 0, 0, number, sequence) + b"replicator drill"
    checked = message[:2] + struct.pack("!H", _checksum(message)) + message[4:]
    return _packet(sender, target, ICMP, checked)


def udp_echo(sender: Station, target: Station, port: int, sequence: int) -> bytes:
    payload = struct.pack("!Q", sequence)
    # Checksum 0: none, which IPv4 allows.
    return _packet(sender, target, UDP, _UDP.pack(port, UDP_ECHO_PORT, _UDP.size + len(payload), 0) + payload)


def tcp_segment(sender: Station, target: Station, ports: tuple[int, int], sequence: int, flags: int) -> bytes:
    """Without data; `sequence` is its own number."""
    segment = _TCP.pack(*ports, sequence, 0, 5 << 4, flags, 65_535, 0, 0)
    pseudo = sender.ip.packed + target.ip.packed + struct.pack("!BBH", 0, TCP, len(segment))
    checked = segment[:16] + struct.pack("!H", _checksum(pseudo + segment)) + segment[18:]
    return _packet(sender, target, TCP, checked)


def _packet(sender: Station, target: Station, protocol: int, inner: bytes) -> bytes:
    fields = (0x45, 0, _IPV4.size + len(inner), 0, 0x4000, 64, protocol)
    ends = (sender.ip.packed, target.ip.packed)
    checksum = _checksum(_IPV4.pack(*fields, 0, *ends))
    return _frame(target.mac, sender.mac, ETHERTYPE_IPV4, _IPV4.pack(*fields, checksum, *ends) + inner)


def _frame(target: bytes, source: bytes, ethertype: int, body: bytes) -> bytes:
    return (_ETHERNET.pack(target, source, ethertype) + body).ljust(FRAME_BYTES_MIN, b"\0")


def _checksum(data: bytes) -> int:
    """Internet checksum (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
