"""Frames that tell the network where a guest now is, and the addresses to tell it about.

Switches learn a MAC's port from any frame it sends (RARP does when no address is known); neighbours refresh their
tables from a gratuitous ARP or an unsolicited neighbour advertisement.

`AddressBook` learns passively. What the guest says of itself in ARP or neighbour discovery is certain. A source
address of IP traffic is only likely: a guest that routes sends other people's. Likely addresses are told only while
there are few and nothing certain is known of that family. No I/O here."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from replicator.errors import ConfigError

BROADCAST: Final = b"\xff" * 6
ETHERTYPE_IPV4: Final = b"\x08\x00"
ETHERTYPE_ARP: Final = b"\x08\x06"
ETHERTYPE_RARP: Final = b"\x80\x35"
ETHERTYPE_IPV6: Final = b"\x86\xdd"
FRAME_BYTES_MIN: Final = 60

#: More certain addresses than this are not kept; more likely ones mean a router, and none of them is told.
CERTAIN_ADDRESSES_MAX: Final = 64
LIKELY_ADDRESSES_MAX: Final = 4

_ARP_ETHERNET_IPV4 = struct.pack("!HHBB", 1, 0x0800, 6, 4)
_ARP_REQUEST, _ARP_REPLY, _RARP_REQUEST = 1, 2, 3
_ALL_NODES_MAC = bytes.fromhex("333300000001")
_ALL_NODES = IPv6Address("ff02::1").packed
_ICMPV6 = 58
_SOLICITATION, _ADVERTISEMENT = 135, 136
_OPTION_TARGET_MAC = 2
_FLAG_OVERRIDE = 0x20000000
#: One packet in the life of the guest: hop limit 255 proves it comes from the link (RFC 4861).
_HOP_LIMIT = 255
_SEEN_MAX = 1024


@dataclass(frozen=True, slots=True)
class NicAddresses:
    """A NIC and the addresses worth announcing."""

    mac: str
    ipv4: tuple[IPv4Address, ...] = ()
    ipv6: tuple[IPv6Address, ...] = ()


def parse_mac(text: str) -> bytes:
    """`52:54:00:12:34:56` to six bytes. ConfigError for anything else and for group addresses."""
    parts = text.split(":")
    try:
        mac = bytes(int(part, 16) for part in parts)
    except ValueError as error:
        raise ConfigError(f"not a MAC address: {text}") from error
    if len(mac) != 6 or mac[0] & 1:
        raise ConfigError(f"not the MAC address of a NIC: {text}")
    return mac


def build_announcement(known: NicAddresses) -> tuple[bytes, ...]:
    """Everything to send for one NIC. Always begins with a frame that teaches switches the port."""
    mac = parse_mac(known.mac)
    frames = [build_rarp(mac)]
    for ipv4 in known.ipv4:
        frames += [build_arp_request(mac, ipv4), build_arp_reply(mac, ipv4)]
    frames += [build_advertisement(mac, ipv6) for ipv6 in known.ipv6]
    return tuple(frames)


def build_rarp(mac: bytes) -> bytes:
    """RARP request for the own MAC: needs no address, and every switch learns the port from it."""
    return _ethernet(BROADCAST, mac, ETHERTYPE_RARP, _arp(_RARP_REQUEST, mac, bytes(4), mac, bytes(4)))


def build_arp_request(mac: bytes, ipv4: IPv4Address) -> bytes:
    """Gratuitous ARP, request form (RFC 5227 announcement)."""
    body = _arp(_ARP_REQUEST, mac, ipv4.packed, bytes(6), ipv4.packed)
    return _ethernet(BROADCAST, mac, ETHERTYPE_ARP, body)


def build_arp_reply(mac: bytes, ipv4: IPv4Address) -> bytes:
    """Gratuitous ARP, reply form, for neighbours that ignore the request form."""
    body = _arp(_ARP_REPLY, mac, ipv4.packed, mac, ipv4.packed)
    return _ethernet(BROADCAST, mac, ETHERTYPE_ARP, body)


def build_advertisement(mac: bytes, ipv6: IPv6Address) -> bytes:
    """Unsolicited neighbour advertisement to all nodes, with override (RFC 4861, 7.2.6)."""
    option = struct.pack("!BB", _OPTION_TARGET_MAC, 1) + mac
    message = struct.pack("!BBHI", _ADVERTISEMENT, 0, 0, _FLAG_OVERRIDE) + ipv6.packed + option
    pseudo = ipv6.packed + _ALL_NODES + struct.pack("!II", len(message), _ICMPV6)
    checksum = _checksum(pseudo + message)
    message = message[:2] + struct.pack("!H", checksum) + message[4:]
    header = struct.pack("!IHBB", 6 << 28, len(message), _ICMPV6, _HOP_LIMIT) + ipv6.packed + _ALL_NODES
    return _ethernet(_ALL_NODES_MAC, mac, ETHERTYPE_IPV6, header + message)


class AddressBook:
    """What one NIC's traffic tells about the guest's addresses. Feed it output frames, input frames, or both."""

    def __init__(self, mac: str) -> None:
        self._text = mac
        self._mac = parse_mac(mac)
        self._certain: dict[bytes, None] = {}
        self._likely: dict[bytes, None] = {}
        #: Address bytes of frames looked at before; most frames end here.
        self._seen: set[bytes] = set()

    def learn_output(self, frame: bytes) -> None:
        """A frame the guest sent."""
        if frame[6:12] == self._mac:
            self._learn(frame, is_output=True)

    def learn_input(self, frame: bytes) -> None:
        """A frame sent to the guest: its unicast destination is the guest's address."""
        if frame[0:6] == self._mac:
            self._learn(frame, is_output=False)

    def known(self) -> NicAddresses:
        return choose_told(self._text, self._certain, self._likely)

    def _learn(self, frame: bytes, *, is_output: bool) -> None:
        kind = frame[12:14]
        size = 4 if kind == ETHERTYPE_IPV4 else 16
        if kind == ETHERTYPE_IPV4:
            address = frame[26:30] if is_output else frame[30:34]
        elif kind == ETHERTYPE_IPV6:
            if is_output and frame[20:21] == b"\x3a":
                self._learn_discovery(frame)
            address = frame[22:38] if is_output else frame[38:54]
        elif kind == ETHERTYPE_ARP:
            self._learn_arp(frame, is_output=is_output)
            return
        else:
            return
        if address not in self._seen:
            self._add(self._likely, address, size, LIKELY_ADDRESSES_MAX + 1)

    def _learn_arp(self, frame: bytes, *, is_output: bool) -> None:
        """Sender of the guest's own ARP, target of a reply to it. A probe has sender 0.0.0.0: not its own yet."""
        if frame[14:20] != _ARP_ETHERNET_IPV4:
            return
        mac, address = (frame[22:28], frame[28:32]) if is_output else (frame[32:38], frame[38:42])
        if mac == self._mac:
            self._add(self._certain, address, 4, CERTAIN_ADDRESSES_MAX)

    def _learn_discovery(self, frame: bytes) -> None:
        """The target of an advertisement and the source of a solicitation are the sender's (RFC 4861, 4.3 and 4.4)."""
        kind = frame[54:55]
        if kind == bytes([_ADVERTISEMENT]):
            self._add(self._certain, frame[62:78], 16, CERTAIN_ADDRESSES_MAX)
        elif kind == bytes([_SOLICITATION]):
            self._add(self._certain, frame[22:38], 16, CERTAIN_ADDRESSES_MAX)

    def _add(self, book: dict[bytes, None], address: bytes, size: int, most: int) -> None:
        """An address cut short is none; four bytes of an IPv6 one would pass for IPv4."""
        if len(address) != size:
            return
        if len(self._seen) < _SEEN_MAX:
            self._seen.add(address)
        if len(book) < most and _is_host(address):
            book[address] = None


