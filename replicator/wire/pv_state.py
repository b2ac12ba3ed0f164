"""What a PV guest's records say about one another: frames named in one place must be pages of the right type.

A PV guest's registers hold frame numbers: page table roots, descriptor table frames, the start info page, and
in it those of xenstore and console. A receiver translates them when the state is whole, at END, and dies on
one that is out of range or not of the type it must have. Here they are checked at END and at each CHECKPOINT,
and the error names the record that held the number. Memory: one byte for each frame up to the guest's
highest, and with `look_back` eight more.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass

from replicator.limits import PFN_MAX
from replicator.units import PAGE_SIZE
from replicator.wire import entries as tables
from replicator.wire import layout
from replicator.wire.layout import PageType
from replicator.wire.records import P2mFrames, PageRun, PageTable, Place, PvInfo, VcpuBasic

#: Highest vcpu number a PV guest can have.
VCPU_ID_MAX = 8191
_PIN_BIT = 0x8
#: Largest guest, 16 GiB, of which it is remembered where each page lies: 8 bytes a frame.
_LOOK_BACK_PFN_MAX = (16 << 30) // PAGE_SIZE
#: Reads bytes of the stream again: offset and size; fewer when there are not as many.
LookBack = Callable[[int, int], bytes]
#: Start info pages kept to look at; a guest has one (and perhaps stale copies).
_START_PAGES_MAX = 64


@dataclass(frozen=True, slots=True)
class _VcpuFrames:
    """The frame numbers in one vcpu's context, and where the stream has it."""

    place: Place
    start_info: int
    gdt_entries: int
    gdt_frames: tuple[int, ...]
    #: Page table root, and that of user space (None when the guest has none).
    cr3: int
    cr1: int | None


