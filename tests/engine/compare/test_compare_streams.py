"""Two senders of one stream, each in its own way: drawn segmentations, repetitions, orders and acknowledgements."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from compare_frames import tcp_frame
from compare_stand import ENDS, Stand, Talker
from hypothesis import given, settings
from hypothesis import strategies as st

from replicator.engine.compare.stream import Stream, Taken

LENGTH_MAX = 60
REQUEST = 200


@dataclass(frozen=True)
class Piece:
    start: int
    end: int
    #: Bytes of the request that it acknowledges.
    acked: int


@st.composite
def sayings(draw: st.DrawFn, length: int, *, in_order: bool) -> list[Piece]:
    """All of a stream, cut anywhere; any part may come again, and unless `in_order` anything may come anywhere."""
    cuts = sorted(draw(st.sets(st.integers(1, max(length - 1, 1)), max_size=8)))
    borders = [0, *(cut for cut in cuts if cut < length), length]
    spans = list(pairwise(borders))
    if not in_order:
        spans = list(draw(st.permutations(spans)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(1, len(spans)))
        said = max(end for _, end in spans[:at])
        start = draw(st.integers(0, said - 1))
        # A guest repeats what it has said; reordered, it may be anything.
        end = draw(st.integers(start, said if in_order else length))
        spans.insert(at, (start, end))
    acked = sorted(draw(st.lists(st.integers(0, REQUEST), min_size=len(spans), max_size=len(spans))))
    return [Piece(start, end, ack) for (start, end), ack in zip(spans, acked)]


@st.composite
def talks(draw: st.DrawFn, *, in_order: bool) -> tuple[bytes, list[Piece], list[Piece], list[bool]]:
    """A stream, both sides' ways of saying it, and whose turn it is."""
    stream = draw(st.binary(min_size=1, max_size=LENGTH_MAX))
    mine = draw(sayings(len(stream), in_order=in_order))
    others = draw(sayings(len(stream), in_order=in_order))
    turns = draw(st.permutations([True] * len(mine) + [False] * len(others)))
    return stream, mine, others, list(turns)


class Talk:
    """Plays a talk and checks at each step that nothing left too early."""

    def __init__(self, mine: Talker, others: Talker, *, confirms: bool) -> None:
        self.stand = Stand(confirms=confirms)
        self.mine, self.others = mine, others
        self.pieces: dict[int, Piece] = {}
        self.said: set[int] = set()
        self.acked = 0

    def say(self, piece: Piece, data: bytes) -> None:
        frame = self.mine.says(piece.start, data, ack=self.mine.peer_isn + 1 + piece.acked)
        number = len(self.stand.frames) + 1
        self.pieces[number] = piece
        self.stand.primary(frame)
        self.check()

    def hear(self, piece: Piece, data: bytes) -> None:
        self.said |= set(range(piece.start, piece.end))
        self.acked = max(self.acked, piece.acked)
        self.stand.secondary(self.others.says(piece.start, data, ack=self.others.peer_isn + 1 + piece.acked))
        self.check()

    def check(self) -> None:
        """What left: all of it was said, and its acknowledgement is one of the secondary's or of a logged input."""
        for number in self.stand.released:
            if number in self.pieces:
                piece = self.pieces[number]
                assert self.said >= set(range(piece.end))
                assert piece.acked <= self.acked or self.stand.confirms


@settings(deadline=None)
@given(talks(in_order=False), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.booleans())
def test_one_stream_said_in_two_ways_is_the_same(
    talk: tuple[bytes, list[Piece], list[Piece], list[bool]], isn: int, other_isn: int, confirms: bool
) -> None:
    stream, mine, others, turns = talk
    played = Talk(Talker(isn), Talker(other_isn), confirms=confirms)
    stand = played.stand
    stand.both(played.mine.syn_ack(), played.others.syn_ack())
    stand.know_shifts(1)
    stand.input(tcp_frame(ENDS.flipped(), played.mine.peer_isn + 1, ack=isn + 1, data=bytes(REQUEST)))
    left, right = iter(mine), iter(others)
    for is_mine in turns:
        piece = next(left if is_mine else right)
        (played.say if is_mine else played.hear)(piece, stream[piece.start : piece.end])
    # The secondary acknowledges everything in the end.
    played.hear(Piece(len(stream), len(stream), REQUEST), b"")
    assert stand.asked == []
    assert stand.released == list(stand.frames)
    assert stand.held == 0
    assert not stand.machine.is_waiting


