"""Rewriting: frames of one guest's numbers for another's, and connections that go on after a take-over."""

from __future__ import annotations

import copy
import struct

import pytest
from compare_frames import ACK, RST, SYN, Ends, read_segment, sacks, tcp_frame, times, udp_frame
from compare_peers import End
from compare_stand import ENDS, Stand
from hypothesis import given, settings
from hypothesis import strategies as st

from replicator.engine.compare.checksum import fold, sum_words, update_checksum
from replicator.engine.compare.numbers import distance, is_at_or_after, latest
from replicator.engine.compare.packet import parse_frame
from replicator.engine.compare.shift import Shift, shift_input, shift_output
from replicator.engine.compare.shift_table import TS_LEAD_TICKS, ShiftTable

MASK = 0xFFFFFFFF
numbers = st.integers(0, MASK)
shifts = st.builds(Shift, numbers, numbers)
V6 = Ends("fd00::1", 80, "fd00::2", 999)


def tcp_of(frame: bytes, *, from_guest: bool):
    return parse_frame(frame, 0, from_guest=from_guest).tcp


@settings(deadline=None)
@given(st.binary(max_size=40), st.binary(max_size=40), st.binary(max_size=20))
def test_a_checksum_follows_the_change(before: bytes, after: bytes, rest: bytes) -> None:
    after = after[: len(before)].ljust(len(before), b"\0")
    rest = rest + b"\0" * ((len(before) + len(rest)) % 2)
    whole = ~fold(sum_words(before + rest)) & 0xFFFF
    size = len(before) // 2 * 2
    changed = after[:size] + before[size:] + rest
    updated = update_checksum(whole, sum_words(before[:size]), sum_words(after[:size]))
    # Zero has two forms in ones' complement.
    assert updated % 0xFFFF == (~fold(sum_words(changed)) & 0xFFFF) % 0xFFFF


@settings(deadline=None)
@given(numbers, numbers)
def test_distances_are_signed_and_modular(start: int, end: int) -> None:
    assert (start + distance(start, end)) & MASK == end
    assert -(1 << 31) <= distance(start, end) < 1 << 31
    assert latest(start, end) in (start, end)
    assert is_at_or_after(latest(start, end), start)


@settings(deadline=None)
@given(
    shifts, numbers, numbers, numbers, st.binary(max_size=30), st.sampled_from([ENDS, V6]), st.integers(0, 3)
)
def test_output_is_shifted_and_its_checksum_right(
    shift: Shift, seq: int, ack: int, stamp: int, data: bytes, ends: Ends, padding: int
) -> None:
    # Padding moves the timestamps to any alignment.
    options = b"\1" * padding + times(stamp, 9)
    frame = tcp_frame(ends, seq, ack=ack, data=data, options=options)
    out = read_segment(shift_output(frame, tcp_of(frame, from_guest=True), shift))
    assert (out.seq, out.ack, out.data) == ((seq - shift.seq) & MASK, ack, data)
    assert (out.tsval, out.tsecr) == ((stamp - shift.ts) & MASK, 9)


@settings(deadline=None)
@given(
    shifts, numbers, numbers, st.integers(1, MASK), numbers, st.sampled_from([ENDS, V6]), st.integers(0, 3)
)
def test_input_is_shifted_and_its_checksum_right(
    shift: Shift, seq: int, ack: int, echo: int, edge: int, ends: Ends, padding: int
) -> None:
    options = b"\1" * padding + sacks((edge, edge + 10))[2:] + times(5, echo)
    frame = tcp_frame(ends, seq, ack=ack, data=b"abc", options=options)
    new = read_segment(shift_input(frame, tcp_of(frame, from_guest=False), shift))
    assert (new.seq, new.ack, new.data) == (seq, (ack + shift.seq) & MASK, b"abc")
    assert new.sacks == (((edge + shift.seq) & MASK, (edge + 10 + shift.seq) & MASK),)
    assert (new.tsval, new.tsecr) == (5, (echo + shift.ts) & MASK)


def test_a_wrong_checksum_stays_wrong() -> None:
    frame = tcp_frame(ENDS, 5, ack=6, data=b"abc")
    broken = bytearray(frame)
    broken[50] ^= 1
    shifted = shift_output(bytes(broken), tcp_of(bytes(broken), from_guest=True), Shift(77))
    with pytest.raises(AssertionError):
        read_segment(shifted)


