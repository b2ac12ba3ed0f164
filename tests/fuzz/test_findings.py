"""What fuzzing, and reading the code for it, has found, as small as it could be made."""

from __future__ import annotations

import struct
import sys
from types import FrameType

from wire_vectors import join

from replicator.limits import PFN_MAX
from replicator.stream.snapshot import GuestState
from replicator.wire.records import VcpuMsrs
from replicator.wire.verify import examine

HVM = join("libxl_header libxc_context image_header_v3 domain_header_hvm static_data_end")
#: PAGE_DATA without an entry: its framing is whole, its body is not.
NO_ENTRY = struct.pack("<IIQQ", 1, 16, 0, 0)


def test_bad_records_are_passed_over_however_many_come_in_one_piece() -> None:
    """They were passed over by recursion, which ended at the interpreter's limit."""
    report = examine([HVM + NO_ENTRY * 5000])
    assert report.problem_count == 5000
    assert report.cut is not None


def test_an_error_behind_a_bad_record_is_one_problem() -> None:
    """It was counted twice when both came in one piece."""
    data = HVM + NO_ENTRY + struct.pack("<II", 9, 0)
    for pieces in ([data], [data[:-8], data[-8:]]):
        report = examine(pieces)
        assert [problem.error.record for problem in report.problems] == ["PAGE_DATA", "HVM_CONTEXT"]
        assert report.problem_count == 2


def test_the_state_of_many_vcpus_takes_linear_time() -> None:
    """All of it was counted again for each record: 6 seconds for 8,000 vcpus, in 192 KB."""
    round_state, state = GuestState(), GuestState()
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        for vcpu in range(8000):
            round_state.take(VcpuMsrs(vcpu, ()))
        state.merge(round_state)
    finally:
        sys.setprofile(None)
    assert len(state.tail) == 8000
    assert calls < 20 * 8000


PV = "libxl_header libxc_context image_header_v3 domain_header_pv x86_pv_info_64 static_data_end "


def test_pages_that_are_only_compared_make_no_frames() -> None:
    """Registers that name pages which first come behind VERIFY were taken, and the guest was none."""
    names = PV + "x86_pv_p2m_frames_64 verify page_data_pv shared_info x86_pv_vcpu_basic_64 end libxl_end"
    assert ["is absent" in str(problem.error) for problem in examine([join(names)]).problems] == [True]


def test_a_p2m_list_has_no_gaps() -> None:
    """112 bytes claimed a guest of 1 TiB, and the reader a quarter of a gigabyte."""
    claim = struct.pack("<IIIIQ", 3, 16, PFN_MAX, PFN_MAX, 5)
    (problem,) = examine([join(PV) + claim]).problems
    assert "leaves a gap, the list has come to 0x0" in str(problem.error)
