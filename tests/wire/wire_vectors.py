"""Golden records: the bytes in data/records, and what they mean."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path

from replicator.limits import PFN_MAX
from replicator.units import PAGE_SIZE
from replicator.wire import StreamDecoder, StreamKind
from replicator.wire.faults import Strict
from replicator.wire.layout import CheckpointStateId, DomainType, PageType
from replicator.wire.page_data import PageJoiner
from replicator.wire.records import (
    CheckpointEnd,
    CheckpointRecord,
    CheckpointState,
    CpuidLeaf,
    CpuidPolicy,
    DirtyPfnList,
    DomainHeader,
    EmulatorContext,
    EmulatorXenstoreData,
    End,
    HvmContext,
    HvmParam,
    HvmParams,
    ImageHeader,
    Item,
    LibxcContext,
    LibxlEnd,
    LibxlHeader,
    MsrPolicy,
    MsrPolicyEntry,
    OptionalRecord,
    P2mFrames,
    PageData,
    PvInfo,
    Record,
    SharedInfo,
    StaticDataEnd,
    TscInfo,
    VcpuBasic,
    VcpuExtended,
    VcpuMsr,
    VcpuMsrs,
    VcpuXsave,
    Verify,
)

DATA = Path(__file__).with_name("data")


class RecordDecoder:
    """A StreamDecoder whose PAGE_DATA records come whole."""

    def __init__(
        self, kind: StreamKind | None = None, *, strict: bool = False, pfn_limit: int = PFN_MAX + 1
    ) -> None:
        self.stream = StreamDecoder(kind, judge=Strict() if strict else None, pfn_limit=pfn_limit)
        self._joiner = PageJoiner()

    def feed(self, data: bytes) -> Iterator[Record]:
        return self._join(self.stream.feed(data))

    def _join(self, items: Iterator[Item]) -> Iterator[Record]:
        for item in items:
            record = self._joiner.join(item)
            if record is not None:
                yield record

    @property
    def pending(self) -> int:
        return self.stream.pending

    @property
    def offset(self) -> int:
        return self.stream.offset

    @property
    def done(self) -> bool:
        return self.stream.done

    def finish(self) -> None:
        self.stream.finish()

    def take_rest(self) -> bytes:
        return self.stream.take_rest()


def pattern(size: int, seed: int) -> bytes:
    """The filling of the golden blobs and pages."""
    return bytes((i * seed + (i >> 8)) & 0xFF for i in range(size))


def patch(data: bytes, fields: dict[int, bytes]) -> bytes:
    """`data` with other bytes at these offsets."""
    patched = bytearray(data)
    for offset, value in fields.items():
        patched[offset : offset + len(value)] = value
    return bytes(patched)


def u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def u64(value: int) -> bytes:
    return value.to_bytes(8, "little")


#: Offsets in a 64 bit vcpu_guest_context.
EDX_64, GDT_FRAMES_64, GDT_ENTRIES_64, CR1_64, CR3_64 = 616, 4832, 4960, 4992, 5008
#: Offsets in a 32 bit vcpu_guest_context.
EDX_32, GDT_FRAMES_32, GDT_ENTRIES_32, CR1_32, CR3_32 = 524, 2640, 2704, 2720, 2728


def vcpu_context_64() -> bytes:
    """Start info 0, one GDT frame (6), both page table roots 2."""
    numbers = {EDX_64: 0, GDT_FRAMES_64: 6, GDT_ENTRIES_64: 16, CR1_64: 2 << 12 | 1, CR3_64: 2 << 12}
    return patch(pattern(5168, 13), {offset: u64(value) for offset, value in numbers.items()})


def vcpu_context_32() -> bytes:
    """Start info 0, one GDT frame (6), page table root 7."""
    numbers = {EDX_32: 0, GDT_FRAMES_32: 6, GDT_ENTRIES_32: 16, CR1_32: 2 << 12 | 1, CR3_32: 7 << 12}
    return patch(pattern(2800, 13), {offset: u32(value) for offset, value in numbers.items()})


def start_info_page() -> bytes:
    """Frame 6 is named as that of xenstore and console, at the offsets of both guest widths."""
    frames = {44: u32(6), 52: u32(6), 56: u64(6), 72: u64(6)}
    return patch(pattern(PAGE_SIZE, 3), {0: b"xen-3."} | frames)


def entry(kind: PageType, pfn: int) -> int:
    """One entry of a PAGE_DATA record."""
    return kind << 60 | pfn


def load(name: str) -> bytes:
    """The bytes of a golden record."""
    lines = (DATA / "records" / f"{name}.hex").read_text().splitlines()
    return bytes.fromhex("".join(line for line in lines if not line.startswith("#")))


def join(names: str) -> bytes:
    """The golden records of these names (spaces between them), one behind the other."""
    return b"".join(map(load, names.split()))


def load_stream(name: str) -> bytes:
    """A stream that a real Xen wrote, cut down."""
    return (DATA / "xen-4.17" / f"{name}.stream").read_bytes()


def load_xl_header(guest: str) -> bytes:
    """The xl header that a real Xen wrote for this guest ("pv1", "pvh1", "hvm1")."""
    return (DATA / "xen-4.17" / f"{guest}.xl-header").read_bytes()


STREAMS = sorted(path.stem for path in (DATA / "xen-4.17").glob("*.stream"))

RECORDS: dict[str, Record] = {
    "libxl_header": LibxlHeader(),
    "libxl_header_converted": LibxlHeader(converted=True),
    "image_header_v2": ImageHeader(2),
    "image_header_v3": ImageHeader(3),
    "domain_header_pv": DomainHeader(DomainType.PV, 4, 17),
    "domain_header_hvm": DomainHeader(DomainType.HVM, 4, 17),
    "domain_header_qemu": DomainHeader(DomainType.HVM, 0, 0x51454D55),
    "end": End(),
    "page_data_pv": PageData(
        array(
            "Q",
            [
                entry(PageType.NOTAB, 0),
                entry(PageType.L1TAB, 1),
                entry(PageType.L4TAB_PINNED, 2),
                entry(PageType.BROKEN, 3),
                entry(PageType.XALLOC, 4),
                entry(PageType.XTAB, 5),
                entry(PageType.NOTAB, 6),
                entry(PageType.L3TAB, 7),
            ],
        ),
        start_info_page() + b"".join(pattern(PAGE_SIZE, seed) for seed in (5, 7, 9, 11)),
    ),
    "page_data_hvm": PageData(
        array("Q", [entry(PageType.NOTAB, 0x100), entry(PageType.XTAB, 0xF0000)]), pattern(PAGE_SIZE, 11)
    ),
    "page_data_qemu": PageData(array("Q", [7, 0x100000]), pattern(PAGE_SIZE, 37) + bytes(PAGE_SIZE)),
    "page_data_nothing": PageData(array("Q", [entry(PageType.XTAB, 9)]), b""),
    "x86_pv_info_64": PvInfo(8, 4),
    "x86_pv_info_32": PvInfo(4, 3),
    "x86_pv_p2m_frames_64": P2mFrames(0, 1023, array("Q", [0, 6])),
    "x86_pv_p2m_frames_32": P2mFrames(0, 1024, array("Q", [0, 6])),
    "x86_pv_vcpu_basic_64": VcpuBasic(0, vcpu_context_64()),
    "x86_pv_vcpu_basic_32": VcpuBasic(0, vcpu_context_32()),
    "x86_pv_vcpu_basic_empty": VcpuBasic(1, b""),
    "x86_pv_vcpu_extended": VcpuExtended(0, pattern(65, 17)),
    "x86_pv_vcpu_xsave": VcpuXsave(0, pattern(576, 19)),
    "shared_info": SharedInfo(pattern(4096, 23)),
    "x86_tsc_info": TscInfo(1, 2_400_000, 0x123456789ABCDEF, 3),
    "hvm_context": HvmContext(pattern(101, 29)),
    "hvm_params": HvmParams((HvmParam(1, 0xFEFFC), HvmParam(33, 2))),
    "hvm_params_none": HvmParams(()),
    "x86_pv_vcpu_msrs": VcpuMsrs(1, (VcpuMsr(0x10, 1 << 40), VcpuMsr(0xC0000103, 7))),
    "verify": Verify(),
    "checkpoint": CheckpointRecord(),
    "checkpoint_dirty_pfn_list": DirtyPfnList(array("Q", [9, 3, 0x12345])),
    "checkpoint_dirty_pfn_list_empty": DirtyPfnList(array("Q")),
    "static_data_end": StaticDataEnd(),
    "x86_cpuid_policy": CpuidPolicy((CpuidLeaf(0, 0xFFFFFFFF, 13, 1, 2, 3), CpuidLeaf(7, 0, 4, 5, 6, 7))),
    "x86_msr_policy": MsrPolicy((MsrPolicyEntry(0xCE, 0, 1 << 31),)),
    "optional_record": OptionalRecord(0x80001234, b"may be skipped"),
    "libxc_context": LibxcContext(),
    "emulator_xenstore_data": EmulatorXenstoreData(
        2, 0, ((b"physmap/f0000000/start_addr", b"f0000000"), (b"physmap/f0000000/name", b""))
    ),
    "emulator_context": EmulatorContext(2, 0, pattern(99, 31)),
    "checkpoint_end": CheckpointEnd(),
    "checkpoint_state_new": CheckpointState(CheckpointStateId.NEW),
    "checkpoint_state_suspended": CheckpointState(CheckpointStateId.SVM_SUSPENDED),
    "checkpoint_state_ready": CheckpointState(CheckpointStateId.SVM_READY),
    "checkpoint_state_resumed": CheckpointState(CheckpointStateId.SVM_RESUMED),
    "libxl_end": LibxlEnd(),
}

_LIBXL = "libxl_header libxc_context "
_PV_64 = "image_header_v3 domain_header_pv x86_pv_info_64 x86_cpuid_policy x86_msr_policy static_data_end "
_PV_TAIL = (
    "x86_tsc_info shared_info x86_pv_vcpu_basic_64 x86_pv_vcpu_extended x86_pv_vcpu_xsave x86_pv_vcpu_msrs "
)
_HVM = "image_header_v3 domain_header_hvm x86_cpuid_policy x86_msr_policy static_data_end "
_HVM_TAIL = "x86_tsc_info hvm_params hvm_context "
_QEMU = "image_header_v3 domain_header_qemu static_data_end "
_STATES = "checkpoint_state_ready checkpoint_state_resumed checkpoint_state_suspended "

#: Whole streams made of golden records; together they use every one of them. All pass the strict mode,
#: but for those named in FORGIVEN.
SCENES: dict[str, str] = {
    "pv 64 bit, version 3": _LIBXL
    + _PV_64
    + "x86_pv_p2m_frames_64 page_data_pv "
    + _PV_TAIL
    + "end libxl_end",
    "pv 32 bit, version 2": "libxl_header_converted libxc_context image_header_v2 domain_header_pv "
    "x86_pv_info_32 x86_pv_p2m_frames_32 page_data_pv x86_tsc_info x86_pv_vcpu_basic_32 shared_info "
    "end libxl_end",
    "hvm, version 3": _LIBXL
    + _HVM
    + "page_data_hvm page_data_nothing x86_tsc_info hvm_context hvm_params end "
    + "emulator_xenstore_data emulator_context libxl_end",
    "hvm, version 2, bare libxc": "image_header_v2 domain_header_hvm page_data_hvm "
    "hvm_params hvm_context end",
    "hvm with verify": _LIBXL + _HVM + "page_data_hvm verify page_data_hvm " + _HVM_TAIL + "end libxl_end",
    "pv remus": _LIBXL
    + _PV_64
    + ("x86_pv_p2m_frames_64 page_data_pv " + _PV_TAIL + "checkpoint checkpoint_end ")
    + ("page_data_pv " + _PV_TAIL + "checkpoint checkpoint_end"),
    "hvm remus": _LIBXL
    + _HVM
    + 2
    * ("page_data_hvm " + _HVM_TAIL + "checkpoint emulator_xenstore_data emulator_context checkpoint_end "),
    "hvm remus with an end": _LIBXL
    + _HVM
    + ("page_data_hvm " + _HVM_TAIL + "checkpoint emulator_context checkpoint_end ")
    + "page_data_hvm end emulator_context libxl_end",
    "hvm remus, bare libxc": _HVM + 2 * ("page_data_hvm " + _HVM_TAIL + "checkpoint "),
    "hvm colo": _LIBXL
    + _HVM
    + 2 * ("page_data_hvm " + _HVM_TAIL + "checkpoint emulator_context checkpoint_end checkpoint_state_new "),
    "colo back channel": _STATES
    + "checkpoint_dirty_pfn_list "
    + _STATES
    + "checkpoint_dirty_pfn_list_empty checkpoint_state_ready",
    "qemu recording": _LIBXL
    + _QEMU
    + "page_data_qemu checkpoint emulator_context checkpoint_end " * 2
    + "checkpoint emulator_context checkpoint_end",
    "pv with empty states": _LIBXL
    + _PV_64
    + "x86_pv_p2m_frames_64 page_data_pv shared_info x86_pv_vcpu_basic_64 x86_pv_vcpu_basic_empty "
    + "end libxl_end",
    "hvm with records to skip": _LIBXL
    + _HVM
    + "optional_record page_data_hvm hvm_params_none hvm_context optional_record end libxl_end",
}
#: Scenes that only the tolerant mode takes.
FORGIVEN = ("pv with empty states", "hvm with records to skip")
