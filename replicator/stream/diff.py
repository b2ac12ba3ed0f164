"""What differs between two guests, or between one guest at two checkpoints.

Pages are compared by 128-bit digests, so two images of any size fit side by side; all other records by their
content.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from replicator.stream.image import GuestImage
from replicator.stream.snapshot import GuestState
from replicator.wire.layout import PageType
from replicator.wire.records import (
    EmulatorContext,
    HvmContext,
    Record,
    VcpuBasic,
    VcpuExtended,
    VcpuMsrs,
    VcpuXsave,
    XlHeader,
    record_name,
)

#: Pfns that are compared at once.
_CHUNK_PFNS: Final = 1 << 14
_OPAQUE: Final = (VcpuBasic, VcpuExtended, VcpuXsave, HvmContext, EmulatorContext)
_HAS_DATA: Final = range(1, PageType.BROKEN + 1)


@dataclass(slots=True)
class PfnRanges:
    """A set of pfns as runs of neighbours; pfns are added in ascending order."""

    runs: list[tuple[int, int]] = field(default_factory=list)
    count: int = 0

    def add(self, pfn: int) -> None:
        self.count += 1
        if self.runs and self.runs[-1][1] == pfn - 1:
            self.runs[-1] = (self.runs[-1][0], pfn)
        else:
            self.runs.append((pfn, pfn))


@dataclass(slots=True)
class DiffReport:
    """What differs; everything empty when nothing does."""

    #: Pages that both have: with another content, and with another type.
    content: PfnRanges = field(default_factory=PfnRanges)
    types: PfnRanges = field(default_factory=PfnRanges)
    #: Pages that only one of them has.
    only_first: PfnRanges = field(default_factory=PfnRanges)
    only_second: PfnRanges = field(default_factory=PfnRanges)
    #: Pages that are the same in both.
    same_pages: int = 0
    #: Records that differ, and how.
    records: list[str] = field(default_factory=list)

    @property
    def differs(self) -> bool:
        pages = (self.content, self.types, self.only_first, self.only_second)
        return bool(self.records) or any(ranges.count for ranges in pages)


def diff_guests(first: tuple[GuestState, GuestImage], second: tuple[GuestState, GuestImage]) -> DiffReport:
    """Compare two guests whose images hold digests."""
    report = DiffReport()
    _diff_images(first[1], second[1], report)
    report.records.extend(_diff_states(first[0], second[0]))
    return report


def _diff_images(first: GuestImage, second: GuestImage, report: DiffReport) -> None:
    limit = max(first.pfn_limit, second.pfn_limit)
    for start in range(0, limit, _CHUNK_PFNS):
        end = min(start + _CHUNK_PFNS, limit)
        _diff_chunk(first, second, start, end, report)


def _diff_chunk(first: GuestImage, second: GuestImage, start: int, end: int, report: DiffReport) -> None:
    kinds = first.kinds(start, end), second.kinds(start, end)
    cells = first.cells(start, end), second.cells(start, end)
    if kinds[0] == kinds[1] and cells[0] == cells[1]:
        report.same_pages += len(kinds[0]) - kinds[0].count(0)
        return
    size = len(cells[0]) // (end - start)
    for index, (one, other) in enumerate(zip(*kinds, strict=True)):
        if not one and not other:
            continue
        at = index * size
        same_cell = cells[0][at : at + size] == cells[1][at : at + size]
        ranges = _judge_page(one, other, same_cell, report)
        if ranges is None:
            report.same_pages += 1
        else:
            ranges.add(start + index)


def _judge_page(one: int, other: int, same_cell: bool, report: DiffReport) -> PfnRanges | None:
    """Where a page belongs that at least one of them has; None when it is the same in both."""
    if not other:
        return report.only_first
    if not one:
        return report.only_second
    if one in _HAS_DATA and other in _HAS_DATA and not same_cell:
        return report.content
    return report.types if one != other else None


def _diff_states(first: GuestState, second: GuestState) -> Iterator[str]:
    known, other = _name_records(first), _name_records(second)
    for name in known | other:
        if name not in other:
            yield f"{name} only in the first"
        elif name not in known:
            yield f"{name} only in the second"
        elif known[name] != other[name]:
            yield f"{name} differs{_sizes(known[name], other[name])}"


def _name_records(state: GuestState) -> dict[str, Record | XlHeader]:
    records: list[Record | XlHeader | None] = [
        state.xl_header,
        state.domain,
        *state.static.values(),
        state.p2m,
    ]
    records += [*state.ordered_tail(), *state.device_model.values()]
    return {_name(record): record for record in records if record is not None}


def _name(record: Record | XlHeader) -> str:
    if isinstance(record, VcpuBasic | VcpuExtended | VcpuXsave | VcpuMsrs):
        return f"{record_name(record)} of vcpu {record.vcpu_id}"
    return record_name(record)


def _sizes(one: Record | XlHeader, other: Record | XlHeader) -> str:
    """Of what is opaque."""
    if isinstance(one, _OPAQUE) and isinstance(other, _OPAQUE):
        return f" ({len(one.blob)} and {len(other.blob)} bytes)"
    return ""