def choose_told(mac: str, certain: Iterable[bytes], likely: Iterable[bytes]) -> NicAddresses:
    """What of a book is worth announcing."""
    sure, maybe = list(certain), list(likely)
    return NicAddresses(
        mac,
        tuple(IPv4Address(raw) for raw in _choose(4, sure, maybe)),
        tuple(IPv6Address(raw) for raw in _choose(16, sure, maybe)),
    )


def _choose(size: int, certain: list[bytes], likely: list[bytes]) -> list[bytes]:
    """Of one family."""
    sure = [raw for raw in certain if len(raw) == size]
    maybe = [raw for raw in likely if len(raw) == size]
    return sure if sure or len(maybe) > LIKELY_ADDRESSES_MAX else maybe


def _is_host(raw: bytes) -> bool:
    """Whether a single machine can have this address."""
    address = IPv4Address(raw) if len(raw) == 4 else IPv6Address(raw)
    return not (
        address.is_unspecified or address.is_multicast or address.is_loopback or raw == b"\xff\xff\xff\xff"
    )


def _arp(operation: int, sender_mac: bytes, sender: bytes, target_mac: bytes, target: bytes) -> bytes:
    return _ARP_ETHERNET_IPV4 + struct.pack("!H", operation) + sender_mac + sender + target_mac + target


def _ethernet(target: bytes, source: bytes, ethertype: bytes, body: bytes) -> bytes:
    return (target + source + ethertype + body).ljust(FRAME_BYTES_MIN, b"\0")


def _checksum(data: bytes) -> int:
    """Internet checksum (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
