"""The verifier goes on behind a problem where that makes sense, and names every one."""

from __future__ import annotations

import struct

import pytest
from wire_vectors import EDX_64, join, load, load_stream, load_xl_header, patch, u64

from replicator.errors import BadRecord, RecordOrder, RecordTooLarge, TruncatedStream
from replicator.wire import StreamKind, verify_stream
from replicator.wire.any_decoder import ReadOptions
from replicator.wire.layout import XL_HANDSHAKE_GO, PageType
from replicator.wire.sniff import StreamFormat
from replicator.wire.verify import PROBLEMS_MAX, Examiner, examine

HVM = "libxl_header libxc_context image_header_v3 domain_header_hvm static_data_end "
END = "hvm_params hvm_context end emulator_context libxl_end"


def record(kind: int, body: bytes) -> bytes:
    return struct.pack("<II", kind, len(body)) + body + bytes(-len(body) % 8)


def test_every_fault_is_named_and_forgiven() -> None:
    tsc = patch(load("x86_tsc_info"), {28: b"\1"})
    data = join(HVM) + tsc + load("page_data_hvm") + tsc + load("page_data_hvm") + join(END)
    report = examine([data])
    found = [(type(p.error), p.error.offset, p.error.record, p.is_forgiven) for p in report.problems]
    first = len(join(HVM))
    second = first + len(tsc) + len(load("page_data_hvm"))
    assert found == [
        (BadRecord, first, "X86_TSC_INFO", True),
        (BadRecord, second, "X86_TSC_INFO", True),
    ]
    assert report.is_complete
    assert report.problem_count == 2
    tolerant = examine([data], strict=False)
    assert (tolerant.problems, tolerant.is_complete) == ((), True)


def test_a_bad_record_is_passed_over() -> None:
    """Its framing is whole, so the next one is found: parameters, a page table of a type that does not exist, a
    body that breaks off inside its pages."""
    bad_params = record(10, struct.pack("<II", 3, 0) + bytes(16))
    bad_type = record(1, struct.pack("<IIQQ", 2, 0, 5 << 60, 1) + bytes(4096))
    bad_length = record(1, struct.pack("<IIQ", 1, 0, 1) + bytes(4000))
    data = join(HVM) + bad_type + bad_length + bad_params + join(END)
    for size in (1, 100, len(data)):
        report = examine([data[i : i + size] for i in range(0, len(data), size)], strict=False)
        assert [p.error.record for p in report.problems] == ["PAGE_DATA", "PAGE_DATA", "HVM_PARAMS"]
        assert not any(problem.is_forgiven for problem in report.problems)
        assert report.is_complete


@pytest.mark.parametrize("end", ["end libxl_end", "end", "checkpoint checkpoint_end", "checkpoint"])
def test_what_a_bad_end_concludes_is_read_all_the_same(end: str) -> None:
    """Its registers name a frame that the guest does not have; END and CHECKPOINT count, and so does what follows."""
    libxl = "libxl_header libxc_context " if "libxl" in end or "checkpoint_end" in end else ""
    start = libxl + "image_header_v3 domain_header_pv x86_pv_info_64 static_data_end x86_pv_p2m_frames_64 "
    wrong = patch(load("x86_pv_vcpu_basic_64"), {16 + EDX_64: u64(0x5000)})
    data = join(start + "page_data_pv x86_tsc_info shared_info") + wrong + join(end)
    for size in (1, 100, len(data)):
        report = examine([data[i : i + size] for i in range(0, len(data), size)])
        assert ["start info frame 0x5000" in str(problem.error) for problem in report.problems] == [True]
        assert report.cut is None
        assert report.stream_bytes == len(data)
        assert report.is_complete is ("checkpoint" not in end)


def test_what_breaks_the_framing_ends_the_reading() -> None:
    data = join(HVM) + struct.pack("<II", 9, 1 << 30) + join(END)
    report = examine([data])
    assert [type(problem.error) for problem in report.problems] == [RecordTooLarge]
    assert not report.is_complete
    assert report.stream_bytes == len(join(HVM))


def test_a_flood_of_problems_is_counted() -> None:
    tsc = patch(load("x86_tsc_info"), {28: b"\1"})
    report = examine([join(HVM) + tsc * (PROBLEMS_MAX + 7) + join(END)])
    assert len(report.problems) == PROBLEMS_MAX
    assert report.problem_count == PROBLEMS_MAX + 7


def test_numbers_of_a_migration() -> None:
    data = load_xl_header("pv1") + load_stream("pv1.save") + XL_HANDSHAKE_GO
    report = examine([data])
    assert (report.format, report.inner_format) == (StreamFormat.XL, StreamFormat.LIBXL)
    assert report.kind is StreamKind.PLAIN
    assert report.records["migration handshake"] == 1
    assert report.is_complete
    assert (report.stream_bytes, report.usable_bytes, report.discarded_bytes) == (len(data), len(data), 0)
    assert report.page_entries == sum(report.page_types.values())
    assert report.page_types[PageType.NOTAB] > 0


def test_a_cut_stream_says_how_far_it_is_good() -> None:
    """The file breaks off inside PAGE_DATA, as its sender was killed."""
    data = load_stream("pv1.remus-50ms")
    report = examine([data])
    assert report.problems == ()
    assert isinstance(report.cut, TruncatedStream)
    assert report.cut.offset == report.stream_bytes
    assert 0 < report.usable_bytes <= report.stream_bytes < len(data)
    assert report.discarded_bytes == len(data) - report.usable_bytes
    again = examine([data[: report.usable_bytes]])
    assert (again.cut, again.checkpoints, again.is_complete) == (None, report.checkpoints, False)


def test_the_first_problem_is_raised_on_demand() -> None:
    data = join(HVM) + patch(load("x86_tsc_info"), {28: b"\1"}) + join(END)
    with pytest.raises(BadRecord, match="reserved"):
        verify_stream([data])
    verify_stream([data], strict=False)


def test_bytes_behind_the_end_are_one_fault() -> None:
    data = load_stream("hvm1.save")
    examiner = Examiner()
    for piece in (data, b"x" * 100, b"y" * 100):
        examiner.feed(piece)
    report = examiner.finish()
    assert [(type(p.error), p.is_forgiven) for p in report.problems] == [(RecordOrder, True)]
    assert report.is_complete
    assert report.discarded_bytes == 200


def test_a_back_channel_is_complete_when_its_last_record_is_whole() -> None:
    data = join("checkpoint_state_ready checkpoint_state_resumed")
    options = ReadOptions(kind=StreamKind.BACK_CHANNEL)
    assert examine([data], options).is_complete
    cut = examine([data[:-1]], options)
    assert not cut.is_complete
    assert cut.cut is not None


def test_no_bytes_at_all() -> None:
    report = examine([])
    assert (report.format, report.kind, report.is_complete) == (None, None, False)
    assert report.cut is not None
