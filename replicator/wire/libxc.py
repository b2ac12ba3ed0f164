"""Bodies of the libxc stream (versions 2 and 3): bytes to records and back.

This file looks at one header or body at a time and knows nothing of what came before: order, pfn bounds and
the guest's width are grammar.py's business. Bodies of PAGE_DATA are read in page_data.py. Lengths are judged from the record header alone, before a body is
buffered. Reading is as tolerant as a Xen receiver (reserved fields, longer X86_PV_INFO, signal records with a
body); what it forgives is listed by `list_faults` for the strict mode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from struct import error as StructError

from replicator.errors import BadHeader, LocalWireError, RemoteWireError, UnknownMandatoryRecord
from replicator.limits import RECORD_BYTES_MAX
from replicator.units import PAGE_SHIFT
from replicator.wire import entries as tables
from replicator.wire import layout
from replicator.wire.layout import DomainType, LibxcType
from replicator.wire.records import (
    CheckpointRecord,
    CpuidLeaf,
    CpuidPolicy,
    DirtyPfnList,
    DomainHeader,
    End,
    HvmContext,
    HvmParam,
    HvmParams,
    ImageHeader,
    LibxcRecord,
    MsrPolicy,
    MsrPolicyEntry,
    OptionalRecord,
    P2mFrames,
    PageData,
    PageTable,
    Place,
    PvInfo,
    SharedInfo,
    StaticDataEnd,
    TscInfo,
    VcpuBasic,
    VcpuExtended,
    VcpuMsr,
    VcpuMsrs,
    VcpuXsave,
    Verify,
    record_name,
)

#: Records that become a tuple of Python objects get this cap, so that 128 MiB never turn into gigabytes.
TABLE_BYTES_MAX = 1 << 20

_EXTENDED_MAX = layout.VCPU.size + layout.VCPU_EXTENDED_BYTES_MAX
#: Shortest and longest body of each type; the receiver judges the length from the record header.
_BODY_BYTES: dict[int, tuple[int, int]] = {
    LibxcType.END: (0, TABLE_BYTES_MAX),
    LibxcType.PAGE_DATA: (layout.PAGE_DATA.size + layout.U64_BYTES, RECORD_BYTES_MAX),
    LibxcType.X86_PV_INFO: (layout.PV_INFO.size, TABLE_BYTES_MAX),
    LibxcType.X86_PV_P2M_FRAMES: (layout.P2M_FRAMES.size, RECORD_BYTES_MAX),
    LibxcType.X86_PV_VCPU_BASIC: (layout.VCPU.size, TABLE_BYTES_MAX),
    LibxcType.X86_PV_VCPU_EXTENDED: (layout.VCPU.size, _EXTENDED_MAX),
    LibxcType.X86_PV_VCPU_XSAVE: (layout.VCPU.size, TABLE_BYTES_MAX),
    LibxcType.SHARED_INFO: (layout.SHARED_INFO_BYTES, layout.SHARED_INFO_BYTES),
    LibxcType.X86_TSC_INFO: (layout.TSC_INFO.size, layout.TSC_INFO.size),
    LibxcType.HVM_CONTEXT: (1, RECORD_BYTES_MAX),
    LibxcType.HVM_PARAMS: (layout.HVM_PARAMS.size, TABLE_BYTES_MAX),
    LibxcType.X86_PV_VCPU_MSRS: (layout.VCPU.size, TABLE_BYTES_MAX),
    LibxcType.VERIFY: (0, TABLE_BYTES_MAX),
    LibxcType.CHECKPOINT: (0, TABLE_BYTES_MAX),
    LibxcType.CHECKPOINT_DIRTY_PFN_LIST: (0, RECORD_BYTES_MAX),
    LibxcType.STATIC_DATA_END: (0, TABLE_BYTES_MAX),
    LibxcType.X86_CPUID_POLICY: (layout.CPUID_LEAF.size, TABLE_BYTES_MAX),
    LibxcType.X86_MSR_POLICY: (layout.MSR_POLICY.size, TABLE_BYTES_MAX),
}


_NAMES = {kind.value: kind.name for kind in LibxcType}


def name_type(record_type: int) -> str:
    """The name of a libxc record type, or its number."""
    return _NAMES.get(record_type) or f"libxc record {record_type:#010x}"


def check_length(record_type: int, length: int, place: Place) -> None:
    """Refuse from the record header alone what no body can make good."""
    if length > RECORD_BYTES_MAX:
        raise place.too_large(f"body of {length} bytes, at most {RECORD_BYTES_MAX} are allowed")
    if record_type & layout.OPTIONAL_BIT:
        return
    limits = _BODY_BYTES.get(record_type)
    if limits is None:
        raise UnknownMandatoryRecord(
            "mandatory record that no receiver handles", offset=place.offset, record=place.name
        )
    shortest, longest = limits
    if length < shortest:
        raise place.bad(f"body of {length} bytes, at least {shortest} are needed")
    if length > longest:
        kind = place.too_large if longest == TABLE_BYTES_MAX else place.bad
        raise kind(f"body of {length} bytes, at most {longest} are allowed")


# Headers


def decode_image_header(data: memoryview, offset: int) -> ImageHeader:
    """24 bytes to the image header; raises BadHeader."""
    marker, ident, version, options, _, _ = layout.IMAGE_HEADER.unpack(data)
    name = ImageHeader.NAME
    if marker != layout.IMAGE_MARKER:
        raise BadHeader(f"marker {marker:#018x} instead of all ones", offset=offset, record=name)
    if ident != layout.IMAGE_ID:
        raise BadHeader(f"id {ident:#010x} instead of 0x58454e46", offset=offset, record=name)
    if version not in layout.IMAGE_VERSIONS:
        raise BadHeader(f"version {version}, known are 2 and 3", offset=offset, record=name)
    if options & layout.IMAGE_OPTION_BIG_ENDIAN:
        raise BadHeader("big endian streams are not supported", offset=offset, record=name)
    return ImageHeader(version)


def decode_domain_header(data: memoryview, offset: int) -> DomainHeader:
    """16 bytes to the domain header; raises BadHeader."""
    kind, page_shift, _, xen_major, xen_minor = layout.DOMAIN_HEADER.unpack(data)
    name = DomainHeader.NAME
    if kind not in (DomainType.PV, DomainType.HVM):
        raise BadHeader(f"domain type {kind}, known are 1 (PV) and 2 (HVM)", offset=offset, record=name)
    if page_shift != PAGE_SHIFT:
        raise BadHeader(f"page shift {page_shift} instead of {PAGE_SHIFT}", offset=offset, record=name)
    return DomainHeader(DomainType(kind), xen_major, xen_minor)


def encode_image_header(header: ImageHeader) -> bytes:
    """The 24 bytes of an image header."""
    if header.version not in layout.IMAGE_VERSIONS:
        raise LocalWireError(f"version {header.version}", record=header.NAME)
    return layout.IMAGE_HEADER.pack(layout.IMAGE_MARKER, layout.IMAGE_ID, header.version, 0, 0, 0)


def encode_domain_header(header: DomainHeader) -> bytes:
    """The 16 bytes of a domain header."""
    try:
        return layout.DOMAIN_HEADER.pack(header.type, PAGE_SHIFT, 0, header.xen_major, header.xen_minor)
    except StructError as error:
        raise LocalWireError(str(error), record=header.NAME) from None


# Bodies to records


def _decode_pv_info(body: memoryview, place: Place) -> PvInfo:
    width, levels, _, _ = layout.PV_INFO.unpack_from(body)
    if (width, levels) not in layout.PV_WIDTHS:
        raise place.bad(f"guest width {width} with {levels} page table levels")
    return PvInfo(width, levels)


def _decode_p2m_frames(body: memoryview, place: Place) -> P2mFrames:
    start_pfn, end_pfn = layout.P2M_FRAMES.unpack_from(body)
    if start_pfn > end_pfn:
        raise place.bad(f"start pfn {start_pfn:#x} above end pfn {end_pfn:#x}")
    frames = body[layout.P2M_FRAMES.size :]
    if len(frames) % layout.U64_BYTES:
        raise place.bad(f"{len(frames)} bytes of frames are not whole u64s")
    return P2mFrames(start_pfn, end_pfn, layout.u64_array(frames))


def _split_vcpu(body: memoryview) -> tuple[int, memoryview]:
    vcpu_id, _ = layout.VCPU.unpack_from(body)
    return vcpu_id, body[layout.VCPU.size :]


def _decode_vcpu_basic(body: memoryview, place: Place) -> VcpuBasic:
    vcpu_id, blob = _split_vcpu(body)
    if blob and len(blob) not in layout.VCPU_CONTEXT_BYTES.values():
        raise place.bad(f"context of {len(blob)} bytes")
    return VcpuBasic(vcpu_id, bytes(blob))


def _decode_vcpu_extended(body: memoryview, place: Place) -> VcpuExtended:
    vcpu_id, blob = _split_vcpu(body)
    return VcpuExtended(vcpu_id, bytes(blob))


def _decode_vcpu_xsave(body: memoryview, place: Place) -> VcpuXsave:
    vcpu_id, blob = _split_vcpu(body)
    if blob and len(blob) < layout.VCPU_XSAVE_BYTES_MIN:
        raise place.bad(f"xsave area of {len(blob)} bytes, at least {layout.VCPU_XSAVE_BYTES_MIN} are needed")
    return VcpuXsave(vcpu_id, bytes(blob))


def _decode_vcpu_msrs(body: memoryview, place: Place) -> VcpuMsrs:
    vcpu_id, blob = _split_vcpu(body)
    _check_table(blob, layout.VCPU_MSR.size, place)
    return VcpuMsrs(
        vcpu_id, tuple(VcpuMsr(msr, value) for msr, _, value in layout.VCPU_MSR.iter_unpack(blob))
    )


def _decode_tsc_info(body: memoryview, place: Place) -> TscInfo:
    mode, khz, nsec, incarnation, _ = layout.TSC_INFO.unpack(body)
    return TscInfo(mode, khz, nsec, incarnation)


def _decode_hvm_params(body: memoryview, place: Place) -> HvmParams:
    count, _ = layout.HVM_PARAMS.unpack_from(body)
    params = body[layout.HVM_PARAMS.size :]
    if len(params) != count * layout.HVM_PARAM.size:
        raise place.bad(f"{count} parameters in {len(params)} bytes")
    return HvmParams(tuple(map(HvmParam._make, layout.HVM_PARAM.iter_unpack(params))))


def _decode_dirty_pfns(body: memoryview, place: Place) -> DirtyPfnList:
    if len(body) % layout.U64_BYTES:
        raise place.bad(f"{len(body)} bytes are not whole u64s")
    return DirtyPfnList(layout.u64_array(body))


def _decode_cpuid_policy(body: memoryview, place: Place) -> CpuidPolicy:
    _check_table(body, layout.CPUID_LEAF.size, place)
    return CpuidPolicy(tuple(map(CpuidLeaf._make, layout.CPUID_LEAF.iter_unpack(body))))


def _decode_msr_policy(body: memoryview, place: Place) -> MsrPolicy:
    _check_table(body, layout.MSR_POLICY.size, place)
    return MsrPolicy(tuple(map(MsrPolicyEntry._make, layout.MSR_POLICY.iter_unpack(body))))


def _check_table(table: memoryview, entry_bytes: int, place: Place) -> None:
    if len(table) % entry_bytes:
        raise place.bad(f"{len(table)} bytes are not whole entries of {entry_bytes}")


_DECODERS: dict[LibxcType, Callable[[memoryview, Place], LibxcRecord]] = {
    LibxcType.END: lambda body, place: End(),
    LibxcType.X86_PV_INFO: _decode_pv_info,
    LibxcType.X86_PV_P2M_FRAMES: _decode_p2m_frames,
    LibxcType.X86_PV_VCPU_BASIC: _decode_vcpu_basic,
    LibxcType.X86_PV_VCPU_EXTENDED: _decode_vcpu_extended,
    LibxcType.X86_PV_VCPU_XSAVE: _decode_vcpu_xsave,
    LibxcType.SHARED_INFO: lambda body, place: SharedInfo(bytes(body)),
    LibxcType.X86_TSC_INFO: _decode_tsc_info,
    LibxcType.HVM_CONTEXT: lambda body, place: HvmContext(bytes(body)),
    LibxcType.HVM_PARAMS: _decode_hvm_params,
    LibxcType.X86_PV_VCPU_MSRS: _decode_vcpu_msrs,
    LibxcType.VERIFY: lambda body, place: Verify(),
    LibxcType.CHECKPOINT: lambda body, place: CheckpointRecord(),
    LibxcType.CHECKPOINT_DIRTY_PFN_LIST: _decode_dirty_pfns,
    LibxcType.STATIC_DATA_END: lambda body, place: StaticDataEnd(),
    LibxcType.X86_CPUID_POLICY: _decode_cpuid_policy,
    LibxcType.X86_MSR_POLICY: _decode_msr_policy,
}


def decode_body(record_type: int, body: memoryview, place: Place) -> LibxcRecord:
    """One body (without padding), whose length passed `check_length`, to its record; raises BadRecord. Not for
    PAGE_DATA, which page_data.py reads in parts."""
    if record_type & layout.OPTIONAL_BIT:
        return OptionalRecord(record_type, bytes(body))
    return _DECODERS[LibxcType(record_type)](body, place)


# Records to bytes


def _encode_page_data(record: PageData) -> bytes:
    return layout.PAGE_DATA.pack(len(record.entries), 0) + layout.u64_bytes(record.entries) + record.pages


def _encode_vcpu_msrs(record: VcpuMsrs) -> bytes:
    return layout.VCPU.pack(record.vcpu_id, 0) + b"".join(
        layout.VCPU_MSR.pack(msr, 0, value) for msr, value in record.msrs
    )


def encode_body(record: LibxcRecord) -> bytes:
    """The body of a record, unchecked (use `encode`)."""
    match record:
        case PageData():
            return _encode_page_data(record)
        case PvInfo(guest_width=width, pt_levels=levels):
            return layout.PV_INFO.pack(width, levels, 0, 0)
        case P2mFrames():
            return layout.P2M_FRAMES.pack(record.start_pfn, record.end_pfn) + layout.u64_bytes(record.frames)
        case VcpuBasic() | VcpuExtended() | VcpuXsave():
            return layout.VCPU.pack(record.vcpu_id, 0) + record.blob
        case VcpuMsrs():
            return _encode_vcpu_msrs(record)
        case SharedInfo(page=page):
            return page
        case TscInfo():
            return layout.TSC_INFO.pack(record.mode, record.khz, record.nsec, record.incarnation, 0)
        case HvmContext(blob=blob):
            return blob
        case HvmParams(params=params):
            return layout.HVM_PARAMS.pack(len(params), 0) + b"".join(
                layout.HVM_PARAM.pack(*p) for p in params
            )
        case DirtyPfnList(pfns=pfns):
            return layout.u64_bytes(pfns)
        case CpuidPolicy(leaves=leaves):
            return b"".join(layout.CPUID_LEAF.pack(*leaf) for leaf in leaves)
        case MsrPolicy(entries=entries):
            return b"".join(layout.MSR_POLICY.pack(*entry) for entry in entries)
        case OptionalRecord(body=body):
            return body
        case _:
            return b""


def encode(record: LibxcRecord) -> bytes:
    """A whole record with header and padding. What we could not read ourselves is a LocalWireError."""
    name = record_name(record)
    record_type = record.record_type if isinstance(record, OptionalRecord) else record.TYPE
    try:
        body = encode_body(record)
        header = layout.RECORD_HEADER.pack(record_type, len(body))
    except StructError as error:
        raise LocalWireError(str(error), record=name) from None
    if isinstance(record, OptionalRecord) and not record_type & layout.OPTIONAL_BIT:
        raise LocalWireError(f"type {record_type:#x} is not optional", record=name)
    place = Place(0, name)
    try:
        check_length(
            record_type, layout.padded(len(body)) if len(body) > TABLE_BYTES_MAX else len(body), place
        )
        _check_written(record, record_type, memoryview(body), place)
    except RemoteWireError as error:
        raise LocalWireError(f"may not be written: {error}") from None
    return header + layout.pad(body)


def _check_written(record: LibxcRecord, record_type: int, body: memoryview, place: Place) -> None:
    if not isinstance(record, PageData):
        decode_body(record_type, body, place)
        return
    survey = tables.survey(layout.u64_bytes(record.entries))
    if survey.reserved_type:
        raise place.bad(f"reserved page type {survey.reserved_type:#x}, known are 0-4 and 9-f")
    expected = layout.pages_bytes(survey.data_pages)
    if len(record.pages) != expected:
        raise place.bad(f"{len(record.pages)} bytes of pages instead of {expected}")


# What the receiver forgives


def list_header_faults(data: memoryview) -> Iterator[str]:
    """Reserved fields of an image header (24 bytes) or a domain header (16 bytes) that are not zero."""
    if len(data) == layout.IMAGE_HEADER.size:
        _, _, _, options, reserved, reserved_2 = layout.IMAGE_HEADER.unpack(data)
        if options & ~layout.IMAGE_OPTION_BIG_ENDIAN:
            yield f"reserved option bits 0 (are {options:#x})"
        reserved |= reserved_2
    else:
        reserved = layout.DOMAIN_HEADER.unpack(data)[2]
    if reserved:
        yield f"reserved field 0 (is {reserved:#x})"


_SIGNALS = (LibxcType.END, LibxcType.VERIFY, LibxcType.CHECKPOINT, LibxcType.STATIC_DATA_END)
_VCPU_TYPES = (
    LibxcType.X86_PV_VCPU_BASIC,
    LibxcType.X86_PV_VCPU_EXTENDED,
    LibxcType.X86_PV_VCPU_XSAVE,
    LibxcType.X86_PV_VCPU_MSRS,
)


def _reserved_fields(record_type: int, body: memoryview) -> Iterator[int]:
    if record_type == LibxcType.X86_PV_INFO:
        yield from layout.PV_INFO.unpack_from(body)[2:]
    elif record_type in _VCPU_TYPES:
        yield layout.VCPU.unpack_from(body)[1]
        if record_type == LibxcType.X86_PV_VCPU_MSRS:
            yield from (entry[1] for entry in layout.VCPU_MSR.iter_unpack(body[layout.VCPU.size :]))
    elif record_type == LibxcType.X86_TSC_INFO:
        yield layout.TSC_INFO.unpack(body)[4]
    elif record_type == LibxcType.HVM_PARAMS:
        yield layout.HVM_PARAMS.unpack_from(body)[1]
    elif record_type == LibxcType.X86_MSR_POLICY:
        yield from (entry[1] for entry in layout.MSR_POLICY.iter_unpack(body))


def list_faults(record_type: int, body: memoryview, record: LibxcRecord) -> Iterator[str]:
    """What a strict reader expects of a body that `decode_body` accepted, and does not find."""
    if any(_reserved_fields(record_type, body)):
        yield "reserved fields 0"
    if record_type in _SIGNALS and body:
        yield f"an empty body ({len(body)} bytes)"
    elif record_type == LibxcType.X86_PV_INFO and len(body) != layout.PV_INFO.size:
        yield f"a body of {layout.PV_INFO.size} bytes ({len(body)})"
    elif record_type in _VCPU_TYPES and len(body) == layout.VCPU.size:
        yield "a state behind the vcpu number"
    elif isinstance(record, HvmParams) and not record.params:
        yield "at least one parameter"
    elif isinstance(record, OptionalRecord):
        yield "a record type of the specification"


def list_page_faults(table: PageTable, reserved: int) -> Iterator[str]:
    """The same for entries of a PAGE_DATA record and its reserved field."""
    if reserved:
        yield f"reserved fields 0 (is {reserved:#x})"
    if table.survey.reserved:
        yield f"reserved bits 59-52 of the pfns 0 (set are {table.survey.reserved:#x})"
