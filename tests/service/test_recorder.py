"""Whatever happens to epochs and to the secondary's VM, what was recorded is a valid stream and a valid back channel."""

from __future__ import annotations

import io
from array import array
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from replicator.service.recorder import Recorder
from replicator.wire import recording
from replicator.wire.back_channel import PFNS_MAX
from replicator.wire.decoder import decode_stream
from replicator.wire.grammar import StreamKind
from replicator.wire.records import DirtyPfnList
from replicator.wire.verify import VerifyReport, verify_stream

PFNS = st.lists(st.integers(0, 4095), max_size=20)
#: Pfns of a VM that was suspended, or None for one that runs again.
WORDS = st.lists(st.none() | PFNS, max_size=12)


def verify(path: Path, kind: StreamKind) -> VerifyReport:
    return verify_stream(io.BytesIO(path.read_bytes()), kind=kind)


@given(words=WORDS)
def test_the_back_channel_is_valid_and_tells_of_all_pages(
    words: list[list[int] | None], tmp_path_factory
) -> None:
    folder = tmp_path_factory.mktemp("recorded")
    recorder = Recorder(folder / "stream", is_colo=True)
    assert recorder.back_channel is not None
    told: set[int] = set()
    waiting: set[int] = set()
    runs = 0
    for word in words:
        if word is not None:
            recorder.back_channel.note_suspended(array("Q", word))
            waiting |= set(word)
            continue
        recorder.back_channel.note_resumed()
        # Before the first run there is no VM that could have written.
        told |= waiting if runs else set()
        waiting = set()
        runs += 1
    recorder.close()
    path = folder / "stream.back"
    assert path.stat().st_mode & 0o777 == 0o600
    records = verify(path, StreamKind.BACK_CHANNEL).records
    assert sum(records.values()) == (4 * runs - 2 if runs else 0)
    listed = {
        pfn
        for record in decode_stream([path.read_bytes()], kind=StreamKind.BACK_CHANNEL)
        if isinstance(record, DirtyPfnList)
        for pfn in record.pfns
    }
    assert listed == told


def test_pages_of_many_pieces_are_one_list(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "stream", is_colo=True)
    assert recorder.back_channel is not None
    recorder.back_channel.note_resumed()
    recorder.back_channel.note_suspended(array("Q", range(2 * PFNS_MAX + 1)))
    recorder.back_channel.note_resumed()
    recorder.close()
    assert sum(verify(tmp_path / "stream.back", StreamKind.BACK_CHANNEL).records.values()) == 6


def write_round(recorder: Recorder, *, prologue: bool, ends: bool = True) -> None:
    if prologue:
        recorder.write_part(memoryview(recording.session_prologue()), is_prologue=True)
    recorder.write_part(
        memoryview(recording.page_data_header(array("Q", [1])) + bytes(4096)), is_prologue=False
    )
    if ends:
        recorder.write_part(memoryview(recording.checkpoint_epilogue(b"state")), is_prologue=False)
        recorder.end_round()


def test_colo_has_a_state_between_its_rounds_and_remus_has_none(tmp_path: Path) -> None:
    for kind in (StreamKind.COLO, StreamKind.REMUS):
        path = tmp_path / kind.value
        recorder = Recorder(path, is_colo=kind is StreamKind.COLO)
        write_round(recorder, prologue=True)
        write_round(recorder, prologue=False)
        # Given up in the middle, and a new session behind it.
        write_round(recorder, prologue=False, ends=False)
        write_round(recorder, prologue=True)
        recorder.close()
        report = verify(path, kind)
        assert report.checkpoints == 3, report
    assert not (tmp_path / "remus.back").exists()
