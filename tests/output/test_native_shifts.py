"""The table of shifts in C against the one in Python, call after call."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicator._native import ffi, lib
from replicator.engine.compare.packet import Kind, parse_frame, parse_plainly
from replicator.engine.compare.shift import Shift, shift_input, shift_output
from replicator.engine.compare.shift_table import ShiftTable
from replicator.errors import InvariantError, NativeError
from replicator.limits import FRAME_BYTES_MAX
from replicator.output.native_shifts import NativeShiftTable, Shifts
from replicator.wire.tcp_segments import read_segment

sys.path.insert(0, str(Path(__file__).parents[1] / "engine" / "compare"))
from compare_frames import (
    FIN,
    RST,
    SYN,
    SYN_OPTIONS,
    Ends,
    ethernet,
    ip_packet,
    sacks,
    tcp_frame,
    times,
    udp_frame,
)

GUESTS = Ends(), Ends(target_port=40001), Ends("fd00::1", 80, "fd00::2", 999), Ends(vlans=(5, 4095))
#: A few, near each other and near where they wrap around.
NUMBERS = st.sampled_from([0, 1, 2, 3, 1000, 1001, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF])
SHIFTS = st.builds(Shift, NUMBERS, NUMBERS)
FLAGS = st.sampled_from([0, SYN, FIN, RST, FIN | RST])
SIGNED = bytes((19, 18)) + bytes(16)
#: Each cut to 40 bytes, as much as a header has.
OPTIONS = st.lists(
    st.one_of(
        st.builds(times, NUMBERS, NUMBERS),
        st.builds(lambda left, right: sacks((left, right)), NUMBERS, NUMBERS),
        st.sampled_from(
            [b"", b"\1", SYN_OPTIONS, SIGNED, b"\5\2", b"\x08\x09" + bytes(7), b"\5\x0b", b"\0", b"\x03"]
        ),
    ),
    max_size=3,
).map(lambda parts: b"".join(parts)[:40])


@st.composite
def segments(draw: st.DrawFn) -> tuple[bool, bytes]:
    """Whether the guest said it, and the frame, perhaps with a byte changed or cut off."""
    from_guest = draw(st.booleans())
    ends = draw(st.sampled_from(GUESTS))
    frame = bytearray(
        tcp_frame(
            ends if from_guest else ends.flipped(),
            draw(NUMBERS),
            ack=draw(st.none() | NUMBERS),
            flags=draw(FLAGS),
            data=draw(st.binary(max_size=3)),
            options=draw(OPTIONS),
        )
    )
    if draw(st.integers(0, 3)) == 0:
        frame[draw(st.integers(12, len(frame) - 1))] = draw(st.integers(0, 255))
    if draw(st.integers(0, 7)) == 0:
        del frame[draw(st.integers(0, len(frame))) :]
    return from_guest, bytes(frame)


KEYS = st.sampled_from([parse_frame(tcp_frame(ends, 1), 0, from_guest=True).key for ends in GUESTS])
STEPS = st.one_of(
    st.tuples(st.just("frame"), segments()),
    st.tuples(st.just("learn"), st.tuples(KEYS, SHIFTS)),
    st.tuples(st.just("adopt"), st.lists(st.tuples(KEYS, SHIFTS), max_size=3)),
    st.sampled_from([("commit", ()), ("take_over", ()), ("forget_lasting", ())]),
)


def play(table: Shifts, step: tuple[str, object]) -> object:
    what, given_to_it = step
    if what == "frame":
        from_guest, frame = given_to_it  # type: ignore[misc]
        return (table.from_guest if from_guest else table.to_guest)(frame, 0)
    if what == "learn":
        return table.learn(*given_to_it)  # type: ignore[misc]
    if what == "adopt":
        return table.adopt(given_to_it)  # type: ignore[arg-type]
    return getattr(table, what)()


@settings(deadline=None, max_examples=400)
@given(st.integers(1, 9), st.lists(STEPS, max_size=30))
def test_both_tables_do_the_same(connections_max: int, steps: list[tuple[str, object]]) -> None:
    native: Shifts = NativeShiftTable(connections_max=connections_max)
    plain: Shifts = ShiftTable(connections_max=connections_max)
    for step in steps:
        assert play(native, step) == play(plain, step)
        assert len(native) == len(plain)
        assert native.export() == plain.export()
        for ends in GUESTS:
            key = parse_frame(tcp_frame(ends, 1), 0, from_guest=True).key
            assert native.recent_of(key) == plain.recent_of(key)


EXTENSIONS = st.lists(st.sampled_from([0, 43, 60, 44, 6, 17]), max_size=10)


@st.composite
def extended(draw: st.DrawFn) -> bytes:
    """An IPv6 packet with a chain of extension headers, which may not lead to TCP."""
    chain = [*draw(EXTENSIONS), draw(st.sampled_from([6, 6, 44]))]
    heads = b"".join(bytes((protocol, 0)) + bytes(6) for protocol in chain[1:])
    ends = GUESTS[2]
    body = heads + tcp_frame(ends, 7, ack=8, data=b"abc")[54:]
    cut = draw(st.integers(0, len(body))) if draw(st.booleans()) else len(body)
    return ethernet(
        0x86DD, ip_packet(ends, chain[0], body[:cut]), vlans=draw(st.sampled_from([(), (3,), (3, 4, 5)]))
    )


FRAMES: list[Callable[[], st.SearchStrategy[bytes]]] = [
    lambda: segments().map(lambda pair: pair[1]),
    extended,
    lambda: st.binary(max_size=80),
    lambda: st.builds(
        lambda kind, rest: bytes(12) + kind + rest,
        st.sampled_from([b"\x08\0", b"\x86\xdd", b"\x81\0"]),
        st.binary(max_size=80),
    ),
]


@settings(deadline=None, max_examples=500)
@given(st.one_of(*(make() for make in FRAMES)), st.booleans(), st.integers(0, 31))
def test_both_read_the_same_segments(frame: bytes, from_guest: bool, nic: int) -> None:
    assert parse_frame(frame, nic, from_guest=from_guest) == parse_plainly(frame, nic, from_guest=from_guest)
    assert (read_segment(frame, nic, from_guest) is not None) == (
        parse_plainly(frame, nic, from_guest=from_guest).kind is Kind.TCP
    )


@settings(deadline=None, max_examples=300)
@given(segments())
def test_both_read_the_same_options(one: tuple[bool, bytes]) -> None:
    from_guest, frame = one
    segment = ffi.new("struct rp_tcp_segment *")
    plain = parse_frame(frame, 0, from_guest=from_guest).tcp
    if not lib.rp_tcp_read(frame, len(frame), 0, from_guest, segment):
        assert plain is None
        return
    assert plain is not None
    found, wanted = ffi.new("struct rp_tcp_options *"), plain.options(frame)
    lib.rp_tcp_read_options(frame, segment, found)
    begin = plain.at + 20
    assert (found.tsval if found.has_times else None) == wanted.tsval
    assert found.tsecr == wanted.tsecr and bool(found.is_signed) == wanted.is_signed
    assert not found.has_times or found.times_at == begin + wanted.times_at
    edges = tuple(found.sacks_at - begin + 4 * index for index in range(found.sacks))
    assert edges == wanted.sack_edges_at


@settings(deadline=None, max_examples=300)
@given(segments(), SHIFTS, st.none() | NUMBERS)
def test_both_shift_alike(one: tuple[bool, bytes], shift: Shift, bound: int | None) -> None:
    from_guest, frame = one
    segment, options = ffi.new("struct rp_tcp_segment *"), ffi.new("struct rp_tcp_options *")
    if not lib.rp_tcp_read(frame, len(frame), 0, from_guest, segment):
        return
    plain = parse_frame(frame, 0, from_guest=from_guest).tcp
    assert plain is not None
    lib.rp_tcp_read_options(frame, segment, options)
    stamp = (bound is not None, bound or 0)
    for native, wanted in (
        (lib.rp_shift_input, shift_input(frame, plain, shift, ts_newest=bound)),
        (lib.rp_shift_output, shift_output(frame, plain, shift, ts_floor=bound)),
    ):
        out = ffi.new("uint8_t[]", len(frame))
        has_changed = native(frame, len(frame), segment, options, (shift.seq, shift.ts), stamp, out)
        assert (bytes(ffi.buffer(out)) if has_changed else frame) == wanted


def test_other_frames_pass() -> None:
    table = NativeShiftTable()
    table.take_over()
    for frame in (udp_frame(GUESTS[0], b"x"), b"", b"short", bytes(200)):
        assert table.to_guest(frame, 0) is frame is table.from_guest(frame, 0)
    assert len(table) == 0


def test_what_is_too_large_is_our_own_fault() -> None:
    table = NativeShiftTable()
    with pytest.raises(InvariantError):
        table.to_guest(bytes(FRAME_BYTES_MAX + 1), 0)
    with pytest.raises(InvariantError):
        table.learn(bytes(65), Shift())
    for connections_max in (0, (1 << 20) + 1):
        with pytest.raises(NativeError):
            NativeShiftTable(connections_max=connections_max)
