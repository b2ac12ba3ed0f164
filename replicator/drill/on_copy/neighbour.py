"""The only neighbour of a guest's copy: it answers every ARP request, asks in return, and notes what answers.

A machine of frames: `hear` takes one of the guest and returns the answers, `ask` returns what to ask next. It learns
the guest's addresses from what the guest says by itself. Nothing here knows a socket or a clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from replicator.drill.on_copy import frames
from replicator.drill.on_copy.frames import Packet, Station
from replicator.output.announce import AddressBook, parse_mac

#: Locally administered.
OWN_MAC: Final = bytes.fromhex("026472696c6c")
PING_NUMBER: Final = 0x6472
#: Of the neighbour's questions by UDP and TCP.
OWN_PORT: Final = 49_152
TCP_SEQUENCE: Final = 1
#: Guest's addresses, addresses that it talks to, and its ports, that are tried.
ADDRESSES_MAX, PEERS_MAX, PORTS_MAX = 4, 3, 4
ARP = "arp"


@dataclass(frozen=True, slots=True)
class Heard:
    """An answer of the guest: `how` is arp, ping, udp-echo, tcp PORT or tcp PORT refused."""

    how: str
    address: str


class Neighbour:
    """Of one NIC."""

    def __init__(self, mac: str, addresses: Iterable[IPv4Address] = ()) -> None:
        self._mac = parse_mac(mac)
        self._book = AddressBook(mac)
        self._given = list(dict.fromkeys(addresses))
        self._peers: dict[IPv4Address, None] = {}
        self._ports: dict[int, None] = {}
        self._asked = 0
        self.frames_heard = 0
        #: In the order in which they came, each once.
        self.answers: dict[Heard, None] = {}

    @property
    def addresses(self) -> list[IPv4Address]:
        """Where the guest is looked for: what was given, then what it told."""
        return list(dict.fromkeys([*self._given, *self._book.known().ipv4]))[:ADDRESSES_MAX]

    @property
    def is_answered(self) -> bool:
        """More than ARP, which a kernel may do for a system that is stuck."""
        return any(heard.how != ARP for heard in self.answers)

    def hear(self, frame: bytes) -> list[bytes]:
        """A frame of the guest."""
        self.frames_heard += 1
        self._book.learn_output(frame)
        if (message := frames.read_arp(frame)) is not None:
            return self._hear_arp(message)
        if frame[6:12] == self._mac and (packet := frames.read_packet(frame)) is not None:
            return self._hear_packet(packet)
        return []

    def _hear_arp(self, message: frames.ArpMessage) -> list[bytes]:
        if message.sender.mac != self._mac:
            return []
        if message.is_reply:
            self._note(ARP, message.sender.ip)
            return []
        if message.wanted in (message.sender.ip, *self.addresses):
            # It announces itself, or looks whether its address is free.
            return []
        return [frames.arp_reply(Station(OWN_MAC, message.wanted), message.sender)]

    def _hear_packet(self, packet: Packet) -> list[bytes]:
        if packet.target.is_multicast or packet.target == IPv4Address("255.255.255.255"):
            return []
        if len(self._peers) < PEERS_MAX:
            self._peers[packet.target] = None
        if packet.protocol == frames.ICMP and packet.is_echo_reply and packet.id == PING_NUMBER:
            self._note("ping", packet.source)
        elif packet.protocol == frames.UDP and packet.target_port == OWN_PORT:
            if packet.source_port == frames.UDP_ECHO_PORT:
                self._note("udp-echo", packet.source)
        elif packet.protocol == frames.TCP:
            return self._hear_segment(packet)
        return []

    def _hear_segment(self, packet: Packet) -> list[bytes]:
        if packet.target_port != OWN_PORT:
            # A connection of its life before: it tells a port that it serves.
            if packet.source_port < packet.target_port and len(self._ports) < PORTS_MAX:
                self._ports[packet.source_port] = None
            return []
        if packet.flags & frames.RST:
            self._note(f"tcp {packet.source_port} refused", packet.source)
            return []
        if packet.flags & (frames.SYN | frames.ACK) == frames.SYN | frames.ACK:
            self._note(f"tcp {packet.source_port}", packet.source)
            ends = (Station(OWN_MAC, packet.target), Station(self._mac, packet.source))
            ports = (OWN_PORT, packet.source_port)
            return [frames.tcp_segment(*ends, ports, TCP_SEQUENCE + 1, frames.RST)]
        return []

    def _note(self, how: str, address: IPv4Address) -> None:
        self.answers.setdefault(Heard(how, str(address)))

    def ask(self) -> list[bytes]:
        """The next questions: of each address by ARP, ping, UDP echo and TCP, from one sender after another."""
        self._asked += 1
        return [frame for address in self.addresses for frame in self._ask_one(address)]

    def _ask_one(self, address: IPv4Address) -> Iterator[bytes]:
        senders = [_beside(address), *(peer for peer in self._peers if peer != address)]
        sender = Station(OWN_MAC, senders[self._asked % len(senders)])
        guest = Station(self._mac, address)
        yield frames.arp_request(sender, address)
        yield frames.ping(sender, guest, PING_NUMBER, self._asked & 0xFFFF)
        yield frames.udp_echo(sender, guest, OWN_PORT, self._asked)
        for port in self._ports:
            yield frames.tcp_segment(sender, guest, (OWN_PORT, port), TCP_SEQUENCE, frames.SYN)


def _beside(address: IPv4Address) -> IPv4Address:
    """Another host of the same /24: most guests answer it without a router."""
    last = 254 if address.packed[3] != 254 else 253
    return IPv4Address(address.packed[:3] + bytes([last]))
