"""Streams of a real Xen: valid, the same when written again, cut anywhere a TruncatedStream, damaged anywhere a
WireError at worst."""

from __future__ import annotations

import random

import pytest
from damages import damage_in_place
from recordings import RECORDINGS, Recording, pieces_of

from replicator.errors import TruncatedStream, WireError
from replicator.wire.any_decoder import AnyDecoder
from replicator.wire.faults import Strict
from replicator.wire.layout import XL_HANDSHAKE_GO
from replicator.wire.records import Item
from replicator.wire.rewrite import Rewriter
from replicator.wire.verify import Examiner, examine

RANDOM_CUTS = 200
MUTATIONS = 1000
CHUNKS = 5


@pytest.fixture
def recorded(recording: Recording) -> bytes:
    return recording.load()


each_recording = pytest.mark.parametrize("recording", RECORDINGS)


@each_recording
def test_it_is_strictly_valid_and_says_where_it_ends(recording: Recording, recorded: bytes) -> None:
    report = examine(pieces_of(recorded))
    assert report.problems == ()
    if recording.checkpoints is None:
        assert report.is_complete
        assert report.cut is None
        assert report.usable_bytes == len(recorded)
    else:
        assert not report.is_complete
        assert (report.checkpoints, report.usable_bytes) == (
            recording.checkpoints,
            recording.last_whole_end,
        )


@each_recording
def test_it_is_written_again_byte_by_byte(recorded: bytes) -> None:
    decoder, rewriter = AnyDecoder(judge=Strict()), Rewriter()
    at = 0
    for piece in pieces_of(recorded):
        for item in decoder.feed(piece):
            for part in rewriter.write(item):
                assert recorded[at : at + len(part)] == part
                at += len(part)
    assert at >= decoder.offset - len(XL_HANDSHAKE_GO) * rewriter.dropped["migration handshake"]


def record_ends(recorded: bytes) -> list[int]:
    """Where each header and record ends."""
    ends: set[int] = set()

    def note(item: Item, start: int, end: int) -> None:
        ends.update((start, end))

    examiner = Examiner(watch=note)
    for piece in pieces_of(recorded):
        examiner.feed(piece)
    return sorted(ends)


@each_recording
def test_cut_anywhere_it_is_truncated(recorded: bytes) -> None:
    """At the end of every record, and at random offsets. Behind a checkpoint and behind END it may end."""
    rng = random.Random(len(recorded))
    cuts = {*record_ends(recorded), *(rng.randrange(len(recorded)) for _ in range(RANDOM_CUTS))}
    decoder = AnyDecoder(judge=Strict())
    at, legal_ends = 0, 0
    for cut in sorted(cuts):
        for piece in pieces_of(memoryview(recorded)[at:cut].tobytes()):
            for _ in decoder.feed(piece):
                pass
        at = cut
        grammar = decoder.grammar
        if grammar is not None and grammar.may_end and decoder.offset == cut:
            assert list(decoder.finish()) == []
            legal_ends += 1
            continue
        with pytest.raises(TruncatedStream) as caught:
            list(decoder.finish())
        assert caught.value.offset is not None
        assert caught.value.offset <= cut
    assert legal_ends <= (grammar.checkpoints if grammar else 0) + 2


@each_recording
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_damaged_it_gives_records_or_a_wire_error(recorded: bytes, chunk: int) -> None:
    """A damage changes some bytes in place, so that one copy serves all of them."""
    data = bytearray(recorded)
    refused = 0
    for seed in range(chunk * MUTATIONS // CHUNKS, (chunk + 1) * MUTATIONS // CHUNKS):
        undo = damage_in_place(data, random.Random(seed))
        decoder = AnyDecoder(judge=Strict() if seed % 2 else None)
        try:
            for piece in pieces_of(data):
                for _ in decoder.feed(piece):
                    pass
            list(decoder.finish())
        except WireError as error:
            refused += 1
            assert error.offset is not None
            assert error.offset <= len(data)
        undo()
    assert data == recorded
    assert refused > 20, "the damages do not damage"
