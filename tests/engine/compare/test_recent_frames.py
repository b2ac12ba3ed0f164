"""What is said again at a take-over."""

from __future__ import annotations

from compare_frames import RST, Ends, tcp_frame, udp_frame
from compare_stand import Talker
from hypothesis import given
from hypothesis import strategies as st

from replicator.engine.compare.packet import parse_frame
from replicator.engine.compare.recent import (
    RECENT_BYTES_MAX,
    RECENT_FRAMES_MAX,
    RECENT_NS,
    RecentFrames,
)
from replicator.engine.compare.shift import NO_SHIFT, Shift
from replicator.engine.output import Frame

GUEST = Talker()
ENDS = GUEST.ends


def note_all(*said: bytes, at_ns: int = 0) -> RecentFrames:
    recent = RecentFrames()
    for data in said:
        recent.note(Frame(0, data), at_ns)
    return recent


def acknowledges(place: int) -> bytes:
    return tcp_frame(ENDS.flipped(), 7001, ack=GUEST.isn + 1 + place)


def unheard(recent: RecentFrames, *inputs: bytes, shift: Shift = NO_SHIFT, now_ns: int = 0) -> list[bytes]:
    frames = [Frame(0, data) for data in inputs]
    return [frame.data for frame in recent.unheard(frames, lambda _: shift, now_ns)]


def test_what_was_acknowledged_is_not_said_again() -> None:
    first, second = GUEST.says(0, b"abc"), GUEST.says(3, b"def")
    assert unheard(note_all(first, second)) == [first, second]
    assert unheard(note_all(first, second), acknowledges(3)) == [second]
    assert unheard(note_all(first, second), acknowledges(5)) == [second]
    assert unheard(note_all(first, second), acknowledges(6), acknowledges(3)) == []


def test_acknowledgements_are_shifted_to_this_guests_numbers() -> None:
    first = GUEST.says(0, b"abc")
    ack = tcp_frame(ENDS.flipped(), 7001, ack=GUEST.isn + 4 - 100)
    assert unheard(note_all(first), ack) == [first]
    assert unheard(note_all(first), ack, shift=Shift(seq=100)) == []


def test_ends_and_openings_count_as_a_byte() -> None:
    opening, end = GUEST.syn_ack(), GUEST.says(0, fin=True)
    assert unheard(note_all(opening, end)) == [opening, end]
    assert unheard(note_all(opening, end), acknowledges(0)) == [end]
    assert unheard(note_all(opening, end), acknowledges(1)) == []


def test_of_plain_acknowledgements_the_newest_is_said_again() -> None:
    older, newer, other = (GUEST.says(0, ack=ack) for ack in (8000, 8100, 8200))
    assert unheard(note_all(older, newer, other), acknowledges(0)) == [other]


def test_refusals_are_said_again_and_openings_of_the_guest_itself_are_not() -> None:
    refusal = GUEST.resets()
    assert unheard(note_all(GUEST.syn(), refusal), acknowledges(9)) == [refusal]


def test_only_tcp_and_only_of_the_last_second() -> None:
    words = GUEST.says(0, b"abc")
    recent = note_all(udp_frame(ENDS, b"x"), b"", words)
    assert unheard(recent, now_ns=RECENT_NS) == [words]
    assert unheard(recent, now_ns=RECENT_NS + 1) == []
    recent.clear()
    assert unheard(recent) == []


def test_connections_do_not_acknowledge_for_one_another() -> None:
    other = Talker(ends=Ends(target_port=40001))
    words = other.says(0, b"abc")
    assert unheard(note_all(words), acknowledges(3)) == [words]


def test_both_bounds_are_kept_by_the_newest() -> None:
    recent = note_all(*(GUEST.says(place, b"x") for place in range(RECENT_FRAMES_MAX + 10)))
    assert len(recent) == RECENT_FRAMES_MAX
    assert unheard(recent)[0] == GUEST.says(10, b"x")
    large = note_all(*(GUEST.says(place, bytes(60_000)) for place in range(100)))
    assert 60_000 * len(large) <= RECENT_BYTES_MAX < 60_000 * (len(large) + 2)


@given(st.lists(st.binary(max_size=120), max_size=10), st.lists(st.binary(max_size=120), max_size=10))
def test_any_bytes_are_harmless(said: list[bytes], inputs: list[bytes]) -> None:
    again = unheard(note_all(*said), *inputs)
    assert all(parse_frame(frame, 0, from_guest=True).tcp is not None for frame in again)
    assert not set(again) - set(said)


def test_a_refusal_acknowledges_nothing() -> None:
    words = GUEST.says(0, b"abc")
    assert unheard(note_all(words), tcp_frame(ENDS.flipped(), 7001, flags=RST)) == [words]