class PvState:
    """The frame numbers of one PV guest, from X86_PV_INFO on.

    What the start info page says is taken from the pages as they pass, or, with `look_back`, read again when it is
    needed, from where the tables of entries say that it lies.
    """

    def __init__(self, look_back: LookBack | None = None) -> None:
        self._look_back = look_back
        # Where the newest page of each pfn lies; 0 of one that never came.
        self._offsets: array[int] = array("Q")
        #: Set once, by the grammar.
        self.info: PvInfo | None = None
        #: Highest pfn, from X86_PV_P2M_FRAMES; -1 before the first.
        self.max_pfn = -1
        # Type + 1 of each pfn, 0 where no PAGE_DATA named it.
        self._types = bytearray()
        self._p2m_frames: array[int] = array("Q")
        self._p2m_place: Place | None = None
        self._vcpus: dict[int, _VcpuFrames] = {}
        # Start of each page that looks like start info.
        self._start_pages: dict[int, bytes] = {}

    # What the records say

    def note_p2m_frames(self, info: PvInfo, record: P2mFrames, place: Place) -> None:
        """Take the frames of the p2m list; they may grow later but never shrink."""
        per_page = PAGE_SIZE // info.guest_width
        first, last = record.start_pfn // per_page, record.end_pfn // per_page
        if len(record.frames) != last - first + 1:
            raise place.bad(f"{len(record.frames)} frames instead of {last - first + 1}")
        if record.end_pfn > PFN_MAX:
            raise place.bad(f"end pfn {record.end_pfn:#x}, the highest possible is {PFN_MAX:#x}")
        if first > len(self._p2m_frames):
            # Else a few bytes would claim the largest guest there is.
            known = len(self._p2m_frames) * per_page
            raise place.bad(f"start pfn {record.start_pfn:#x} leaves a gap, the list has come to {known:#x}")
        self._p2m_frames.extend([0] * (last + 1 - len(self._p2m_frames)))
        self._p2m_frames[first : last + 1] = record.frames
        self._p2m_place = place
        self.max_pfn = max(self.max_pfn, record.end_pfn)
        self._types += bytes(self.max_pfn + 1 - len(self._types))
        if self.looks_back:
            grown = self.max_pfn + 1 - len(self._offsets)
            self._offsets.frombytes(bytes(grown * layout.U64_BYTES))
        else:
            # A start info page that was passed over before the guest grew so large is not looked at.
            self._offsets = array("Q")

    @property
    def looks_back(self) -> bool:
        """Whether pages can be read again when they are needed, so that they may be passed over."""
        return self._look_back is not None and self.max_pfn <= _LOOK_BACK_PFN_MAX

    def note_table(self, table: PageTable, place: Place) -> None:
        """Remember the type of each page, and where it lies; the newest counts. No pfn is above `max_pfn`."""
        tables.mark_kinds(table.entries, self._types)
        if self.looks_back and table.survey.data_pages:
            start = place.offset + layout.PAGE_DATA_RECORD.size + table.count * layout.U64_BYTES
            tables.locate_pages(table.entries, start + layout.pages_bytes(table.first_page), self._offsets)

    def note_run(self, run: PageRun) -> None:
        """Keep the start of each page that looks like start info; older contents of these frames are gone."""
        for pfn in [pfn for pfn in self._start_pages if tables.find_pfn(run.entries, pfn) is not None]:
            del self._start_pages[pfn]
        index = tables.find_page(run.pages, 0, layout.START_INFO_MAGIC)
        while index is not None:
            self._keep_start_page(run, index)
            index = tables.find_page(run.pages, index + 1, layout.START_INFO_MAGIC)

    def _keep_start_page(self, run: PageRun, index: int) -> None:
        pfn = run.entries[index] & layout.ENTRY_PFN_MASK
        start = layout.pages_bytes(index)
        self._start_pages[pfn] = bytes(run.pages[start : start + layout.START_INFO_BYTES])
        if len(self._start_pages) > _START_PAGES_MAX:
            del self._start_pages[next(iter(self._start_pages))]

    def note_vcpu(self, record: VcpuBasic, place: Place) -> None:
        """Take the frame numbers out of a context; an empty one says nothing."""
        if self.info is not None and record.blob:
            expected = layout.VCPU_CONTEXT_BYTES[self.info.guest_width]
            if len(record.blob) != expected:
                raise place.bad(f"context of {len(record.blob)} bytes instead of {expected}")
        if record.blob:
            self._vcpus[record.vcpu_id] = _read_context(record.blob, place)

    # What they must fit

    def check_frames(self) -> None:
        """Raise BadRecord when a number names no frame, or one of a wrong type."""
        if self.info is None:
            return
        for vcpu_id, vcpu in sorted(self._vcpus.items()):
            self._check_tables(vcpu, self.info)
            if vcpu_id == 0:
                self._check_plain(vcpu.start_info, "start info", vcpu.place)
                self._check_start_page(vcpu, self.info)
        for frame in self._p2m_frames:
            self._check_plain(frame, "p2m", self._p2m_place or Place(0, ""))

    def _check_tables(self, vcpu: _VcpuFrames, info: PvInfo) -> None:
        if vcpu.gdt_entries > layout.GDT_ENTRIES_MAX:
            raise vcpu.place.bad(
                f"{vcpu.gdt_entries} GDT entries, at most {layout.GDT_ENTRIES_MAX} are allowed"
            )
        for frame in vcpu.gdt_frames[: -(-vcpu.gdt_entries // layout.GDT_ENTRIES_PER_FRAME)]:
            self._check_plain(frame, "GDT", vcpu.place)
        self._check_root(vcpu.cr3, "cr3", info.pt_levels, vcpu.place)
        if vcpu.cr1 is not None:
            self._check_root(vcpu.cr1, "cr1", info.pt_levels, vcpu.place)

    def _check_start_page(self, vcpu: _VcpuFrames, info: PvInfo) -> None:
        page = self._find_start_page(vcpu.start_info)
        if page is None:
            return
        store, console = layout.START_INFO[info.guest_width].unpack_from(page)
        self._check_plain(store, "xenstore", vcpu.place)
        self._check_plain(console, "console", vcpu.place)

    def _find_start_page(self, pfn: int) -> bytes | None:
        """The start of this page, when it looks like start info."""
        if self._look_back is None or pfn >= len(self._offsets) or not self._offsets[pfn]:
            return self._start_pages.get(pfn)
        page = self._look_back(self._offsets[pfn], layout.START_INFO_BYTES)
        is_whole = len(page) == layout.START_INFO_BYTES
        return page if is_whole and page.startswith(layout.START_INFO_MAGIC) else None

    def _type_of(self, pfn: int, what: str, place: Place) -> int:
        if pfn > self.max_pfn:
            raise place.bad(f"{what} frame {pfn:#x}, the guest's highest is {self.max_pfn:#x}")
        return self._types[pfn] - 1

    def _check_plain(self, pfn: int, what: str, place: Place) -> None:
        kind = self._type_of(pfn, what, place)
        if kind != PageType.NOTAB:
            raise place.bad(f"{what} frame {pfn:#x} is {_name_kind(kind)} instead of NOTAB")

    def _check_root(self, pfn: int, what: str, levels: int, place: Place) -> None:
        kind = self._type_of(pfn, what, place)
        if kind & ~_PIN_BIT != levels:
            raise place.bad(f"{what} frame {pfn:#x} is {_name_kind(kind)} instead of L{levels}TAB")


def _name_kind(kind: int) -> str:
    return "absent" if kind < 0 else PageType(kind).name


def _read_context(blob: bytes, place: Place) -> _VcpuFrames:
    """The frame numbers in a vcpu_guest_context, whose size tells the guest's width."""
    width = 8 if len(blob) == layout.VCPU_CONTEXT_BYTES[8] else 4
    edx, *rest = layout.VCPU_CONTEXT[width].unpack_from(blob)
    gdt_frames, (gdt_entries, cr1, cr3) = tuple(rest[:16]), rest[16:]
    if width == 8:
        user_root = cr1 >> 12 if cr1 & 1 else None
        return _VcpuFrames(place, edx, gdt_entries, gdt_frames, cr3 >> 12, user_root)
    # Roots above 4 GiB: the low 12 bits of a 32 bit cr3 are the high ones of its frame.
    root = cr3 >> 12 | (cr3 & 0xFFF) << 20
    return _VcpuFrames(place, edx, gdt_entries, gdt_frames, root, None)
