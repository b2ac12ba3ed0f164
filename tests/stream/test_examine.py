"""Pages that are passed over change nothing: the same numbers, the same problems, the same end."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from legacy_maker import MATRIX, Shape, make_stream
from recordings import SMALL, Recording
from wire_vectors import SCENES, join, patch, start_info_page, u64

from replicator.errors import BadRecord, FileAccessError
from replicator.stream.examine import examine_source
from replicator.stream.source import Source
from replicator.units import PAGE_SIZE
from replicator.wire.any_decoder import ReadOptions
from replicator.wire.grammar import StreamKind
from replicator.wire.verify import Examiner, VerifyReport, examine


def examine_passing(data: bytes, piece: int, options: ReadOptions | None = None) -> tuple[VerifyReport, int]:
    """Feed pieces of this size, and pass over whatever may be passed over; how many bytes that were."""
    examiner = Examiner(options, look_back=lambda offset, size: data[offset : offset + size])
    at = passed = 0
    while at < len(data):
        examiner.feed(data[at : at + piece])
        at = min(at + piece, len(data))
        size = min(examiner.passable, len(data) - at)
        examiner.pass_over(size)
        at += size
        passed += size
    return examiner.finish(), passed


def numbers(report: VerifyReport) -> object:
    """All of a report that two readings can be compared by: errors have no equality."""
    problems = [(str(problem.error), problem.is_forgiven) for problem in report.problems]
    return replace(report, problems=(), cut=None), problems, str(report.cut)


@pytest.mark.parametrize("recording", SMALL, ids=lambda each: each.name)
@pytest.mark.parametrize("piece", [24, 1000, 70_000])
def test_recordings(recording: Recording, piece: int) -> None:
    data = recording.load()
    report, passed = examine_passing(data, piece)
    assert numbers(report) == numbers(examine([data]))
    assert passed or piece > 5000


@pytest.mark.parametrize("shape", MATRIX, ids=str)
def test_legacy_streams(shape: Shape) -> None:
    if shape.is_compressed:
        shape = replace(shape, rounds=1)
    data = make_stream(shape).data
    report, passed = examine_passing(data, 500)
    assert report.problems == ()
    assert numbers(report) == numbers(examine([data]))
    # A PV guest's pages are looked at, and a legacy stream is not read again for that.
    assert bool(passed) is shape.is_hvm


@pytest.mark.parametrize("seed", range(60))
def test_cut_streams(seed: int) -> None:
    rng = random.Random(seed)
    data = rng.choice(SMALL).load()
    data = data[: rng.randrange(len(data))]
    report, _ = examine_passing(data, rng.choice([100, 5000]))
    assert numbers(report) == numbers(examine([data]))


def test_back_channels_have_no_pages() -> None:
    options = ReadOptions(kind=StreamKind.BACK_CHANNEL)
    data = join(SCENES["colo back channel"])
    report, passed = examine_passing(data, 8, options)
    assert (report.problems, passed, report.is_complete) == ((), 0, True)


@pytest.mark.parametrize("piece", [64, 10_000])
def test_a_start_info_page_that_was_passed_over_is_looked_at_in_the_end(piece: int) -> None:
    """Its xenstore frame is one that the guest does not have. An older copy in an earlier record was right."""
    data = join(SCENES["pv 64 bit, version 3"])
    assert examine_passing(data, piece)[0].problems == ()
    at = data.index(start_info_page())
    wrong = patch(data, {at + 56: u64(0x5000)})
    found = examine_passing(wrong, piece)[0].problems
    assert [type(problem.error) for problem in found] == [BadRecord]
    assert "xenstore frame 0x5000" in str(found[0].error)
    assert numbers(examine_passing(wrong, piece)[0]) == numbers(examine([wrong]))
    record = join("page_data_pv")
    twice = data.replace(record, record + wrong[data.index(record) :][: len(record)])
    assert "xenstore frame 0x5000" in str(examine_passing(twice, piece)[0].problems[0].error)


def long_stream(folder: Path) -> tuple[Path, bytes]:
    """With a record that is large enough to be worth passing over."""
    shape = Shape(frames=1000, batch_most=1000, rounds=1, vcpus=(0,))
    data = make_stream(shape).data
    path = folder / "stream"
    path.write_bytes(data)
    return path, data


def test_files_are_examined_like_their_bytes(tmp_path: Path) -> None:
    path, data = long_stream(tmp_path)
    seen = 0

    def advance(size: int) -> None:
        nonlocal seen
        seen += size

    with Source(str(path)) as source:
        report = examine_source(source, ReadOptions(), strict=True, advance=advance)
    assert numbers(report) == numbers(examine([data]))
    assert seen == len(data)


def test_a_file_that_breaks_off_inside_pages_is_cut(tmp_path: Path) -> None:
    path, data = long_stream(tmp_path)
    path.write_bytes(data[: 300 * PAGE_SIZE])
    with Source(str(path)) as source:
        report = examine_source(source, ReadOptions(), strict=True)
    assert numbers(report) == numbers(examine([data[: 300 * PAGE_SIZE]]))
    assert report.cut is not None


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with Source(str(tmp_path)) as source, pytest.raises(FileAccessError, match="Is a directory"):
        examine_source(source, ReadOptions(), strict=True)
