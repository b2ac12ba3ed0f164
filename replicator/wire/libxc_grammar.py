"""Which libxc record may follow which, and which numbers fit those that came before.

One instance accompanies one libxc stream, from its domain header on. `admit` judges a record by its type
before its body is read, `accept` judges the decoded record and remembers what later ones depend on,
`complete_round` judges what a CHECKPOINT or END concludes.

Tolerant rules are those a Xen receiver keeps. Strict ones add the order of the specification:

    X86_PV_INFO, policies | STATIC_DATA_END | P2M_FRAMES | PAGE_DATA, VERIFY | SHARED_INFO, VCPU_*, HVM_*

with X86_TSC_INFO anywhere behind the static part. Later rounds of a checkpointed stream start at PAGE_DATA.
Both orders of HVM_CONTEXT and HVM_PARAMS are right: the specification wants one, every Xen writes the other.
"""

from __future__ import annotations

from enum import IntEnum

from replicator.wire.faults import Judge
from replicator.wire.layout import DomainType, LibxcType
from replicator.wire.pv_state import VCPU_ID_MAX, LookBack, PvState
from replicator.wire.records import (
    DomainHeader,
    HvmContext,
    LibxcRecord,
    OptionalRecord,
    P2mFrames,
    PageRun,
    PageTable,
    Place,
    PvInfo,
    SharedInfo,
    StaticDataEnd,
    VcpuBasic,
    VcpuExtended,
    VcpuMsrs,
    VcpuXsave,
    Verify,
)

_VCPU_ONLY_PV = {
    LibxcType.X86_PV_VCPU_BASIC,
    LibxcType.X86_PV_VCPU_EXTENDED,
    LibxcType.X86_PV_VCPU_XSAVE,
    LibxcType.X86_PV_VCPU_MSRS,
}
_ONLY_PV = _VCPU_ONLY_PV | {LibxcType.X86_PV_INFO, LibxcType.X86_PV_P2M_FRAMES, LibxcType.SHARED_INFO}
_ONLY_HVM = {LibxcType.HVM_CONTEXT, LibxcType.HVM_PARAMS}
#: What only version 3 has.
_ONLY_V3 = {LibxcType.STATIC_DATA_END, LibxcType.X86_CPUID_POLICY, LibxcType.X86_MSR_POLICY}
#: What a recorded QEMU guest has no use for: its whole state is in EMULATOR_CONTEXT.
_NOT_QEMU = _ONLY_HVM | {LibxcType.X86_TSC_INFO, LibxcType.X86_CPUID_POLICY, LibxcType.X86_MSR_POLICY}


class _Part(IntEnum):
    STATIC = 0
    STATIC_END = 1
    P2M = 2
    PAGES = 3
    TAIL = 4


_PARTS: dict[int, _Part] = {
    LibxcType.X86_PV_INFO: _Part.STATIC,
    LibxcType.X86_CPUID_POLICY: _Part.STATIC,
    LibxcType.X86_MSR_POLICY: _Part.STATIC,
    LibxcType.STATIC_DATA_END: _Part.STATIC_END,
    LibxcType.X86_PV_P2M_FRAMES: _Part.P2M,
    LibxcType.PAGE_DATA: _Part.PAGES,
    LibxcType.VERIFY: _Part.PAGES,
    LibxcType.SHARED_INFO: _Part.TAIL,
    **dict.fromkeys(_VCPU_ONLY_PV | _ONLY_HVM, _Part.TAIL),
}


