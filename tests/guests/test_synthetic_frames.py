"""The synthetic guest's answers, frame by frame."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.guests.synthetic_frames import (
    BEACON_SEQUENCE,
    BROADCAST,
    ONCE_FLAG,
    WORK_FLAG,
    Address,
    Reply,
    answer_frame,
    decode_reply,
    encode_beacon,
    encode_request,
    parse_mac,
    work_in,
)

OWN = Address(parse_mac("52:54:00:00:00:01"), IPv4Address("10.77.0.2"))
PEER = Address(parse_mac("52:54:00:00:00:09"), IPv4Address("10.77.0.9"))
PORT = 7


class Service:
    """Counts what was executed."""

    def __init__(self) -> None:
        self.executed: list[int] = []

    def __call__(self, sequence: int) -> Reply:
        self.executed.append(sequence)
        return Reply(sequence, len(self.executed), 1000, 1, 3, 77)


def arp_request(wanted: IPv4Address) -> bytes:
    body = struct.pack("!HHBBH6s4s6s4s", 1, 0x800, 6, 4, 1, PEER.mac, PEER.ip.packed, bytes(6), wanted.packed)
    return BROADCAST + PEER.mac + b"\x08\x06" + body


def udp_request(
    payload: bytes, *, port: int = PORT, target: IPv4Address = OWN.ip, fragment: int = 0, protocol: int = 17
) -> bytes:
    udp = struct.pack("!HHHH", 40000, port, 8 + len(payload), 0) + payload
    head = (0x45, 0, 20 + len(udp), 1, fragment, 64, protocol, 0, PEER.ip.packed, target.packed)
    return OWN.mac + PEER.mac + b"\x08\x00" + struct.pack("!BBHHHBBH4s4s", *head) + udp


def test_a_raw_request_is_served_once() -> None:
    service = Service()
    answer = answer_frame(encode_request(PEER.mac, OWN.mac, 5), OWN, service)
    assert answer is not None
    assert (answer[:6], answer[6:12], len(answer)) == (PEER.mac, OWN.mac, 62)
    assert decode_reply(answer) == Reply(5, 1, 1000, 1, 3, 77)
    assert service.executed == [5]


def test_a_udp_request_is_served_with_a_right_ipv4_header() -> None:
    service = Service()
    answer = answer_frame(udp_request(struct.pack("!Q", 8) + b"more"), OWN, service)
    assert answer is not None
    header, udp = answer[14:34], answer[34:]
    total = sum(struct.unpack("!10H", header))
    assert (total & 0xFFFF) + (total >> 16) == 0xFFFF
    assert (header[12:16], header[16:20]) == (OWN.ip.packed, PEER.ip.packed)
    assert struct.unpack_from("!HHH", udp) == (PORT, 40000, 8 + 48)
    assert struct.unpack_from("!6Q", udp, 8) == (8, 1, 1000, 1, 3, 77)
    assert struct.unpack_from("!H", header, 2) == (20 + 8 + 48,)


def test_arp_for_its_address_is_answered() -> None:
    answer = answer_frame(arp_request(OWN.ip), OWN, Service())
    assert answer is not None
    assert answer[:14] == PEER.mac + OWN.mac + b"\x08\x06"
    assert struct.unpack_from("!H6s4s6s4s", answer, 20) == (
        2,
        OWN.mac,
        OWN.ip.packed,
        PEER.mac,
        PEER.ip.packed,
    )


@pytest.mark.parametrize(
    "frame",
    [
        arp_request(PEER.ip),
        encode_request(PEER.mac, PEER.mac, 5),
        encode_request(PEER.mac, BROADCAST, 5),
        udp_request(b"1234567"),
        udp_request(bytes(8), port=8),
        udp_request(bytes(8), target=PEER.ip),
        udp_request(bytes(8), fragment=0x2000),
        udp_request(bytes(8), protocol=6),
        OWN.mac + PEER.mac + b"\x86\xdd" + bytes(60),
    ],
)
def test_what_is_not_for_it_is_neither_answered_nor_served(frame: bytes) -> None:
    service = Service()
    assert answer_frame(frame, OWN, service) is None
    assert service.executed == []


@given(st.sampled_from([arp_request(OWN.ip), udp_request(bytes(8))]), st.integers(0, 80))
def test_a_cut_frame_is_harmless(frame: bytes, size: int) -> None:
    service = Service()
    answer = answer_frame(frame[:size], OWN, service)
    assert (answer is not None) == (size >= len(frame))


@given(st.binary(max_size=100))
def test_noise_is_harmless(noise: bytes) -> None:
    answer_frame(noise, OWN, Service())
    answer_frame(OWN.mac + noise, OWN, Service())


def test_a_beacon_is_a_reply_nobody_asked_for() -> None:
    beacon = encode_beacon(OWN.mac, Reply(BEACON_SEQUENCE, 3, 0, 5, 1, 8))
    assert beacon[:6] == BROADCAST
    assert decode_reply(beacon) == Reply(BEACON_SEQUENCE, 3, 0, 5, 1, 8)
    assert decode_reply(beacon[:40]) is None
    assert decode_reply(arp_request(OWN.ip).ljust(60)) is None


def test_a_mac_has_six_bytes() -> None:
    with pytest.raises(ValueError, match="not a MAC"):
        parse_mac("52:54:00")


@pytest.mark.parametrize(
    ("sequence", "steps"),
    [(5, 0), (WORK_FLAG | 3584, 3584), (WORK_FLAG | 1 << 40 | 7, 7), (ONCE_FLAG | 9, 0)],
)
def test_a_request_may_ask_for_work(sequence: int, steps: int) -> None:
    assert work_in(sequence) == steps
