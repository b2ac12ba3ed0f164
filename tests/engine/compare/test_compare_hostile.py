"""Whatever the frames: nothing raises, nothing leaves twice, nothing is lost without being named, memory is bounded."""

from __future__ import annotations

import struct

from compare_frames import (
    ACK,
    FIN,
    RST,
    SYN,
    Ends,
    arp_frame,
    echo_reply,
    ethernet,
    ip_frame,
    sacks,
    tcp_frame,
    times,
    udp_frame,
)
from compare_stand import ENDS, Stand
from hypothesis import given, settings
from hypothesis import strategies as st

from replicator.engine.compare.machine import CompareSettings
from replicator.engine.compare.packet import describe_key, parse_frame
from replicator.engine.compare.shift import Shift
from replicator.engine.compare.tcp_options import parse_options

V6 = Ends("fd00::1", 80, "fd00::2", 999)
HOPS = bytes((6, 0)) + bytes(6)
SPECIMENS = [
    tcp_frame(ENDS, 1000, ack=7000, data=b"data", options=times(1, 2) + sacks((3, 4), (5, 6))),
    tcp_frame(V6, 1000, flags=SYN, options=times(1)),
    tcp_frame(Ends(vlans=(1, 2)), 1000, ack=1, flags=FIN | RST, data=b"x"),
    ip_frame(V6, 0, HOPS + tcp_frame(V6, 5, ack=6)[54:]),
    ip_frame(V6, 44, bytes((17, 0, 0, 1)) + b"idid" + b"data"),
    ip_frame(ENDS, 6, b"frag", fragment=0x2001),
    udp_frame(ENDS, b"datagram"),
    echo_reply(ENDS, 1, 2),
    arp_frame(),
    ethernet(0x88B5, b"lab"),
]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A frame that was right once: cut, with changed bytes."""
    frame = bytearray(draw(st.sampled_from(SPECIMENS)))
    for _ in range(draw(st.integers(0, 4))):
        frame[draw(st.integers(12, len(frame) - 1))] = draw(st.integers(0, 255))
    return bytes(frame[: draw(st.integers(0, len(frame)))]) if draw(st.booleans()) else bytes(frame)


@st.composite
def tcp_noise(draw: st.DrawFn) -> bytes:
    """Segments of one connection with any numbers and flags."""
    seq = draw(st.one_of(st.integers(1000, 1020), st.integers(0, 2**32 - 1)))
    flags = draw(st.sampled_from([0, 0, 0, SYN, FIN, RST, SYN | FIN, FIN | RST, 0xFF]))
    ack = draw(st.one_of(st.none(), st.integers(0, 2**32 - 1)))
    return tcp_frame(ENDS, seq, ack=ack, flags=flags, data=draw(st.binary(max_size=12)))


frames = st.one_of(st.binary(max_size=120), damaged(), tcp_noise())
deeds = st.lists(
    st.tuples(
        st.sampled_from(["primary", "secondary", "both", "input", "commit", "wait", "early", "old"]), frames
    ),
    max_size=40,
)


@settings(deadline=None)
@given(deeds, st.booleans(), st.sampled_from(["tcp-stream", "exact", "http"]))
def test_every_frame_leaves_once_or_is_named_lost(
    played: list[tuple[str, bytes]], confirms: bool, comparer: str
) -> None:
    limits = CompareSettings(bytes_max=2000, connections_max=5)
    stand = Stand(comparer, settings=limits, confirms=confirms)
    for deed, frame in played:
        epoch = stand.machine.epoch
        match deed:
            case "commit":
                stand.commit()
            case "wait":
                stand.wait(300)
            case "early":
                stand.primary(frame, epoch + 1)
                stand.secondary(frame, epoch + 1)
            case "old":
                stand.primary(frame, epoch - 1)
                stand.secondary(frame, epoch - 1)
            case "both":
                stand.both(frame)
            case _:
                getattr(stand, deed)(frame)
        status = stand.machine.status()
        assert status.held_bytes + status.kept_bytes + 128 * status.held_frames <= 2 * limits.bytes_max + 200
        assert status.connections <= limits.connections_max
    stand.commit(stand.machine.epoch + 1)
    assert sorted(stand.released + stand.dropped) == list(stand.frames)
    status = stand.machine.status()
    assert (status.held_frames, status.held_bytes, status.kept_bytes) == (0, 0, 0)
    assert not stand.machine.is_waiting


@settings(deadline=None)
@given(st.lists(frames, max_size=30))
def test_equal_frames_never_differ_for_long(said: list[bytes]) -> None:
    """Twins that say the same: what a machine may ask for is patience, not a difference, unless one contradicts
    itself."""
    stand = Stand()
    for frame in said:
        if stand.asked:
            break
        stand.both(frame)
    if stand.asked:
        assert stand.asked[0].detail.startswith(("primary", "opened", "goes on", "one side ends"))


@settings(max_examples=500, deadline=None)
@given(st.one_of(st.binary(max_size=200), damaged()), st.booleans())
def test_any_bytes_are_a_packet(frame: bytes, from_guest: bool) -> None:
    packet = parse_frame(frame, 3, from_guest=from_guest)
    assert packet.key[0] == 3
    described = describe_key(packet.key, from_start=True)
    if packet.tcp is not None:
        assert described is not None and described.protocol == "tcp"
        packet.tcp.options(frame)
    str(described)


@settings(deadline=None)
@given(damaged())
def test_both_directions_name_one_connection(frame: bytes) -> None:
    """Of a frame and its mirror image."""
    packet = parse_frame(frame, 0, from_guest=True)
    if packet.tcp is None or frame[12:14] != b"\x08\x00":
        return
    at = packet.tcp.at
    mirrored = bytearray(frame)
    mirrored[26:34] = frame[30:34] + frame[26:30]
    mirrored[at : at + 4] = frame[at + 2 : at + 4] + frame[at : at + 2]
    assert parse_frame(bytes(mirrored), 0, from_guest=False).key == packet.key


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_options(raw: bytes) -> None:
    options = parse_options(raw)
    assert all(place + 4 <= len(raw) for place in options.sack_edges_at)
    assert options.tsval is None or options.times_at + 8 <= len(raw)


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), frames), max_size=20), st.integers(0, 2**32 - 1))
def test_the_shift_table_takes_any_frame_and_keeps_its_size(said: list[tuple[bool, bytes]], seq: int) -> None:
    stand = Stand()
    for _, frame in said:
        stand.table.learn(parse_frame(frame, 0, from_guest=True).key, Shift(seq, 7))
    stand.table.take_over()
    for from_guest, frame in said:
        out = stand.table.from_guest(frame, 0) if from_guest else stand.table.to_guest(frame, 0)
        assert len(out) == len(frame)


def test_broken_lengths_are_no_packets() -> None:
    good = tcp_frame(ENDS, 1, ack=2, data=b"abc")
    for at, value in ((14, 0x44), (14, 0x65), (16, 0xFFFF), (16, 10), (46, 0x40), (46, 0xF0)):
        broken = bytearray(good)
        struct.pack_into("!H" if value > 255 else "!B", broken, at, value)
        assert parse_frame(bytes(broken), 0, from_guest=True).tcp is None


def test_flags_of_all_kinds_at_once() -> None:
    stand = Stand()
    stand.both(tcp_frame(ENDS, 1, ack=5, flags=SYN | FIN | RST | ACK, data=b"xmas"))
    stand.commit()
    assert stand.held == 0
