"""What a stream says, as frozen dataclasses: one class for each header and each record of libxc and libxl.

A record holds the fields that carry meaning. Reserved fields and padding are not kept: they are written as
zero and ignored when read (the strict mode of the decoder reports them). Large lists of numbers are
`array('Q')`, so that the memory of a record stays near the size of its bytes; treat them as read-only. A
decoder hands PAGE_DATA out in parts (`PageTable`, then `PageRun`s), so that its size costs no memory at all.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from replicator.errors import BadRecord, RecordOrder, RecordTooLarge
from replicator.frozen import frozen
from replicator.wire import layout
from replicator.wire.entries import EntrySurvey, pfns_of
from replicator.wire.layout import CheckpointStateId, DomainType, LibxcType, LibxlType

#: `DomainHeader.xen_minor` of a recorded QEMU guest, with xen_major 0: the letters "QEMU".
QEMU_RECORDING_MINOR = 0x51454D55


class Place(NamedTuple):
    """Where in the stream we are, for the errors: offset of the record's header and the record's name."""

    offset: int
    name: str

    def bad(self, message: str) -> BadRecord:
        return BadRecord(message, offset=self.offset, record=self.name)

    def order(self, message: str) -> RecordOrder:
        return RecordOrder(message, offset=self.offset, record=self.name)

    def too_large(self, message: str) -> RecordTooLarge:
        return RecordTooLarge(message, offset=self.offset, record=self.name)


# Headers


@frozen
class XlHeader:
    """What `xl` puts in front of a stream: how its configuration is written, and the configuration."""

    NAME: ClassVar[str] = "xl header"
    #: The configuration is JSON with a NUL behind it; else it is the text of an xl.cfg file.
    is_json: bool
    #: A libxl v2 stream follows; else a legacy one.
    is_stream_v2: bool
    optional_flags: int
    #: Length and text of the configuration, and what newer versions may put behind them. May be empty.
    optional_data: bytes

    @property
    def config(self) -> bytes | None:
        """Text of the configuration; None when the header has none."""
        if not self.optional_data:
            return None
        (length,) = layout.XL_CONFIG.unpack_from(self.optional_data)
        text = self.optional_data[layout.XL_CONFIG.size :][:length]
        return text.removesuffix(b"\0") if self.is_json else text


@frozen
class Handshake:
    """Behind the stream of a migration: the source lets the target run the guest."""

    NAME: ClassVar[str] = "migration handshake"


@frozen
class LibxlHeader:
    """Starts a libxl stream."""

    NAME: ClassVar[str] = "libxl header"
    #: True when the stream was made from a legacy one by a converter.
    converted: bool = False


@frozen
class ImageHeader:
    """Starts a libxc stream."""

    NAME: ClassVar[str] = "image header"
    version: int = 3


@frozen
class DomainHeader:
    """Follows the image header. xen_major 0 means that no Xen wrote the stream."""

    NAME: ClassVar[str] = "domain header"
    type: DomainType
    xen_major: int
    xen_minor: int

    @property
    def is_qemu_recording(self) -> bool:
        """Whether this is a recorded session of a QEMU guest, whose state is all in EMULATOR_CONTEXT."""
        return self.xen_major == 0 and self.xen_minor == QEMU_RECORDING_MINOR


Header = LibxlHeader | ImageHeader | DomainHeader


# libxc records


@frozen
class End:
    """Last record of a libxc stream."""

    TYPE: ClassVar[LibxcType] = LibxcType.END


@frozen
class PageData:
    """Guest pages. `entries` are raw (type and pfn); `pages` has 4096 bytes for each entry whose type has
    data."""

    TYPE: ClassVar[LibxcType] = LibxcType.PAGE_DATA
    entries: array[int]
    pages: bytes

    @property
    def pfns(self) -> array[int]:
        """The pfn of each entry, types cut off."""
        return pfns_of(self.entries)


# Not frozen, for the sake of speed: a stream consists of these. Nobody changes them.
@dataclass(slots=True)
class PageTable:
    """The entries of a PAGE_DATA record whose pages follow as `PageRun`s; of a long record some of them, and
    more follow first."""

    entries: array[int]
    #: What these entries hold.
    survey: EntrySurvey
    #: Index of the first of them in the record, and how many entries the record has.
    first: int
    count: int
    #: The record's body, without its header.
    body_bytes: int
    #: How many pages of the record belong to entries before these.
    first_page: int = 0


@dataclass(slots=True)
class PageRun:
    """The next pages of a PAGE_DATA record, 4096 bytes for each of `entries`. The view is valid until the
    decoder takes its next step."""

    entries: array[int]
    pages: memoryview


@frozen
class PvInfo:
    """Word size of a PV guest in bytes and the levels of its page tables."""

    TYPE: ClassVar[LibxcType] = LibxcType.X86_PV_INFO
    guest_width: int
    pt_levels: int


@frozen
class P2mFrames:
    """The pfns of the frames that hold the guest's p2m list, for the pfns from start_pfn to end_pfn
    (inclusive)."""

    TYPE: ClassVar[LibxcType] = LibxcType.X86_PV_P2M_FRAMES
    start_pfn: int
    end_pfn: int
    frames: array[int]


@frozen
class VcpuBasic:
    """vcpu_guest_context of one vcpu; an empty blob means nothing."""

    TYPE: ClassVar[LibxcType] = LibxcType.X86_PV_VCPU_BASIC
    vcpu_id: int
    blob: bytes


@frozen
class VcpuExtended:
    """Extended context of one vcpu."""

    TYPE: ClassVar[LibxcType] = LibxcType.X86_PV_VCPU_EXTENDED
    vcpu_id: int
    blob: bytes


@frozen
class VcpuXsave:
    """xsave area of one vcpu."""

    TYPE: ClassVar[LibxcType] = LibxcType.X86_PV_VCPU_XSAVE
    vcpu_id: int
    blob: bytes


class VcpuMsr(NamedTuple):
    msr: int
    value: int


@frozen
class VcpuMsrs:
    """MSRs of one vcpu."""

    TYPE: ClassVar[LibxcType] = LibxcType.X86_PV_VCPU_MSRS
    vcpu_id: int
    msrs: tuple[VcpuMsr, ...]


@frozen
class SharedInfo:
    """The shared info page of a PV guest."""

    TYPE: ClassVar[LibxcType] = LibxcType.SHARED_INFO
    page: bytes


@frozen
class TscInfo:
    """How the guest sees its time stamp counter."""

    TYPE: ClassVar[LibxcType] = LibxcType.X86_TSC_INFO
    mode: int
    khz: int
    nsec: int
    incarnation: int


@frozen
class HvmContext:
    """The hypervisor's state of an HVM guest, opaque."""

    TYPE: ClassVar[LibxcType] = LibxcType.HVM_CONTEXT
    blob: bytes