def test_a_floor_keeps_time_from_going_back() -> None:
    frame = tcp_frame(ENDS, 5, ack=6, options=times(100, 1))
    segment = tcp_of(frame, from_guest=True)
    assert read_segment(shift_output(frame, segment, Shift(), ts_floor=150)).tsval == 150
    assert read_segment(shift_output(frame, segment, Shift(), ts_floor=50)).tsval == 100


def test_no_echo_is_from_the_future() -> None:
    frame = tcp_frame(ENDS, 5, ack=6, options=times(1, 1000))
    segment = tcp_of(frame, from_guest=False)
    assert read_segment(shift_input(frame, segment, Shift(ts=10), ts_newest=500)).tsecr == 500
    assert read_segment(shift_input(frame, segment, Shift(ts=10), ts_newest=2000)).tsecr == 1010


def test_signed_segments_and_those_without_acknowledgement_are_left_alone() -> None:
    signed = tcp_frame(ENDS, 5, ack=6, options=bytes((19, 18)) + bytes(16))
    assert shift_input(signed, tcp_of(signed, from_guest=False), Shift(3, 4)) == signed
    assert shift_output(signed, tcp_of(signed, from_guest=True), Shift(3, 4)) == signed
    syn = tcp_frame(ENDS, 5, flags=SYN, options=times(1))
    assert shift_input(syn, tcp_of(syn, from_guest=False), Shift(3, 4)) == syn


def test_other_frames_pass_the_table() -> None:
    table = ShiftTable()
    table.take_over()
    for frame in (udp_frame(ENDS, b"x"), b"", b"short", bytes(200)):
        assert table.to_guest(frame, 0) == frame == table.from_guest(frame, 0)
    assert len(table) == 0


class Pair:
    """A peer that talks to a primary whose secondary says the same with numbers of its own."""

    def __init__(self, isns: tuple[int, int, int], clock: int, lag: int) -> None:
        self.stand = Stand()
        self.peer = End(ENDS.flipped(), isns[0], 5000)
        self.mine = End(ENDS, isns[1], clock)
        self.others = End(ENDS, isns[2], clock - lag)
        self.alone = False

    def pass_time(self, ticks: int) -> None:
        for end in (self.peer, self.mine, self.others):
            end.clock += ticks

    def guest_speaks(self, call: str, *args: object, **options: object) -> None:
        mine = getattr(copy.deepcopy(self.mine) if self.alone else self.mine, call)(*args, **options)
        others = getattr(self.others, call)(*args, **options)
        if self.alone:
            self.peer.hears(self.stand.table.from_guest(others, 0))
            return
        number = self.stand.both(mine, others)
        assert self.stand.released[-1] == number
        self.peer.hears(mine)

    def peer_speaks(self, call: str, *args: object, **options: object) -> None:
        frame = getattr(self.peer, call)(*args, **options)
        self.others.hears(self.stand.input(frame))
        if not self.alone:
            self.mine.hears(frame)

    def open(self, *, by_guest: bool) -> None:
        if by_guest:
            self.guest_speaks("opens")
            self.peer_speaks("opens")
            self.guest_speaks("says")
        else:
            self.peer_speaks("opens")
            self.guest_speaks("opens")
            self.peer_speaks("says")

    def exchange(self, request: bytes, answer: bytes) -> None:
        self.peer_speaks("says", request)
        self.guest_speaks("says", answer)
        self.peer_speaks("says")

    def take_over(self) -> None:
        self.stand.table.take_over()
        self.alone = True


exchanges = st.lists(
    st.tuples(st.binary(min_size=1, max_size=20), st.binary(min_size=1, max_size=20)), max_size=4
)


@settings(deadline=None)
@given(
    st.tuples(numbers, numbers, numbers), numbers, st.integers(-400, 400), st.booleans(), exchanges, exchanges
)
def test_a_connection_goes_on_after_a_take_over(
    isns: tuple[int, int, int],
    clock: int,
    lag: int,
    by_guest: bool,
    before: list[tuple[bytes, bytes]],
    after: list[tuple[bytes, bytes]],
) -> None:
    pair = Pair(isns, clock, lag)
    pair.open(by_guest=by_guest)
    for request, answer in before:
        pair.pass_time(3)
        pair.exchange(request, answer)
    pair.take_over()
    for request, answer in after:
        pair.pass_time(3)
        pair.exchange(request, answer)
    pair.guest_speaks("says", b"bye", fin=True)
    pair.peer_speaks("says", fin=True)
    assert pair.peer.heard == b"".join(answer for _, answer in (*before, *after)) + b"bye"
    assert pair.others.heard == b"".join(request for request, _ in (*before, *after))
    assert pair.stand.asked == []


