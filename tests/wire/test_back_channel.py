"""Words of COLO: what is said comes back, and nothing else is taken for one."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import TruncatedStream, WireError
from replicator.wire.back_channel import PFNS_MAX, PIECE_BYTES_MAX, parse_piece, state_word, suspended_word
from replicator.wire.decoder import decode_stream
from replicator.wire.grammar import StreamKind
from replicator.wire.layout import CheckpointStateId
from replicator.wire.records import CheckpointState, DirtyPfnList

PFN_END = 1 << 20


@pytest.mark.parametrize("state", CheckpointStateId)
def test_a_state_comes_back(state):
    assert parse_piece(memoryview(state_word(state)), PFN_END) == (state, array("Q"))


@given(st.lists(st.integers(0, PFN_END - 1), max_size=40))
def test_pfns_come_back_behind_their_state(pfns):
    (piece,) = suspended_word(array("Q", pfns))
    assert not piece.more
    assert parse_piece(memoryview(piece.records), PFN_END) == (
        CheckpointStateId.SVM_SUSPENDED,
        array("Q", pfns),
    )


@pytest.mark.parametrize(
    "count", [0, 1, PFNS_MAX - 1, PFNS_MAX, PFNS_MAX + 1, 2 * PFNS_MAX, 2 * PFNS_MAX + 1]
)
def test_many_pfns_need_more_pieces_and_the_last_one_says_so(count):
    pfns = array("Q", range(count))
    pieces = list(suspended_word(pfns))
    assert [piece.more for piece in pieces] == [True] * (len(pieces) - 1) + [False]
    assert max(len(piece.records) for piece in pieces) <= PIECE_BYTES_MAX
    found = [parse_piece(memoryview(piece.records), PFN_END) for piece in pieces]
    assert [state for state, _ in found] == [CheckpointStateId.SVM_SUSPENDED] + [None] * (len(pieces) - 1)
    assert sum((piece_pfns for _, piece_pfns in found), array("Q")) == pfns


def test_a_round_of_words_is_a_valid_back_channel():
    (suspended,) = suspended_word(array("Q", [3, 7]))
    ready, resumed = (
        state_word(state) for state in (CheckpointStateId.SVM_READY, CheckpointStateId.SVM_RESUMED)
    )
    stream = ready + resumed + suspended.records + ready + resumed
    records = list(decode_stream(stream, StreamKind.BACK_CHANNEL, strict=True))
    assert [type(each) for each in records].count(CheckpointState) == 5
    assert DirtyPfnList(array("Q", [3, 7])) in records


def test_a_frame_beyond_the_guest_is_refused():
    (piece,) = suspended_word(array("Q", [PFN_END]))
    with pytest.raises(WireError, match="beyond the guest"):
        parse_piece(memoryview(piece.records), PFN_END)


@given(st.binary(max_size=64))
def test_any_bytes_are_a_word_or_an_error(data):
    try:
        parse_piece(memoryview(data), PFN_END)
    except WireError as error:
        assert error.offset is not None


@given(st.data())
def test_a_part_of_a_word_is_truncated(data):
    (piece,) = suspended_word(array("Q", [1, 2, 3]))
    state = len(state_word(CheckpointStateId.SVM_SUSPENDED))
    cut = data.draw(st.integers(1, len(piece.records) - 1).filter(lambda cut: cut != state))
    with pytest.raises(TruncatedStream):
        parse_piece(memoryview(piece.records[:cut]), PFN_END)


def test_a_state_behind_others_is_refused():
    twice = state_word(CheckpointStateId.SVM_READY) * 2
    with pytest.raises(WireError, match="behind other records"):
        parse_piece(memoryview(twice), PFN_END)