class HvmParam(NamedTuple):
    param: int
    value: int


@frozen
class HvmParams:
    """HVM parameters."""

    TYPE: ClassVar[LibxcType] = LibxcType.HVM_PARAMS
    params: tuple[HvmParam, ...]


@frozen
class Verify:
    """From here on PAGE_DATA is compared, not stored (a debugging aid)."""

    TYPE: ClassVar[LibxcType] = LibxcType.VERIFY


@frozen
class CheckpointRecord:
    """All records before it are one consistent state; libxl records follow up to CHECKPOINT_END."""

    TYPE: ClassVar[LibxcType] = LibxcType.CHECKPOINT


@frozen
class DirtyPfnList:
    """Pfns the secondary's guest has written, unordered; travels on the back channel only."""

    TYPE: ClassVar[LibxcType] = LibxcType.CHECKPOINT_DIRTY_PFN_LIST
    pfns: array[int]


@frozen
class StaticDataEnd:
    """The static part of the stream is over (version 3)."""

    TYPE: ClassVar[LibxcType] = LibxcType.STATIC_DATA_END


class CpuidLeaf(NamedTuple):
    #: subleaf 0xffffffff means that the leaf has none.
    leaf: int
    subleaf: int
    a: int
    b: int
    c: int
    d: int


@frozen
class CpuidPolicy:
    """CPUID leaves the guest may see."""

    TYPE: ClassVar[LibxcType] = LibxcType.X86_CPUID_POLICY
    leaves: tuple[CpuidLeaf, ...]


class MsrPolicyEntry(NamedTuple):
    msr: int
    flags: int
    value: int


@frozen
class MsrPolicy:
    """MSR policy of the guest."""

    TYPE: ClassVar[LibxcType] = LibxcType.X86_MSR_POLICY
    entries: tuple[MsrPolicyEntry, ...]


@frozen
class OptionalRecord:
    """A libxc record of unknown type that a reader may skip (bit 31 of `record_type` is set)."""

    record_type: int
    body: bytes


LibxcRecord = (
    End
    | PageData
    | PvInfo
    | P2mFrames
    | VcpuBasic
    | VcpuExtended
    | VcpuXsave
    | VcpuMsrs
    | SharedInfo
    | TscInfo
    | HvmContext
    | HvmParams
    | Verify
    | CheckpointRecord
    | DirtyPfnList
    | StaticDataEnd
    | CpuidPolicy
    | MsrPolicy
    | OptionalRecord
)


# libxl records


@frozen
class LibxlEnd:
    """Last record of a libxl stream."""

    TYPE: ClassVar[LibxlType] = LibxlType.END


@frozen
class LibxcContext:
    """The libxc stream follows, inline."""

    TYPE: ClassVar[LibxlType] = LibxlType.LIBXC_CONTEXT


@frozen
class EmulatorXenstoreData:
    """Xenstore keys (relative paths) and values of a device model."""

    TYPE: ClassVar[LibxlType] = LibxlType.EMULATOR_XENSTORE_DATA
    emulator_id: int
    index: int
    entries: tuple[tuple[bytes, bytes], ...]


@frozen
class EmulatorContext:
    """State of a device model, opaque. For a QEMU guest this is the whole vCPU and device state."""

    TYPE: ClassVar[LibxlType] = LibxlType.EMULATOR_CONTEXT
    emulator_id: int
    index: int
    blob: bytes


@frozen
class CheckpointEnd:
    """The checkpoint is whole; libxc records go on behind it."""

    TYPE: ClassVar[LibxlType] = LibxlType.CHECKPOINT_END


@frozen
class CheckpointState:
    """COLO's word between the two sides."""

    TYPE: ClassVar[LibxlType] = LibxlType.CHECKPOINT_STATE
    id: CheckpointStateId


LibxlRecord = (
    LibxlEnd | LibxcContext | EmulatorXenstoreData | EmulatorContext | CheckpointEnd | CheckpointState
)

Record = Header | LibxcRecord | LibxlRecord
#: What xl puts before and behind a stream.
Envelope = XlHeader | Handshake
#: What a decoder yields: PAGE_DATA comes as its table and then its pages in runs.
Item = Record | Envelope | PageTable | PageRun


def record_name(record: Record | Envelope | PageTable) -> str:
    """The name the specifications give to this record; libxl's END is told apart as "libxl END"."""
    if isinstance(record, Header | Envelope):
        return record.NAME
    if isinstance(record, OptionalRecord):
        return "optional record"
    if isinstance(record, PageTable):
        return PageData.TYPE.name
    return "libxl END" if isinstance(record, LibxlEnd) else record.TYPE.name
