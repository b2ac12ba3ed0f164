"""The synthetic guest's network service: pure functions from a frame to its answer.

It answers ARP for its address and counts requests, which come either as UDP to port 7 or as raw frames of
EtherType 0x88b5 (IEEE 802, local experiments). A request's payload starts with a u64 sequence number; the reply's is

    u64 sequence number of the request, u64 counter after it, u64 work, u64 boots, u64 draws, u64 noise   (big endian)

The counter grows with each request executed, so a client sees a lost, repeated or undone one. A network may deliver
a frame twice: with ONCE_FLAG in its sequence number a request is answered as often, and executed only if it is newer
than every such one before. With WORK_FLAG it asks for work instead of being counted: so many steps as its low 32 bits
say, before the reply. `work` is the sum of all that was asked for. `noise` is the newest word of entropy that the guest
took in, `draws` how many those were: the same number of draws with another noise is another history.

A beacon is an unasked reply to broadcast with sequence number BEACON_SEQUENCE; instead of the counter it has its own
number, from 1 on, and no work.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import NamedTuple

ETHERTYPE_SERVICE = 0x88B5
UDP_SERVICE_PORT = 7
BEACON_SEQUENCE = (1 << 64) - 1
WORK_FLAG = 1 << 63
ONCE_FLAG = 1 << 62
BROADCAST = b"\xff" * 6

_ETHERTYPE_IPV4 = 0x0800
_ETHERTYPE_ARP = 0x0806
_PROTOCOL_UDP = 17
_ETHERNET = struct.Struct("!6s6sH")
_ARP = struct.Struct("!HHBBH6s4s6s4s")
_ARP_IPV4 = (1, _ETHERTYPE_IPV4, 6, 4)
_IPV4 = struct.Struct("!BBHHHBBH4s4s")
_UDP = struct.Struct("!HHHH")
_SEQUENCE = struct.Struct("!Q")
_REPLY = struct.Struct("!6Q")
_FRAME_BYTES_MIN = 60


class Reply(NamedTuple):
    """Payload of a reply or beacon."""

    sequence: int
    counter: int
    work: int
    boots: int
    draws: int = 0
    noise: int = 0


@dataclass(frozen=True, slots=True)
class Address:
    mac: bytes
    ip: IPv4Address


def work_in(sequence: int) -> int:
    """Steps that a request with this sequence number asks for."""
    return sequence & 0xFFFF_FFFF if sequence & WORK_FLAG else 0


def parse_mac(text: str) -> bytes:
    """`52:54:00:..` to six bytes."""
    mac = bytes.fromhex(text.replace(":", ""))
    if len(mac) != 6:
        raise ValueError(f"not a MAC address: {text}")
    return mac


def encode_request(source: bytes, target: bytes, sequence: int) -> bytes:
    """A raw request frame."""
    return _frame(target, source, ETHERTYPE_SERVICE, _SEQUENCE.pack(sequence))


def encode_beacon(source: bytes, reply: Reply) -> bytes:
    return _frame(BROADCAST, source, ETHERTYPE_SERVICE, _REPLY.pack(*reply))


def decode_reply(frame: bytes) -> Reply | None:
    """The reply in a raw frame, or None when the frame is something else."""
    if len(frame) < _ETHERNET.size + _REPLY.size:
        return None
    if _ETHERNET.unpack_from(frame)[2] != ETHERTYPE_SERVICE:
        return None
    return Reply(*_REPLY.unpack_from(frame, _ETHERNET.size))


def answer_frame(frame: bytes, own: Address, serve: Callable[[int], Reply]) -> bytes | None:
    """The answer to `frame`, or None. `serve(sequence)` executes one request; it is called for valid ones only."""
    if len(frame) < _ETHERNET.size:
        return None
    target, source, ethertype = _ETHERNET.unpack_from(frame)
    if target not in (own.mac, BROADCAST):
        return None
    body = frame[_ETHERNET.size :]
    if ethertype == _ETHERTYPE_ARP:
        return _answer_arp(body, own)
    if target != own.mac:
        return None
    if ethertype == ETHERTYPE_SERVICE and len(body) >= _SEQUENCE.size:
        payload = _REPLY.pack(*serve(_SEQUENCE.unpack_from(body)[0]))
        return _frame(source, own.mac, ETHERTYPE_SERVICE, payload)
    if ethertype == _ETHERTYPE_IPV4:
        packet = _answer_udp(body, own, serve)
        return None if packet is None else _frame(source, own.mac, _ETHERTYPE_IPV4, packet)
    return None


def _answer_arp(body: bytes, own: Address) -> bytes | None:
    if len(body) < _ARP.size:
        return None
    *kind, operation, asker_mac, asker_ip, _, wanted_ip = _ARP.unpack_from(body)
    if tuple(kind) != _ARP_IPV4 or operation != 1 or wanted_ip != own.ip.packed:
        return None
    reply = _ARP.pack(*_ARP_IPV4, 2, own.mac, own.ip.packed, asker_mac, asker_ip)
    return _frame(asker_mac, own.mac, _ETHERTYPE_ARP, reply)


def _answer_udp(packet: bytes, own: Address, serve: Callable[[int], Reply]) -> bytes | None:
    if len(packet) < _IPV4.size:
        return None
    version, _, total, _, fragment, _, protocol, _, source, target = _IPV4.unpack_from(packet)
    head = (version & 15) * 4
    whole = version >> 4 == 4 and head >= _IPV4.size and not fragment & 0x3FFF
    if not whole or protocol != _PROTOCOL_UDP or target != own.ip.packed:
        return None
    datagram = packet[head:total]
    if len(datagram) < _UDP.size + _SEQUENCE.size:
        return None
    source_port, target_port, _, _ = _UDP.unpack_from(datagram)
    if target_port != UDP_SERVICE_PORT:
        return None
    payload = _REPLY.pack(*serve(_SEQUENCE.unpack_from(datagram, _UDP.size)[0]))
    # UDP checksum 0: none, which IPv4 allows.
    udp = _UDP.pack(target_port, source_port, _UDP.size + len(payload), 0) + payload
    return _ipv4_header(own.ip.packed, source, len(udp)) + udp


def _ipv4_header(source: bytes, target: bytes, payload_bytes: int) -> bytes:
    fields = [0x45, 0, _IPV4.size + payload_bytes, 0, 0x4000, 64, _PROTOCOL_UDP, 0, source, target]
    words = struct.unpack("!10H", _IPV4.pack(*fields))
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    fields[7] = ~total & 0xFFFF
    return _IPV4.pack(*fields)


def _frame(target: bytes, source: bytes, ethertype: int, body: bytes) -> bytes:
    return (_ETHERNET.pack(target, source, ethertype) + body).ljust(_FRAME_BYTES_MIN, b"\0")