class LibxcGrammar:
    """The rules of one libxc stream, for one guest."""

    def __init__(
        self,
        version: int,
        domain: DomainHeader,
        judge: Judge,
        pfn_limit: int,
        look_back: LookBack | None = None,
    ) -> None:
        self._version = version
        self._domain = domain
        self._judge = judge
        self._strict = judge.strict
        #: One more than the highest pfn of an HVM guest; a PV guest names its own.
        self._pfn_limit = pfn_limit
        self._part = _Part.STATIC
        # Behind VERIFY pages are compared, not stored: what they say makes no frame.
        self._is_verifying = False
        # The last record was PAGE_DATA, so another one is right: streams consist of these.
        self._among_pages = False
        self._static_done = False
        self._pv = PvState(look_back)
        # Whether a state was seen: in this round when strict, else anywhere in the stream.
        self._has_vcpu0 = False
        self._has_shared_info = False
        self._has_hvm_context = False

    # From the record's type

    def admit(self, record_type: int, place: Place) -> None:
        """Raise RecordOrder when a record of this type may not stand here."""
        if self._among_pages and record_type == LibxcType.PAGE_DATA:
            return
        if record_type == LibxcType.CHECKPOINT_DIRTY_PFN_LIST:
            raise place.order("belongs on the back channel, not in the stream")
        self._admit_guest_kind(record_type, place)
        if record_type == LibxcType.X86_PV_INFO and self._pv.info is not None:
            raise place.order("second one in the stream")
        if record_type == LibxcType.STATIC_DATA_END and self._static_done:
            raise place.order("the static data ended before")
        if record_type in (LibxcType.X86_PV_P2M_FRAMES, LibxcType.PAGE_DATA) and self._version >= 3:
            self._admit_after_static_end(place)
        if record_type in (LibxcType.X86_PV_P2M_FRAMES, LibxcType.SHARED_INFO) and self._pv.info is None:
            raise place.order("no X86_PV_INFO came before")
        if record_type == LibxcType.PAGE_DATA and self._is_pv and self._pv.max_pfn < 0:
            raise place.order("no X86_PV_P2M_FRAMES came before")
        if self._strict:
            self._admit_strictly(record_type, place)

    def _admit_after_static_end(self, place: Place) -> None:
        if not self._static_done:
            raise place.order("no STATIC_DATA_END came before")

    def _admit_guest_kind(self, record_type: int, place: Place) -> None:
        if record_type in (_ONLY_HVM if self._is_pv else _ONLY_PV):
            raise place.order(f"a guest of type {self._domain.type.name} has no such record")

    def _admit_strictly(self, record_type: int, place: Place) -> None:
        part = _PARTS.get(record_type, self._part)
        if self._version < 3 and record_type in _ONLY_V3:
            self._judge.fault(place.order("does not exist in version 2"))
        elif self._domain.is_qemu_recording and record_type in _NOT_QEMU:
            self._judge.fault(place.order("a recorded QEMU guest has no such record"))
        elif record_type in _VCPU_ONLY_PV and self._pv.info is None:
            self._judge.fault(place.order("no X86_PV_INFO came before"))
        elif part < self._part:
            self._judge.fault(place.order(f"too late: the stream has reached its {self._part.name} part"))
        elif self._version >= 3 and (part > _Part.STATIC_END or record_type == LibxcType.X86_TSC_INFO):
            self._expect_static_end(place)

    def _expect_static_end(self, place: Place) -> None:
        if not self._static_done:
            self._judge.fault(place.order("no STATIC_DATA_END came before"))

    # From the decoded record

    def accept(self, record: LibxcRecord, place: Place) -> None:
        """Check numbers against what came before, then remember what later records depend on."""
        self._among_pages = False
        match record:
            case P2mFrames():
                self._accept_p2m_frames(record, place)
            case VcpuBasic() | VcpuExtended() | VcpuXsave() | VcpuMsrs():
                self._accept_vcpu(record, place)
            case PvInfo():
                self._pv.info = record
            case StaticDataEnd():
                self._static_done = True
            case Verify():
                self._is_verifying = True
            case SharedInfo():
                self._has_shared_info = True
            case HvmContext():
                self._has_hvm_context = True
        if not isinstance(record, OptionalRecord):
            self._part = _PARTS.get(record.TYPE, self._part)

    def accept_table(self, table: PageTable, place: Place) -> None:
        """Check and remember the entries of a PAGE_DATA record."""
        # Version 2 has no STATIC_DATA_END: the first of these records implies it.
        self._static_done = True
        self._part = _Part.PAGES
        self._among_pages = True
        survey = table.survey
        limit = self._pv.max_pfn if self._is_pv else self._pfn_limit - 1
        if survey.pfn_max > limit:
            raise place.bad(f"pfn {survey.pfn_max:#x}, the highest possible is {limit:#x}")
        if self._is_pv:
            if not self._is_verifying:
                self._pv.note_table(table, place)
        elif self._strict and survey.page_tables:
            self._judge.fault(
                place.bad(f"{survey.page_tables} page tables, only a PV guest sends them (expected 0)")
            )
        if self._strict and self._domain.is_qemu_recording and survey.counts[0] < len(table.entries):
            self._judge.fault(place.bad("a page without data, which no recording of a QEMU guest has"))

    @property
    def needs_pages(self) -> bool:
        """Whether `accept_run` must see every page."""
        return self._is_pv and not self._pv.looks_back

    def accept_run(self, run: PageRun) -> None:
        """Look at pages of a PAGE_DATA record, whose entries were accepted."""
        if self.needs_pages and not self._is_verifying:
            self._pv.note_run(run)

    def _accept_p2m_frames(self, record: P2mFrames, place: Place) -> None:
        self._static_done = True
        info = self._pv.info
        if info is None:
            raise place.order("no X86_PV_INFO came before")
        self._pv.note_p2m_frames(info, record, place)

    def _accept_vcpu(self, record: VcpuBasic | VcpuExtended | VcpuXsave | VcpuMsrs, place: Place) -> None:
        if record.vcpu_id > VCPU_ID_MAX:
            raise place.bad(f"vcpu {record.vcpu_id}, the highest possible is {VCPU_ID_MAX}")
        if isinstance(record, VcpuBasic):
            self._pv.note_vcpu(record, place)
            self._has_vcpu0 |= record.vcpu_id == 0 and bool(record.blob)

    # At CHECKPOINT and END

    def complete_round(self, place: Place) -> None:
        """Raise RecordOrder unless the state that CHECKPOINT or END (at `place`) concludes is whole."""
        self._among_pages = False
        if self._strict and self._version >= 3:
            self._expect_static_end(place)
        if self._is_pv and not self._has_vcpu0:
            raise place.order("no X86_PV_VCPU_BASIC of vcpu 0 came before")
        if self._is_pv and self._strict and not self._has_shared_info:
            self._judge.fault(place.order("no SHARED_INFO came before"))
        if not self._is_pv and not self._has_hvm_context and not self._domain.is_qemu_recording:
            raise place.order("no HVM_CONTEXT came before")
        if self._strict:
            self._has_vcpu0 = self._has_shared_info = self._has_hvm_context = False
            self._part = _Part.PAGES
        if self._is_pv:
            self._pv.check_frames()

    @property
    def _is_pv(self) -> bool:
        return self._domain.type is DomainType.PV