@settings(deadline=None)
@given(st.tuples(numbers, numbers, numbers), numbers, st.integers(-400, 400))
def test_what_was_on_its_way_is_said_again(isns: tuple[int, int, int], clock: int, lag: int) -> None:
    pair = Pair(isns, clock, lag)
    pair.open(by_guest=False)
    pair.exchange(b"request", b"answer")
    # The primary dies with its answer on the way; the peer has a later part of it only.
    for end in (pair.mine, pair.others):
        end.says(b"lost and found")
    pair.take_over()
    pair.peer_speaks("says", sack=(10, 12))
    pair.guest_speaks("says_again", len(b"answer"))
    assert pair.peer.heard == b"answerlost and found"


@settings(deadline=None)
@given(st.tuples(numbers, numbers, numbers), numbers, st.integers(0, 400), st.integers(0, 400))
def test_a_second_take_over_keeps_the_connection(
    isns: tuple[int, int, int], clock: int, lag: int, second_lag: int
) -> None:
    """The survivor of the first one gets a new secondary; the world knows the numbers of a guest long gone."""
    pair = Pair(isns, clock, lag)
    pair.open(by_guest=False)
    pair.exchange(b"one", b"1")
    pair.take_over()
    pair.exchange(b"two", b"22")
    survivor, primary = pair.others, pair.stand.table
    third, table = copy.deepcopy(survivor), ShiftTable()
    third.clock -= second_lag
    assert table.adopt(primary.export())
    for _ in range(2):
        request = pair.peer.says(b"req")
        inner = primary.to_guest(request, 0)
        survivor.hears(inner)
        third.hears(table.to_guest(inner, 0))
        answer, other = survivor.says(b"333"), third.says(b"333")
        table.from_guest(other, 0)
        pair.peer.hears(primary.from_guest(answer, 0))
    table.take_over()
    third.hears(table.to_guest(pair.peer.says(b"last"), 0))
    pair.peer.hears(table.from_guest(third.says(b"4444"), 0))
    assert pair.peer.heard == b"122" + b"333333" + b"4444"
    assert third.heard == b"one" + b"two" + b"reqreq" + b"last"


def test_a_checkpoint_takes_the_shift_back() -> None:
    table = ShiftTable()
    frame = tcp_frame(ENDS.flipped(), 1, ack=100, data=b"x")
    key = parse_frame(frame, 0, from_guest=False).key
    assert table.learn(key, Shift(50, 0))
    assert read_segment(table.to_guest(frame, 0)).ack == 150
    table.commit()
    assert table.to_guest(frame, 0) == frame


def test_new_connections_of_old_addresses_are_not_shifted() -> None:
    table = ShiftTable()
    syn = tcp_frame(ENDS.flipped(), 1, flags=SYN)
    table.to_guest(syn, 0)
    table.learn(parse_frame(syn, 0, from_guest=False).key, Shift(50))
    table.to_guest(syn, 0)
    table.take_over()
    assert read_segment(table.to_guest(tcp_frame(ENDS.flipped(), 2, ack=100), 0)).ack == 150
    table.to_guest(tcp_frame(ENDS.flipped(), 900, flags=SYN), 0)
    assert read_segment(table.to_guest(tcp_frame(ENDS.flipped(), 901, ack=100), 0)).ack == 100


def test_the_table_is_bounded_and_refuses_rather_than_forgets() -> None:
    table = ShiftTable(connections_max=3)
    keys = [struct.pack("!H", number) for number in range(4)]
    assert [table.learn(key, Shift(1)) for key in keys] == [True, True, True, False]
    frame = tcp_frame(ENDS.flipped(), 1, ack=1, flags=RST | ACK)
    assert table.to_guest(frame, 0) == frame
    table.commit()
    assert table.learn(keys[3], Shift(1))
    assert len(table) == 3


def test_closed_connections_make_room() -> None:
    table = ShiftTable(connections_max=1)
    frame = tcp_frame(ENDS, 1, ack=1, flags=RST)
    table.from_guest(frame, 0)
    assert table.learn(parse_frame(frame, 0, from_guest=True).key, Shift(5))
    assert table.learn(b"another", Shift(6))


def test_a_lead_covers_clocks_that_are_apart() -> None:
    table = ShiftTable()
    table.from_guest(tcp_frame(ENDS, 1, ack=1, options=times(500)), 0)
    table.take_over()
    assert (
        read_segment(table.from_guest(tcp_frame(ENDS, 1, ack=1, options=times(500)), 0)).tsval
        == 500 + TS_LEAD_TICKS
    )