@settings(deadline=None)
@given(talks(in_order=True), st.data())
def test_exactly_what_is_before_a_difference_leaves_before_the_checkpoint(
    talk: tuple[bytes, list[Piece], list[Piece], list[bool]], data: st.DataObject
) -> None:
    stream, mine, others, turns = talk
    place = data.draw(st.integers(0, len(stream) - 1))
    changed = stream[:place] + bytes((stream[place] ^ 1,)) + stream[place + 1 :]
    stand = Stand()
    talker = Talker()
    # A place before the stream anchors both.
    stand.both(talker.says(-1, b"!"))
    pieces: dict[int, Piece] = {}
    left, right = iter(mine), iter(others)
    for is_mine in turns:
        piece = next(left if is_mine else right)
        if is_mine:
            pieces[stand.primary(talker.says(piece.start, stream[piece.start : piece.end]))] = piece
        else:
            stand.secondary(talker.says(piece.start, changed[piece.start : piece.end]))
    assert stand.reasons() == ["differs"]
    before = stand.released[1:]
    assert all(pieces[number].end <= place for number in before)
    first = next(number for number, piece in pieces.items() if piece.end > place)
    assert max(before, default=1) < first
    stand.commit()
    assert stand.released == list(stand.frames)


@settings(deadline=None)
@given(st.integers(1, 40))
def test_byte_by_byte_all_before_a_difference_leaves(place: int) -> None:
    stand = Stand()
    talker = Talker()
    stream = bytes(range(place + 5))
    numbers = [stand.primary(talker.says(at, stream[at : at + 1])) for at in range(len(stream))]
    stand.secondary(talker.says(0, stream[:place] + b"?" + stream[place + 1 :]))
    assert stand.released == numbers[:place]


@settings(deadline=None)
@given(talks(in_order=False), st.integers(0, 2**32 - 1))
def test_a_stream_keeps_what_was_said_in_order(
    talk: tuple[bytes, list[Piece], list[Piece], list[bool]], seq: int
) -> None:
    stream, mine, _, _ = talk
    one = Stream(seq)
    said: set[int] = set()
    for piece in mine:
        assert one.take((seq + piece.start) & 0xFFFFFFFF, stream[piece.start : piece.end], 0) is Taken.OK
        said |= set(range(piece.start, piece.end))
        gapless = next(place for place in range(len(stream) + 1) if place not in said)
        assert one.pending == stream[one.position : gapless]
        assert one.kept_bytes == len([place for place in said if place >= one.position])
        one.advance(len(one.pending) // 2, 0)
    assert one.end == len(stream)
    assert one.next_seq == (seq + len(stream)) & 0xFFFFFFFF


def test_a_stream_is_bounded() -> None:
    one = Stream(0, bytes_max=10)
    assert one.take(0, bytes(8), 0) is Taken.OK
    assert one.take(8, bytes(3), 0) is Taken.FULL
    assert one.take(20, bytes(3), 0) is Taken.FULL
    assert one.kept_bytes == 8
    assert one.is_lossy


def test_islands_are_bounded() -> None:
    one = Stream(0)
    taken = {one.take(2 * number, b"x", 0) for number in range(1, 2000)}
    assert taken == {Taken.OK, Taken.FULL}
    assert one.kept_bytes <= 300


def test_contradictions_between_islands_are_found() -> None:
    one = Stream(0)
    assert one.take(5, b"abcd", 0) is Taken.OK
    assert one.take(7, b"xd", 0) is Taken.CONTRADICTS
    assert one.take(0, b"12345A", 0) is Taken.CONTRADICTS


def test_an_end_cannot_move() -> None:
    one = Stream(0)
    assert one.take(0, b"abc", 0, fin=True) is Taken.OK
    assert one.take(0, b"abcd", 0, fin=True) is Taken.CONTRADICTS
