"""Bytes come out as they went in, whatever the pieces, and no view shows memory that has changed."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from replicator.wire.intake import Intake

pieces = st.lists(st.binary(max_size=40), max_size=12)
sizes = st.lists(st.integers(1, 30), max_size=60)


@given(pieces, sizes)
def test_takes_give_the_bytes_in_order(pieces: list[bytes], sizes: list[int]) -> None:
    whole = b"".join(pieces)
    intake = Intake()
    taken = bytearray()
    wanted = iter(sizes)
    size = next(wanted, 0)
    # One buffer for all pieces, as a reader has it: what is kept must have been copied.
    buffer = bytearray(40)
    for piece in pieces:
        intake.hold()
        buffer[: len(piece)] = piece
        intake.add(memoryview(buffer)[: len(piece)])
        while size and (view := intake.take(size)) is not None:
            taken += view
            size = next(wanted, 0)
        assert intake.offset == len(taken)
        intake.hold()
        buffer[:] = b"\xee" * len(buffer)
    assert whole.startswith(taken)
    assert intake.pending == len(whole) - len(taken)
    assert intake.take_rest() == whole[len(taken) :]
    assert intake.pending == 0


@given(st.binary(min_size=1, max_size=100), st.lists(st.integers(0, 100), max_size=5), st.integers(1, 9))
def test_units_come_whole(data: bytes, cuts: list[int], unit: int) -> None:
    intake = Intake()
    taken = bytearray()
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, end in pairwise(edges):
        intake.add(data[start:end])
        while (view := intake.take_units(unit, 3)) is not None:
            assert len(view) % unit == 0 and len(view) <= 3 * unit
            taken += view
    assert bytes(taken) == data[: len(data) - len(data) % unit]


def test_a_view_into_the_newest_piece_is_not_copied() -> None:
    buffer = bytearray(b"abcdef")
    intake = Intake()
    intake.add(buffer)
    view = intake.take(3)
    buffer[0] = ord("X")
    assert view == b"Xbc"


def test_peek_and_skip() -> None:
    intake = Intake()
    intake.add(b"abc")
    assert intake.peek(4) is None
    intake.add(b"def")
    assert intake.peek(4) == b"abcd"
    assert intake.skip(4) == 4
    assert intake.offset == 4
    assert intake.skip(9) == 2
    assert intake.pending == 0
