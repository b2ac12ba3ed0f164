"""What a stream consists of: its headers, then round by round its records, with offsets, sizes and counts.

Neighbours of one type share a row, so a round has a few rows however many PAGE_DATA records it has. Of a stream
with very many rounds the first and the last ones are kept and the others only counted.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from replicator.wire import layout
from replicator.wire.layout import PageType
from replicator.wire.records import (
    CheckpointEnd,
    CheckpointRecord,
    CheckpointState,
    CpuidPolicy,
    DirtyPfnList,
    DomainHeader,
    EmulatorContext,
    EmulatorXenstoreData,
    HvmContext,
    HvmParams,
    ImageHeader,
    Item,
    LibxcContext,
    LibxlHeader,
    MsrPolicy,
    P2mFrames,
    PageRun,
    PageTable,
    PvInfo,
    TscInfo,
    VcpuBasic,
    VcpuExtended,
    VcpuMsrs,
    VcpuXsave,
    XlHeader,
    record_name,
)

#: Rounds kept at each end of a long stream, and rows of one round.
ROUNDS_KEPT: Final = 1000
ROWS_MAX: Final = 1000
_TYPE_NUMBERS: Final = tuple(PageType)


@dataclass(slots=True)
class Row:
    """Neighbouring records of one type."""

    name: str
    offset: int
    count: int = 0
    #: With headers and padding.
    size: int = 0
    #: What the last of them says, in words.
    detail: str = ""
    #: Entries by page type; of PAGE_DATA only.
    page_types: Counter[PageType] = field(default_factory=Counter)


@dataclass(slots=True)
class Round:
    """The records from one checkpoint to the next, or all of a plain stream."""

    number: int
    offset: int
    end: int = 0
    #: Its checkpoint (of a plain stream: END) was read.
    is_whole: bool = False
    rows: list[Row] = field(default_factory=list)
    #: Records for which there was no row left.
    rows_omitted: int = 0


class Outline:
    """Collects rows while the items of a stream pass by."""

    def __init__(self, *, every_record: bool = False) -> None:
        self._every_record = every_record
        self._inside_libxl = False
        #: The first rounds, and the last of those behind them.
        self.first: list[Round] = []
        self.last: deque[Round] = deque(maxlen=ROUNDS_KEPT)
        self.round_count = 0
        self._current: Round | None = None

    @property
    def rounds_omitted(self) -> int:
        """Rounds between the first and the last ones that were kept."""
        return self.round_count - len(self.first) - len(self.last)

    def rounds(self) -> Iterator[Round]:
        """Those that were kept, in order."""
        yield from self.first
        yield from self.last

    def note(self, item: Item, start: int, end: int) -> None:
        """Take the next item, whose record starts at `start`; see `Examiner`'s watch."""
        if isinstance(item, PageRun):
            return
        current = self._current or self._open_round(start)
        if not isinstance(item, PageTable):
            current.end = end
            self._add(current, record_name(item), start, end - start).detail = describe(item)
        else:
            self._add_pages(current, item, start)
        if isinstance(item, LibxcContext):
            self._inside_libxl = True
        if isinstance(item, CheckpointEnd) or (isinstance(item, CheckpointRecord) and not self._inside_libxl):
            current.is_whole = True
            self._current = None

    def finish(self, *, is_complete: bool) -> None:
        """The stream is over; `is_complete` when its END was read."""
        if self._current is not None:
            self._current.is_whole = is_complete

    def _open_round(self, start: int) -> Round:
        self.round_count += 1
        self._current = Round(self.round_count, start)
        (self.first if self.round_count <= ROUNDS_KEPT else self.last).append(self._current)
        return self._current

    def _add(self, current: Round, name: str, start: int, size: int) -> Row:
        row = current.rows[-1] if current.rows else None
        if row is None or row.name != name or self._every_record:
            row = Row(name, start)
            if len(current.rows) < ROWS_MAX or self._every_record:
                current.rows.append(row)
            else:
                current.rows_omitted += 1
        row.count += 1
        row.size += size
        return row

    def _add_pages(self, current: Round, table: PageTable, start: int) -> None:
        size = layout.RECORD_HEADER.size + table.body_bytes
        current.end = start + size
        row = self._add(current, record_name(table), start, size) if table.first == 0 else current.rows[-1]
        for kind in _TYPE_NUMBERS:
            if table.survey.counts[kind]:
                row.page_types[kind] += table.survey.counts[kind]


def describe(item: Item) -> str:
    """What a header or record says, in a few words; "" when its name says all."""
    match item:
        case XlHeader():
            return _describe_xl(item)
        case LibxlHeader(converted=True):
            return "made by a converter"
        case ImageHeader(version=version):
            return f"version {version}"
        case DomainHeader():
            return _describe_domain(item)
        case PvInfo(guest_width=width, pt_levels=levels):
            return f"{8 * width}-bit guest, {levels} page table levels"
        case P2mFrames():
            return f"pfns {item.start_pfn:#x} to {item.end_pfn:#x} in {len(item.frames)} frames"
        case VcpuMsrs(vcpu_id=vcpu_id, msrs=msrs):
            return f"vcpu {vcpu_id}, {len(msrs)} MSRs"
        case VcpuBasic() | VcpuExtended() | VcpuXsave():
            return f"vcpu {item.vcpu_id}, {len(item.blob)} bytes"
        case TscInfo():
            return f"mode {item.mode}, {item.khz} kHz, {item.nsec} ns, incarnation {item.incarnation}"
        case HvmContext(blob=blob):
            return f"{len(blob)} bytes"
        case HvmParams(params=params):
            return ", ".join(f"{param}={value:#x}" for param, value in params[:4]) + (
                f" and {len(params) - 4} more" if len(params) > 4 else ""
            )
        case CpuidPolicy(leaves=leaves):
            return f"{len(leaves)} leaves"
        case MsrPolicy(entries=entries):
            return f"{len(entries)} MSRs"
        case DirtyPfnList(pfns=pfns):
            return f"{len(pfns)} pfns"
        case EmulatorContext():
            return f"emulator {item.emulator_id}, {len(item.blob)} bytes"
        case EmulatorXenstoreData():
            return f"emulator {item.emulator_id}, {len(item.entries)} keys"
        case CheckpointState(id=state):
            return state.name
        case _:
            return ""


def _describe_xl(header: XlHeader) -> str:
    config = header.config
    kind = "JSON" if header.is_json else "xl.cfg"
    said = "no configuration" if config is None else f"{kind} configuration of {len(config)} bytes"
    return f"{said}, {'libxl v2' if header.is_stream_v2 else 'legacy'} stream"


def _describe_domain(header: DomainHeader) -> str:
    if header.is_qemu_recording:
        return "recorded QEMU guest"
    writer = f"Xen {header.xen_major}.{header.xen_minor}" if header.xen_major else "a converter"
    return f"{header.type.name} guest, written by {writer}"
