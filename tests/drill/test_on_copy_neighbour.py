"""The only neighbour of a copy: what it asks, what it takes for an answer, and what it learns."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.drill.on_copy import frames
from replicator.drill.on_copy.frames import Station
from replicator.drill.on_copy.neighbour import OWN_MAC, OWN_PORT, PING_NUMBER, Heard, Neighbour
from replicator.guests.synthetic_frames import Address, Reply, answer_frame

MAC = "52:54:00:53:59:4e"
GUEST = Station(bytes.fromhex(MAC.replace(":", "")), IPv4Address("10.77.0.10"))
CLIENT = Station(bytes.fromhex("525400770001"), IPv4Address("10.77.0.2"))


def internet_checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def known() -> Neighbour:
    return Neighbour(MAC, [GUEST.ip])


def hows(neighbour: Neighbour) -> list[str]:
    return [heard.how for heard in neighbour.answers]


def test_a_guest_without_an_operating_system_answers() -> None:
    """The synthetic guest's own code answers ARP and UDP; both are understood."""
    neighbour = known()
    own = Address(GUEST.mac, GUEST.ip)
    for question in neighbour.ask():
        answer = answer_frame(question, own, lambda sequence: Reply(sequence, 1, 1, 1))
        if answer is not None:
            assert neighbour.hear(answer) == []
    assert hows(neighbour) == ["arp", "udp-echo"]
    assert neighbour.is_answered
    assert Heard("udp-echo", "10.77.0.10") in neighbour.answers


def test_arp_alone_is_no_answer() -> None:
    neighbour = known()
    neighbour.hear(frames.arp_reply(GUEST, Station(OWN_MAC, IPv4Address("10.77.0.254"))))
    assert hows(neighbour) == ["arp"] and not neighbour.is_answered


def echo_reply(number: int) -> bytes:
    """The guest's answer to a ping: the same with another type."""
    raw = bytearray(frames.ping(GUEST, CLIENT, number, 3))
    raw[34] = 0
    return bytes(raw)


def test_only_an_answer_to_our_own_ping_counts() -> None:
    neighbour = known()
    neighbour.hear(echo_reply(PING_NUMBER + 1))
    neighbour.hear(frames.ping(GUEST, CLIENT, PING_NUMBER, 3))
    assert not neighbour.is_answered
    neighbour.hear(echo_reply(PING_NUMBER))
    assert hows(neighbour) == ["ping"]


def test_a_connection_of_its_life_before_tells_address_and_port() -> None:
    """The guest repeats what its client has not acknowledged: that is all a quiet server says."""
    neighbour = Neighbour(MAC)
    assert neighbour.ask() == []
    neighbour.hear(frames.tcp_segment(GUEST, CLIENT, (6379, 40_000), 77, frames.ACK))
    assert neighbour.addresses == [GUEST.ip]
    questions = [packet for raw in neighbour.ask() if (packet := frames.read_packet(raw)) is not None]
    assert (frames.TCP, 6379) in {(packet.protocol, packet.target_port) for packet in questions}
    senders = {
        packet.source for raw in (*neighbour.ask(), *neighbour.ask()) if (packet := frames.read_packet(raw))
    }
    assert senders == {CLIENT.ip, IPv4Address("10.77.0.254")}


def test_a_handshake_is_taken_and_given_up() -> None:
    neighbour = known()
    own = Station(OWN_MAC, IPv4Address("10.77.0.254"))
    (reset,) = neighbour.hear(frames.tcp_segment(GUEST, own, (6379, OWN_PORT), 5, frames.SYN | frames.ACK))
    found = frames.read_packet(reset)
    assert found is not None and found.flags & frames.RST and found.target_port == 6379
    neighbour.hear(frames.tcp_segment(GUEST, own, (80, OWN_PORT), 5, frames.RST | frames.ACK))
    assert hows(neighbour) == ["tcp 6379", "tcp 80 refused"]


def test_it_is_everybody_for_the_guest_but_not_the_guest() -> None:
    neighbour = known()
    (reply,) = neighbour.hear(frames.arp_request(GUEST, IPv4Address("10.77.0.1")))
    message = frames.read_arp(reply)
    assert message is not None and message.is_reply
    assert message.sender == Station(OWN_MAC, IPv4Address("10.77.0.1"))
    announcement = frames.arp_request(GUEST, GUEST.ip)
    probe = frames.arp_request(Station(GUEST.mac, IPv4Address("0.0.0.0")), GUEST.ip)
    assert neighbour.hear(announcement) == neighbour.hear(probe) == []


def test_frames_of_others_are_nothing() -> None:
    neighbour = known()
    forged = bytearray(echo_reply(PING_NUMBER))
    forged[6:12] = CLIENT.mac
    assert neighbour.hear(bytes(forged)) == [] and not neighbour.answers
    assert neighbour.frames_heard == 1


@pytest.mark.parametrize(
    "raw",
    [
        frames.ping(CLIENT, GUEST, PING_NUMBER, 1),
        frames.udp_echo(CLIENT, GUEST, OWN_PORT, 1),
        frames.tcp_segment(CLIENT, GUEST, (OWN_PORT, 6379), 1, frames.SYN),
    ],
)
def test_what_is_sent_has_right_checksums(raw: bytes) -> None:
    body = raw[14:]
    total = struct.unpack_from("!H", body, 2)[0]
    assert internet_checksum(body[:20]) == 0xFFFF
    inner = body[20:total]
    if body[9] == frames.ICMP:
        assert internet_checksum(inner) == 0xFFFF
    if body[9] == frames.TCP:
        assert internet_checksum(body[12:20] + struct.pack("!HH", frames.TCP, len(inner)) + inner) == 0xFFFF
    assert len(raw) >= 60


@given(st.binary(max_size=120))
def test_no_bytes_are_too_much(tail: bytes) -> None:
    neighbour = known()
    for kind in (b"\x08\x00", b"\x08\x06", b"\x86\xdd"):
        neighbour.hear(OWN_MAC + GUEST.mac + kind + tail)
    neighbour.hear(tail)
    neighbour.ask()
