"""What differs between two guests is named page by page and record by record."""

from __future__ import annotations

from array import array

from hypothesis import given, settings
from hypothesis import strategies as st

from replicator.stream.diff import PfnRanges, diff_guests
from replicator.stream.image import Digests, GuestImage
from replicator.stream.snapshot import GuestState
from replicator.units import PAGE_SIZE
from replicator.wire import entries as tables
from replicator.wire.layout import PageType
from replicator.wire.records import HvmContext, PageRun, PageTable, TscInfo, VcpuBasic

#: pfn -> type and the byte that its page is filled with.
Memory = dict[int, tuple[PageType, int]]

pages = st.tuples(
    st.sampled_from([PageType.NOTAB, PageType.L1TAB, PageType.BROKEN, PageType.XTAB]), st.integers(0, 2)
)
memories = st.dictionaries(st.one_of(st.integers(0, 20), st.integers(60_000, 70_000)), pages, max_size=20)


def image_of(*rounds: Memory) -> GuestImage:
    image = GuestImage(Digests())
    for memory in rounds:
        entries = array("Q", [kind << 60 | pfn for pfn, (kind, _) in memory.items()])
        survey = tables.survey(entries.tobytes())
        image.apply_table(PageTable(entries, survey, 0, len(entries), 0))
        data = b"".join(bytes([fill]) * PAGE_SIZE for kind, fill in memory.values() if kind < PageType.BROKEN)
        image.apply_run(PageRun(tables.with_data(entries), memoryview(data)))
    return image


def pfns(ranges: PfnRanges) -> set[int]:
    found = {pfn for first, last in ranges.runs for pfn in range(first, last + 1)}
    assert len(found) == ranges.count
    return found


@given(memories, memories, memories)
@settings(max_examples=60, deadline=None)
def test_pages(before: Memory, first: Memory, second: Memory) -> None:
    """`before` leaves cells behind that count for nothing where a page was taken away later."""
    report = diff_guests((GuestState(), image_of(before, first)), (GuestState(), image_of(second)))
    one = {pfn: page for pfn, page in (before | first).items() if page[0] is not PageType.XTAB}
    other = {pfn: page for pfn, page in second.items() if page[0] is not PageType.XTAB}
    both = one.keys() & other.keys()
    has_data = {pfn for pfn in both if max(one[pfn][0], other[pfn][0]) < PageType.BROKEN}
    content = {pfn for pfn in has_data if one[pfn][1] != other[pfn][1]}
    assert pfns(report.only_first) == one.keys() - other.keys()
    assert pfns(report.only_second) == other.keys() - one.keys()
    assert pfns(report.content) == content
    assert pfns(report.types) == {pfn for pfn in both - content if one[pfn][0] != other[pfn][0]}
    assert report.same_pages == len(both) - report.content.count - report.types.count
    assert report.differs == bool(one != other and report.same_pages < len(one | other))


def test_records() -> None:
    first, second = GuestState(), GuestState()
    for record in (TscInfo(1, 2, 3, 4), HvmContext(b"abc"), VcpuBasic(1, b"x" * 2800)):
        first.take(record)
    for record in (TscInfo(1, 2, 3, 4), HvmContext(b"abcd"), VcpuBasic(2, b"x" * 2800)):
        second.take(record)
    report = diff_guests((first, GuestImage(Digests())), (second, GuestImage(Digests())))
    assert sorted(report.records) == [
        "HVM_CONTEXT differs (3 and 4 bytes)",
        "X86_PV_VCPU_BASIC of vcpu 1 only in the first",
        "X86_PV_VCPU_BASIC of vcpu 2 only in the second",
    ]
    assert report.differs
