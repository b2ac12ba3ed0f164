"""Everything a receiver must refuse: each with its error class, the offset and the name of the record."""

from __future__ import annotations

import struct
from array import array
from dataclasses import dataclass

import pytest
from wire_vectors import (
    CR1_64,
    CR3_32,
    CR3_64,
    EDX_64,
    GDT_ENTRIES_64,
    GDT_FRAMES_64,
    RecordDecoder,
    join,
    load,
    patch,
    u32,
    u64,
    vcpu_context_32,
    vcpu_context_64,
)

from replicator.errors import (
    BadHeader,
    BadRecord,
    LocalWireError,
    RecordOrder,
    RecordTooLarge,
    RemoteWireError,
    TruncatedStream,
    UnknownMandatoryRecord,
    WireError,
)
from replicator.limits import LIBXL_RECORD_BYTES_MAX, PFN_MAX, RECORD_BYTES_MAX
from replicator.wire import StreamEncoder, StreamKind, decode_stream, encode_record, libxl
from replicator.wire.layout import CheckpointStateId, DomainType
from replicator.wire.libxc import TABLE_BYTES_MAX
from replicator.wire.records import (
    CheckpointRecord,
    CheckpointState,
    DomainHeader,
    EmulatorXenstoreData,
    End,
    HvmContext,
    HvmParam,
    HvmParams,
    ImageHeader,
    LibxcContext,
    LibxlHeader,
    OptionalRecord,
    PageData,
    PvInfo,
    Record,
    StaticDataEnd,
    TscInfo,
)


def rec(record_type: int, body: bytes = b"", *, length: int | None = None, padding: bytes = b"\0") -> bytes:
    """A record, whatever it says."""
    size = len(body) if length is None else length
    return struct.pack("<II", record_type, size) + body + padding * (-len(body) % 8)


def pages(*entries: int, count: int | None = None, data: int | None = None, reserved: int = 0) -> bytes:
    """A PAGE_DATA record with these entries; `data` bytes of pages."""
    size = 4096 * sum(entry >> 60 < 0xD for entry in entries) if data is None else data
    number = len(entries) if count is None else count
    return rec(1, struct.pack(f"<II{len(entries)}Q", number, reserved, *entries) + bytes(size))


def vcpu(record_type: int, blob: bytes, vcpu_id: int = 0) -> bytes:
    return rec(record_type, struct.pack("<II", vcpu_id, 0) + blob)


LIBXL = "libxl_header libxc_context "
IHDR = "image_header_v3 "
PV_START = LIBXL + "image_header_v3 domain_header_pv "
PV_INFO = PV_START + "x86_pv_info_64 "
PV_PAGES = PV_INFO + "static_data_end x86_pv_p2m_frames_64 page_data_pv "
PV_32 = PV_START + "x86_pv_info_32 static_data_end x86_pv_p2m_frames_32 page_data_pv "
HVM_START = LIBXL + "image_header_v3 domain_header_hvm "
HVM = HVM_START + "static_data_end "
HVM_V2 = LIBXL + "image_header_v2 domain_header_hvm "
HVM_WHOLE = HVM + "page_data_hvm hvm_params hvm_context "
HVM_TAIL = HVM_WHOLE + "end "
HVM_CHECKPOINT = HVM_WHOLE + "checkpoint "
QEMU = LIBXL + "image_header_v3 domain_header_qemu static_data_end "
MARKER = b"\xff" * 8


@dataclass(frozen=True)
class Refusal:
    """Golden records, then the bytes that must be refused with this error, in this record."""

    before: str
    bad: bytes
    error: type[WireError]
    record: str
    message: str
    #: Refused only by the strict mode; the tolerant one must take the bytes.
    strict: bool = False
    kind: StreamKind | None = None
    #: Bytes of `bad` before the record that is refused.
    ahead: int = 0


REFUSALS = {
    # Headers
    "first bytes of no stream": Refusal("", b"QEVMfile", BadHeader, "", "neither a libxl nor a libxc"),
    "libxl version": Refusal(
        "", b"LibxlFmt" + struct.pack(">II", 1, 0), BadHeader, "libxl header", "version 1"
    ),
    "libxl big endian": Refusal(
        "", b"LibxlFmt" + struct.pack(">II", 2, 1), BadHeader, "libxl header", "big endian"
    ),
    "libxl option bits": Refusal(
        "",
        b"LibxlFmt" + struct.pack(">II", 2, 4),
        BadHeader,
        "libxl header",
        "reserved option bits",
        strict=True,
    ),
    "image marker": Refusal(
        LIBXL, b"\xfe" + b"\xff" * 7 + b"XENF" + bytes(12), BadHeader, "image header", "marker"
    ),
    "image id": Refusal(LIBXL, MARKER + b"XENG" + bytes(12), BadHeader, "image header", "id 0x58454e47"),
    "image version 1": Refusal(
        LIBXL, MARKER + b"XENF" + struct.pack(">IQ", 1, 0), BadHeader, "image header", "version 1"
    ),
    "image version 4": Refusal(
        LIBXL, MARKER + b"XENF" + struct.pack(">IQ", 4, 0), BadHeader, "image header", "version 4"
    ),
    "image big endian": Refusal(
        LIBXL, MARKER + b"XENF" + struct.pack(">IHHI", 3, 1, 0, 0), BadHeader, "image header", "big endian"
    ),
    "image option bits": Refusal(
        LIBXL,
        MARKER + b"XENF" + struct.pack(">IHHI", 3, 2, 0, 0),
        BadHeader,
        "image header",
        "bits",
        strict=True,
    ),
    "image reserved 16": Refusal(
        LIBXL,
        MARKER + b"XENF" + struct.pack(">IHHI", 3, 0, 1, 0),
        BadHeader,
        "image header",
        "field",
        strict=True,
    ),
    "image reserved 32": Refusal(
        LIBXL,
        MARKER + b"XENF" + struct.pack(">IHHI", 3, 0, 0, 1),
        BadHeader,
        "image header",
        "field",
        strict=True,
    ),
    "domain type 0": Refusal(
        LIBXL + IHDR, struct.pack("<IHHII", 0, 12, 0, 4, 17), BadHeader, "domain header", "domain type 0"
    ),
    "domain type 3": Refusal(
        LIBXL + IHDR, struct.pack("<IHHII", 3, 12, 0, 4, 17), BadHeader, "domain header", "domain type 3"
    ),
    "page shift": Refusal(
        LIBXL + IHDR, struct.pack("<IHHII", 2, 32, 0, 4, 17), BadHeader, "domain header", "page shift 32"
    ),
    "domain reserved": Refusal(
        LIBXL + IHDR,
        struct.pack("<IHHII", 2, 12, 1, 4, 17),
        BadHeader,
        "domain header",
        "reserved field",
        strict=True,
    ),
    # Framing
    "libxc length": Refusal(
        HVM, rec(9, length=RECORD_BYTES_MAX + 1), RecordTooLarge, "HVM_CONTEXT", "134217729 bytes"
    ),
    "optional length": Refusal(
        HVM, rec(0x80000001, length=0xFFFFFFFF), RecordTooLarge, "libxc record 0x80000001", "at most"
    ),
    "libxl length": Refusal(
        HVM_TAIL, rec(3, length=LIBXL_RECORD_BYTES_MAX + 1), RecordTooLarge, "EMULATOR_CONTEXT", "at most"
    ),
    "libxl length that overflows": Refusal(
        HVM_TAIL, rec(3, length=0xFFFFFFF9), RecordTooLarge, "EMULATOR_CONTEXT", "at most"
    ),
    "libxl unknown length": Refusal(
        HVM_TAIL, rec(0x80000006, length=0x7FFFFFFF), RecordTooLarge, "libxl record 0x80000006", "at most"
    ),
    "table length": Refusal(
        HVM, rec(10, length=TABLE_BYTES_MAX + 1), RecordTooLarge, "HVM_PARAMS", "at most 1048576"
    ),
    "xenstore length": Refusal(
        HVM_TAIL, rec(2, length=(1 << 20) + 1), RecordTooLarge, "EMULATOR_XENSTORE_DATA", "at most"
    ),
    "padding": Refusal(
        HVM, rec(9, b"x", padding=b"\1"), BadRecord, "HVM_CONTEXT", "padding of zeros", strict=True
    ),
    "libxl padding": Refusal(
        HVM_TAIL, rec(3, bytes(9), padding=b"\1"), BadRecord, "EMULATOR_CONTEXT", "padding", strict=True
    ),
    # Types
    "unknown mandatory": Refusal(
        HVM, rec(0x13), UnknownMandatoryRecord, "libxc record 0x00000013", "no receiver handles"
    ),
    "last mandatory": Refusal(
        HVM, rec(0x7FFFFFFF), UnknownMandatoryRecord, "libxc record 0x7fffffff", "no receiver handles"
    ),
    "toolstack": Refusal(HVM, rec(0x0B, b"x"), UnknownMandatoryRecord, "TOOLSTACK", "no receiver handles"),
    "unknown optional": Refusal(
        HVM, rec(0x80000000), BadRecord, "libxc record 0x80000000", "record type of the", strict=True
    ),
    "libxl unknown": Refusal(HVM_TAIL, rec(6), UnknownMandatoryRecord, "libxl record 0x00000006", "no such"),
    "libxl optional": Refusal(
        HVM_TAIL, rec(0x80000006), UnknownMandatoryRecord, "libxl record 0x80000006", "no such"
    ),
    "dirty list forward": Refusal(
        HVM, load("checkpoint_dirty_pfn_list"), RecordOrder, "CHECKPOINT_DIRTY_PFN_LIST", "back channel"
    ),
    "pv record for hvm": Refusal(HVM_START, load("x86_pv_info_64"), RecordOrder, "X86_PV_INFO", "type HVM"),
    "shared info for hvm": Refusal(HVM, load("shared_info"), RecordOrder, "SHARED_INFO", "type HVM"),
    "hvm context for pv": Refusal(PV_PAGES, load("hvm_context"), RecordOrder, "HVM_CONTEXT", "type PV"),
    "hvm params for pv": Refusal(PV_PAGES, load("hvm_params"), RecordOrder, "HVM_PARAMS", "type PV"),
    # PAGE_DATA
    "pages before static end": Refusal(
        HVM_START, load("page_data_hvm"), RecordOrder, "PAGE_DATA", "no STATIC_DATA_END"
    ),
    "pages short": Refusal(HVM, rec(1, bytes(7)), BadRecord, "PAGE_DATA", "at least"),
    "pages without a pfn": Refusal(HVM, rec(1, bytes(8)), BadRecord, "PAGE_DATA", "at least 16"),
    "pages count 0": Refusal(HVM, pages(1, count=0), BadRecord, "PAGE_DATA", "0 pfns, at least 1"),
    "pages count too large": Refusal(HVM, pages(1, count=514), BadRecord, "PAGE_DATA", "514 pfns need"),
    "pages count huge": Refusal(HVM, pages(1, count=0xFFFFFFFF), BadRecord, "PAGE_DATA", "pfns need"),
    **{
        f"page type {kind}": Refusal(
            HVM, pages(kind << 60 | 1), BadRecord, "PAGE_DATA", f"page type {kind:#x}"
        )
        for kind in range(5, 9)
    },
    "page missing": Refusal(HVM, pages(1, data=0), BadRecord, "PAGE_DATA", "16 bytes instead of 4112"),
    "page byte missing": Refusal(
        HVM, pages(1, data=4095), BadRecord, "PAGE_DATA", "4111 bytes instead of 4112"
    ),
    "page byte too many": Refusal(
        HVM, pages(1, data=4097), BadRecord, "PAGE_DATA", "4113 bytes instead of 4112"
    ),
    "page of XTAB": Refusal(HVM, pages(0xF << 60, data=4096), BadRecord, "PAGE_DATA", "instead of 16"),
    "hvm pfn": Refusal(HVM, pages(PFN_MAX + 1), BadRecord, "PAGE_DATA", f"pfn {PFN_MAX + 1:#x}"),
    "hvm pfn of XTAB": Refusal(
        HVM, pages(0xF << 60 | (1 << 52) - 1), BadRecord, "PAGE_DATA", "pfn 0xfffffffffffff"
    ),
    "pv pfn": Refusal(PV_PAGES, pages(1024), BadRecord, "PAGE_DATA", "highest possible is 0x3ff"),
    "pv pages before p2m": Refusal(
        PV_INFO + "static_data_end ", pages(0), RecordOrder, "PAGE_DATA", "no X86_PV_P2M_FRAMES"
    ),
    "pages reserved": Refusal(
        HVM, pages(1, reserved=1), BadRecord, "PAGE_DATA", "reserved fields", strict=True
    ),
    "pfn reserved": Refusal(
        HVM, pages(1 << 52 | 1), BadRecord, "PAGE_DATA", "reserved bits 59-52", strict=True
    ),
    "pfn reserved of XTAB": Refusal(
        HVM, pages(0xF08 << 52), BadRecord, "PAGE_DATA", "reserved bits", strict=True
    ),
    "hvm page table": Refusal(HVM, pages(1 << 60 | 1), BadRecord, "PAGE_DATA", "page tables", strict=True),
    # X86_PV_INFO
    "second pv info": Refusal(PV_INFO, load("x86_pv_info_64"), RecordOrder, "X86_PV_INFO", "second"),
    "pv info short": Refusal(
        PV_START, rec(2, bytes([8, 4, 0, 0, 0, 0, 0])), BadRecord, "X86_PV_INFO", "least 8"
    ),
    "pv info 8, 3": Refusal(
        PV_START, rec(2, bytes([8, 3]) + bytes(6)), BadRecord, "X86_PV_INFO", "width 8 with 3"
    ),
    "pv info 4, 4": Refusal(
        PV_START, rec(2, bytes([4, 4]) + bytes(6)), BadRecord, "X86_PV_INFO", "width 4 with 4"
    ),
    "pv info long": Refusal(
        PV_START, rec(2, bytes([8, 4]) + bytes(14)), BadRecord, "X86_PV_INFO", "body of 8 bytes", strict=True
    ),
    "pv info reserved": Refusal(
        PV_START, rec(2, bytes([8, 4, 0, 0, 0, 0, 0, 1])), BadRecord, "X86_PV_INFO", "reserved", strict=True
    ),
    # X86_PV_P2M_FRAMES
    "p2m before static end": Refusal(
        PV_INFO, load("x86_pv_p2m_frames_64"), RecordOrder, "X86_PV_P2M_FRAMES", "no STATIC_DATA_END"
    ),
    "p2m before pv info": Refusal(
        PV_START + "static_data_end ",
        load("x86_pv_p2m_frames_64"),
        RecordOrder,
        "X86_PV_P2M_FRAMES",
        "no X86_PV_INFO",
    ),
    "p2m short": Refusal(PV_PAGES, rec(3, bytes(7)), BadRecord, "X86_PV_P2M_FRAMES", "at least 8"),
    "p2m start above end": Refusal(
        PV_PAGES, rec(3, struct.pack("<IIQ", 2, 1, 0)), BadRecord, "X86_PV_P2M_FRAMES", "above end"
    ),
    "p2m one frame too few": Refusal(
        PV_PAGES,
        rec(3, struct.pack("<IIQ", 0, 512, 0)),
        BadRecord,
        "X86_PV_P2M_FRAMES",
        "1 frames instead of 2",
    ),
    "p2m one frame too many": Refusal(
        PV_PAGES,
        rec(3, struct.pack("<IIQQ", 0, 511, 0, 0)),
        BadRecord,
        "X86_PV_P2M_FRAMES",
        "2 frames instead of 1",
    ),
    "p2m of the other width": Refusal(
        PV_32, rec(3, struct.pack("<III", 0, 1, 0)), BadRecord, "X86_PV_P2M_FRAMES", "not whole u64s"
    ),
    "p2m end pfn": Refusal(
        PV_PAGES,
        rec(3, struct.pack("<IIQ", PFN_MAX + 1, PFN_MAX + 1, 0)),
        BadRecord,
        "X86_PV_P2M_FRAMES",
        "end pfn",
    ),
    # X86_PV_VCPU_*
    **{
        f"vcpu record {kind} short": Refusal(PV_PAGES, rec(kind, bytes(7)), BadRecord, name, "at least 8")
        for kind, name in (
            (4, "X86_PV_VCPU_BASIC"),
            (5, "X86_PV_VCPU_EXTENDED"),
            (6, "X86_PV_VCPU_XSAVE"),
            (12, "X86_PV_VCPU_MSRS"),
        )
    },
    **{
        f"vcpu record {kind} empty": Refusal(
            PV_PAGES, vcpu(kind, b""), BadRecord, name, "a state", strict=True
        )
        for kind, name in (
            (4, "X86_PV_VCPU_BASIC"),
            (5, "X86_PV_VCPU_EXTENDED"),
            (6, "X86_PV_VCPU_XSAVE"),
            (12, "X86_PV_VCPU_MSRS"),
        )
    },
    "vcpu id": Refusal(PV_PAGES, vcpu(5, b"x", 8192), BadRecord, "X86_PV_VCPU_EXTENDED", "vcpu 8192"),
    "vcpu reserved": Refusal(
        PV_PAGES,
        rec(5, struct.pack("<IIB", 0, 1, 0)),
        BadRecord,
        "X86_PV_VCPU_EXTENDED",
        "reserved",
        strict=True,
    ),
    "vcpu context of no width": Refusal(
        PV_PAGES, vcpu(4, bytes(5167)), BadRecord, "X86_PV_VCPU_BASIC", "context of 5167"
    ),
    "vcpu context of no width before pv info": Refusal(
        PV_START + "static_data_end ", vcpu(4, bytes(5167)), BadRecord, "X86_PV_VCPU_BASIC", "of 5167"
    ),
    "vcpu context of the other width": Refusal(
        PV_PAGES, vcpu(4, vcpu_context_32()), BadRecord, "X86_PV_VCPU_BASIC", "2800 bytes instead of 5168"
    ),
    "vcpu extended": Refusal(PV_PAGES, vcpu(5, bytes(129)), BadRecord, "X86_PV_VCPU_EXTENDED", "at most 136"),
    "vcpu xsave": Refusal(PV_PAGES, vcpu(6, bytes(15)), BadRecord, "X86_PV_VCPU_XSAVE", "at least 16"),
    "vcpu msrs": Refusal(PV_PAGES, vcpu(12, bytes(17)), BadRecord, "X86_PV_VCPU_MSRS", "whole entries of 16"),
    "vcpu msr reserved": Refusal(
        PV_PAGES,
        vcpu(12, struct.pack("<IIQ", 1, 1, 1)),
        BadRecord,
        "X86_PV_VCPU_MSRS",
        "reserved fields",
        strict=True,
    ),
    "vcpu before pv info": Refusal(
        PV_START + "static_data_end ",
        load("x86_pv_vcpu_extended"),
        RecordOrder,
        "X86_PV_VCPU_EXTENDED",
        "no X86_PV_INFO",
        strict=True,
    ),
    # Other states
    "shared info before pv info": Refusal(
        PV_START + "static_data_end ", load("shared_info"), RecordOrder, "SHARED_INFO", "no X86_PV_INFO"
    ),
    "shared info short": Refusal(PV_PAGES, rec(7, bytes(4095)), BadRecord, "SHARED_INFO", "at least 4096"),
    "shared info long": Refusal(PV_PAGES, rec(7, bytes(4097)), BadRecord, "SHARED_INFO", "at most 4096"),
    "tsc short": Refusal(HVM, rec(8, bytes(23)), BadRecord, "X86_TSC_INFO", "at least 24"),
    "tsc long": Refusal(HVM, rec(8, bytes(25)), BadRecord, "X86_TSC_INFO", "at most 24"),
    "tsc reserved": Refusal(
        HVM, rec(8, bytes(23) + b"\1"), BadRecord, "X86_TSC_INFO", "reserved fields", strict=True
    ),
    "hvm params short": Refusal(HVM, rec(10, bytes(7)), BadRecord, "HVM_PARAMS", "at least 8"),
    "hvm params count": Refusal(
        HVM, rec(10, struct.pack("<IIQQ", 2, 0, 1, 1)), BadRecord, "HVM_PARAMS", "2 parameters in 16 bytes"
    ),
    "hvm params count huge": Refusal(
        HVM, rec(10, struct.pack("<II", 0xFFFFFFFF, 0)), BadRecord, "HVM_PARAMS", "in 0 bytes"
    ),
    "hvm params none": Refusal(
        HVM, load("hvm_params_none"), BadRecord, "HVM_PARAMS", "least one", strict=True
    ),
    "hvm params reserved": Refusal(
        HVM, rec(10, struct.pack("<IIQQ", 1, 1, 1, 1)), BadRecord, "HVM_PARAMS", "reserved", strict=True
    ),
    "hvm context empty": Refusal(HVM, rec(9), BadRecord, "HVM_CONTEXT", "at least 1"),
    "cpuid empty": Refusal(HVM_START, rec(17), BadRecord, "X86_CPUID_POLICY", "at least 24"),
    "cpuid not whole": Refusal(HVM_START, rec(17, bytes(25)), BadRecord, "X86_CPUID_POLICY", "entries of 24"),
    "msr empty": Refusal(HVM_START, rec(18), BadRecord, "X86_MSR_POLICY", "at least 16"),
    "msr not whole": Refusal(HVM_START, rec(18, bytes(24)), BadRecord, "X86_MSR_POLICY", "entries of 16"),
    "msr flags": Refusal(
        HVM_START, rec(18, struct.pack("<IIQ", 1, 1, 1)), BadRecord, "X86_MSR_POLICY", "reserved", strict=True
    ),
    "second static end": Refusal(
        HVM, load("static_data_end"), RecordOrder, "STATIC_DATA_END", "ended before"
    ),
    "static end after it was implied": Refusal(
        HVM_V2 + "page_data_hvm ", load("static_data_end"), RecordOrder, "STATIC_DATA_END", "ended before"
    ),
    **{
        f"signal {kind} with a body": Refusal(
            before, rec(kind, bytes(3)), BadRecord, name, "empty", strict=True
        )
        for kind, name, before in (
            (0, "END", HVM_WHOLE),
            (13, "VERIFY", HVM),
            (14, "CHECKPOINT", HVM_WHOLE),
            (16, "STATIC_DATA_END", HVM_START),
        )
    },
    # Order that only the specification demands
    **{
        f"{name} in version 2": Refusal(
            HVM_V2, load(name.lower()), RecordOrder, name, "not exist in version 2", strict=True
        )
        for name in ("STATIC_DATA_END", "X86_CPUID_POLICY", "X86_MSR_POLICY")
    },
    "policy after static end": Refusal(
        HVM, load("x86_cpuid_policy"), RecordOrder, "X86_CPUID_POLICY", "too late", strict=True
    ),
    "pages after the tail": Refusal(
        HVM_WHOLE, load("page_data_hvm"), RecordOrder, "PAGE_DATA", "too late", strict=True
    ),
    "second p2m": Refusal(
        PV_PAGES, load("x86_pv_p2m_frames_64"), RecordOrder, "X86_PV_P2M_FRAMES", "too late", strict=True
    ),
    "tsc before static end": Refusal(
        HVM_START, load("x86_tsc_info"), RecordOrder, "X86_TSC_INFO", "no STATIC_DATA_END", strict=True
    ),
    "context before static end": Refusal(
        HVM_START, load("hvm_context"), RecordOrder, "HVM_CONTEXT", "no STATIC_DATA_END", strict=True
    ),
    "verify in remus": Refusal(
        HVM, load("verify"), RecordOrder, "VERIFY", "no verify mode", strict=True, kind=StreamKind.REMUS
    ),
    # Completion
    "checkpoint in a plain stream": Refusal(
        HVM_WHOLE, load("checkpoint"), RecordOrder, "CHECKPOINT", "plain stream", kind=StreamKind.PLAIN
    ),
    "hvm end without context": Refusal(
        HVM + "page_data_hvm ", load("end"), RecordOrder, "END", "no HVM_CONTEXT"
    ),
    "hvm checkpoint without context": Refusal(
        HVM + "page_data_hvm ", load("checkpoint"), RecordOrder, "CHECKPOINT", "no HVM_CONTEXT"
    ),
    "hvm second checkpoint without context": Refusal(
        HVM_CHECKPOINT + "checkpoint_end ",
        load("checkpoint"),
        RecordOrder,
        "CHECKPOINT",
        "CONTEXT",
        strict=True,
    ),
    "hvm without static end": Refusal(
        HVM_START + "x86_cpuid_policy ", load("end"), RecordOrder, "END", "no HVM_CONTEXT|STATIC_DATA_END"
    ),
    "pv end without vcpu 0": Refusal(
        PV_PAGES + "shared_info ", load("end"), RecordOrder, "END", "no X86_PV_VCPU"
    ),
    "pv end with an empty vcpu 0": Refusal(
        PV_PAGES + "shared_info ",
        vcpu(4, b"") + load("end"),
        RecordOrder,
        "END",
        "BASIC of vcpu 0",
        ahead=16,
    ),
    "pv end without shared info": Refusal(
        PV_PAGES + "x86_pv_vcpu_basic_64 ", load("end"), RecordOrder, "END", "no SHARED_INFO", strict=True
    ),
    # libxl
    "libxl starts with a record": Refusal(
        "libxl_header ", load("emulator_context"), RecordOrder, "EMULATOR_CONTEXT", "only LIBXC_CONTEXT"
    ),
    "libxl starts with its end": Refusal(
        "libxl_header ", load("libxl_end"), RecordOrder, "libxl END", "only LIBXC_CONTEXT"
    ),
    "second libxc context": Refusal(
        HVM_TAIL, load("libxc_context"), RecordOrder, "LIBXC_CONTEXT", "only EMULATOR_CONTEXT or"
    ),
    "end inside a checkpoint": Refusal(
        HVM_CHECKPOINT, load("libxl_end"), RecordOrder, "libxl END", "only CHECKPOINT_END or"
    ),
    "checkpoint end outside a checkpoint": Refusal(
        HVM_TAIL, load("checkpoint_end"), RecordOrder, "CHECKPOINT_END", "may stand here"
    ),
    "checkpoint state in remus": Refusal(
        HVM_CHECKPOINT, load("checkpoint_state_new"), RecordOrder, "CHECKPOINT_STATE", "may stand here"
    ),
    "colo without a state": Refusal(
        HVM_CHECKPOINT + "checkpoint_end ",
        load("libxl_end"),
        RecordOrder,
        "libxl END",
        "only CHECKPOINT_STATE",
        kind=StreamKind.COLO,
    ),
    "colo with a wrong state": Refusal(
        HVM_CHECKPOINT + "checkpoint_end ",
        load("checkpoint_state_ready"),
        RecordOrder,
        "CHECKPOINT_STATE",
        "SVM_READY instead of NEW",
        kind=StreamKind.COLO,
    ),
    "state short": Refusal(
        HVM_CHECKPOINT + "checkpoint_end ",
        rec(5),
        BadRecord,
        "CHECKPOINT_STATE",
        "at least 4",
        kind=StreamKind.COLO,
    ),
    "state long": Refusal(
        HVM_CHECKPOINT + "checkpoint_end ",
        rec(5, bytes(9)),
        BadRecord,
        "CHECKPOINT_STATE",
        "at most 8",
        kind=StreamKind.COLO,
    ),
    "state as the specification draws it": Refusal(
        HVM_CHECKPOINT + "checkpoint_end ",
        rec(5, bytes(8)),
        BadRecord,
        "CHECKPOINT_STATE",
        "body of 4 bytes",
        kind=StreamKind.COLO,
        strict=True,
    ),
    "state unknown": Refusal(
        HVM_CHECKPOINT + "checkpoint_end ",
        rec(5, u32(0x80000000)),
        BadRecord,
        "CHECKPOINT_STATE",
        "state 0x80000000",
        kind=StreamKind.COLO,
    ),
    "xenstore for pv": Refusal(
        PV_PAGES + "shared_info x86_pv_vcpu_basic_64 end ",
        load("emulator_xenstore_data"),
        RecordOrder,
        "EMULATOR_XENSTORE_DATA",
        "no device model",
    ),
    "emulator for pv": Refusal(
        PV_PAGES + "shared_info x86_pv_vcpu_basic_64 checkpoint ",
        load("emulator_context"),
        RecordOrder,
        "EMULATOR_CONTEXT",
        "no device model",
    ),
    "xenstore short": Refusal(HVM_TAIL, rec(2, bytes(7)), BadRecord, "EMULATOR_XENSTORE_DATA", "at least 8"),
    "xenstore no NUL": Refusal(
        HVM_TAIL, rec(2, bytes(8) + b"k\0v"), BadRecord, "EMULATOR_XENSTORE_DATA", "no NUL"
    ),
    "xenstore no value": Refusal(
        HVM_TAIL, rec(2, bytes(8) + b"k\0v\0l\0"), BadRecord, "EMULATOR_XENSTORE_DATA", "b'l' has no value"
    ),
    "xenstore empty key": Refusal(
        HVM_TAIL, rec(2, bytes(8) + b"\0v\0"), BadRecord, "EMULATOR_XENSTORE_DATA", "empty key"
    ),
    "xenstore absolute key": Refusal(
        HVM_TAIL, rec(2, bytes(8) + b"/k\0v\0"), BadRecord, "EMULATOR_XENSTORE_DATA", "absolute path"
    ),
    "xenstore nothing": Refusal(
        HVM_TAIL, rec(2, bytes(8)), BadRecord, "EMULATOR_XENSTORE_DATA", "at least one key", strict=True
    ),
    "emulator short": Refusal(HVM_TAIL, rec(3, bytes(7)), BadRecord, "EMULATOR_CONTEXT", "at least 8"),
    "emulator nothing": Refusal(
        HVM_TAIL, rec(3, bytes(8)), BadRecord, "EMULATOR_CONTEXT", "a state", strict=True
    ),
    "second emulator": Refusal(
        HVM_TAIL + "emulator_context ",
        load("emulator_context"),
        RecordOrder,
        "EMULATOR_CONTEXT",
        "second one",
        strict=True,
    ),
    "xenstore behind emulator": Refusal(
        HVM_TAIL + "emulator_context ",
        load("emulator_xenstore_data"),
        RecordOrder,
        "EMULATOR_XENSTORE_DATA",
        "before EMULATOR_CONTEXT",
        strict=True,
    ),
    "libxl end with a body": Refusal(
        HVM_TAIL, rec(0, b"x"), BadRecord, "libxl END", "empty body", strict=True
    ),
    "libxc context with a body": Refusal(
        "libxl_header ", rec(1, b"x"), BadRecord, "LIBXC_CONTEXT", "empty body", strict=True
    ),
    "checkpoint end with a body": Refusal(
        HVM_CHECKPOINT, rec(4, b"x"), BadRecord, "CHECKPOINT_END", "empty body", strict=True
    ),
    "behind the end": Refusal(HVM_TAIL + "libxl_end ", b"d", RecordOrder, "", "behind the end"),
    # Recordings of QEMU guests
    "qemu without device state": Refusal(
        QEMU + "checkpoint ",
        load("checkpoint_end"),
        RecordOrder,
        "CHECKPOINT_END",
        "EMULATOR_CONTEXT",
        strict=True,
    ),
    "qemu with a context": Refusal(
        QEMU, load("hvm_context"), RecordOrder, "HVM_CONTEXT", "QEMU", strict=True
    ),
    "qemu with tsc": Refusal(QEMU, load("x86_tsc_info"), RecordOrder, "X86_TSC_INFO", "QEMU", strict=True),
    "qemu page without data": Refusal(
        QEMU, pages(0xF << 60), BadRecord, "PAGE_DATA", "page without data", strict=True
    ),
    # Back channel
    "back channel starts with a list": Refusal(
        "",
        load("checkpoint_dirty_pfn_list"),
        RecordOrder,
        "CHECKPOINT_DIRTY_PFN_LIST",
        "CHECKPOINT_STATE is expected",
        kind=StreamKind.BACK_CHANNEL,
    ),
    "back channel state too soon": Refusal(
        "checkpoint_state_ready ",
        load("checkpoint_state_suspended"),
        RecordOrder,
        "CHECKPOINT_STATE",
        "SVM_SUSPENDED instead of SVM_RESUMED",
        kind=StreamKind.BACK_CHANNEL,
    ),
    "back channel state forward": Refusal(
        "",
        load("checkpoint_state_new"),
        RecordOrder,
        "CHECKPOINT_STATE",
        "NEW instead of SVM_READY",
        kind=StreamKind.BACK_CHANNEL,
    ),
    "back channel state instead of list": Refusal(
        "checkpoint_state_ready checkpoint_state_resumed checkpoint_state_suspended ",
        load("checkpoint_state_ready"),
        RecordOrder,
        "CHECKPOINT_STATE",
        "CHECKPOINT_DIRTY_PFN_LIST is expected",
        kind=StreamKind.BACK_CHANNEL,
    ),
    "back channel foreign record": Refusal(
        "",
        load("x86_tsc_info"),
        RecordOrder,
        "X86_TSC_INFO",
        "is expected",
        kind=StreamKind.BACK_CHANNEL,
    ),
    "dirty list length": Refusal(
        "checkpoint_state_ready checkpoint_state_resumed checkpoint_state_suspended ",
        rec(15, bytes(9)),
        BadRecord,
        "CHECKPOINT_DIRTY_PFN_LIST",
        "whole u64s",
        kind=StreamKind.BACK_CHANNEL,
    ),
    "dirty list pfn": Refusal(
        "checkpoint_state_ready checkpoint_state_resumed checkpoint_state_suspended ",
        rec(15, u64(PFN_MAX + 1)),
        BadRecord,
        "CHECKPOINT_DIRTY_PFN_LIST",
        "highest possible",
        kind=StreamKind.BACK_CHANNEL,
    ),
}


def decode(data: bytes, kind: StreamKind | None, strict: bool) -> list[Record]:
    return list(RecordDecoder(kind, strict=strict).feed(data))


@pytest.mark.parametrize("name", REFUSALS)
def test_refusal(name: str) -> None:
    case = REFUSALS[name]
    before = join(case.before)
    with pytest.raises(case.error, match=case.message) as caught:
        decode(before + case.bad, case.kind, case.strict)
    assert type(caught.value) is case.error
    assert (caught.value.offset, caught.value.record) == (len(before) + case.ahead, case.record)
    assert f"at offset {caught.value.offset}" in str(caught.value)
    if case.record:
        assert f"in {case.record}" in str(caught.value)


@pytest.mark.parametrize("name", [name for name, case in REFUSALS.items() if case.strict])
def test_tolerant_mode_forgives(name: str) -> None:
    case = REFUSALS[name]
    decoder = RecordDecoder(case.kind)
    list(decoder.feed(join(case.before) + case.bad))
    assert decoder.pending == 0


@pytest.mark.parametrize("name", REFUSALS)
def test_refusal_is_the_same_at_any_split(name: str) -> None:
    """Byte by byte the same records come before the error, and the error stays."""
    case = REFUSALS[name]
    data = join(case.before) + case.bad
    whole, pieces = RecordDecoder(case.kind, strict=case.strict), RecordDecoder(case.kind, strict=case.strict)
    records: tuple[list[Record], list[Record]] = ([], [])
    with pytest.raises(case.error) as first:
        records[0].extend(whole.feed(data))
    with pytest.raises(case.error) as second:
        records[1].extend(record for i in range(len(data)) for record in pieces.feed(data[i : i + 1]))
    assert str(second.value) == str(first.value)
    assert records[0] == records[1]
    assert len(records[0]) == len(case.before.split()) + bool(case.ahead)
    for again in (lambda: pieces.feed(b"more"), pieces.finish):
        with pytest.raises(case.error) as third:
            again()
        assert third.value is second.value


def test_libxl_ident() -> None:
    """The decoder tells streams apart by it, so only a direct caller can meet a wrong one."""
    with pytest.raises(BadHeader, match="instead of LibxlFmt") as caught:
        libxl.decode_header(memoryview(b"LibxlFmu" + struct.pack(">II", 2, 0)), 7)
    assert caught.value.offset == 7


def test_lengths_are_judged_before_the_body_is_there() -> None:
    """Eight bytes are enough to refuse: no body is awaited that cannot be good."""
    for before, head in (
        (HVM, rec(9, length=1 << 31)),
        (HVM, rec(7, length=4096)),
        (HVM_TAIL, rec(9, length=1)),
    ):
        with pytest.raises(RemoteWireError):
            decode(join(before) + head[:8], None, False)


# PV frames


def pv_stream(context: bytes, *, before: str = PV_PAGES, extra: bytes = b"") -> tuple[bytes, int]:
    """A PV stream up to END with this context of vcpu 0, and the offset of that record."""
    start = join(before) + extra + load("shared_info")
    return start + vcpu(4, context) + load("end"), len(start)


XTAB_6 = pages(0xF << 60 | 6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({EDX_64: u64(1024)}, "start info frame 0x400, the guest's highest is 0x3ff"),
        ({EDX_64: u64(1)}, "start info frame 0x1 is L1TAB instead of NOTAB"),
        ({EDX_64: u64(500)}, "start info frame 0x1f4 is absent instead of NOTAB"),
        ({GDT_ENTRIES_64: u64(14 * 512 + 1)}, "7169 GDT entries, at most 7168"),
        ({GDT_ENTRIES_64: u64(513), GDT_FRAMES_64 + 8: u64(1024)}, "GDT frame 0x400"),
        ({GDT_FRAMES_64: u64(2)}, "GDT frame 0x2 is L4TAB_PINNED"),
        ({CR3_64: u64(1024 << 12)}, "cr3 frame 0x400"),
        ({CR3_64: u64(7 << 12)}, "cr3 frame 0x7 is L3TAB instead of L4TAB"),
        ({CR3_64: u64(5 << 12)}, "cr3 frame 0x5 is XTAB instead of L4TAB"),
        ({CR1_64: u64(6 << 12 | 1)}, "cr1 frame 0x6 is NOTAB instead of L4TAB"),
    ],
)
def test_pv_frames_in_registers(fields: dict[int, bytes], message: str) -> None:
    data, offset = pv_stream(patch(vcpu_context_64(), fields))
    with pytest.raises(BadRecord, match=message) as caught:
        decode(data, None, False)
    assert (caught.value.offset, caught.value.record) == (offset, "X86_PV_VCPU_BASIC")


def test_pv_frames_that_fit() -> None:
    for fields in ({}, {CR1_64: u64(6 << 12)}, {GDT_ENTRIES_64: u64(0), GDT_FRAMES_64: u64(9999)}):
        assert decode(pv_stream(patch(vcpu_context_64(), fields))[0], None, True)[-1] == End()


def test_pv_32_bit_root() -> None:
    data, offset = pv_stream(patch(vcpu_context_32(), {CR3_32: u32(7 << 12 | 1)}), before=PV_32)
    with pytest.raises(BadRecord, match="cr3 frame 0x100007") as caught:
        decode(data, None, False)
    assert caught.value.offset == offset
    assert decode(pv_stream(vcpu_context_32(), before=PV_32)[0], None, True)[-1] == End()


def test_pv_frames_named_by_pages() -> None:
    """Frame 6 holds p2m, xenstore and console; when it turns invalid later, the stream is broken."""
    context = patch(vcpu_context_64(), {GDT_ENTRIES_64: u64(0)})
    data, _ = pv_stream(context, extra=XTAB_6)
    with pytest.raises(BadRecord, match="xenstore frame 0x6 is XTAB"):
        decode(data, None, False)
    data, _ = pv_stream(context, extra=XTAB_6 + pages(0))  # start info is no longer recognised
    with pytest.raises(BadRecord, match="p2m frame 0x6 is XTAB") as caught:
        decode(data, None, False)
    offset = len(join(PV_INFO + "static_data_end "))
    assert (caught.value.offset, caught.value.record) == (offset, "X86_PV_P2M_FRAMES")


def test_p2m_list_grows_and_never_shrinks() -> None:
    frames = rec(3, struct.pack("<IIQQ", 512, 1535, 6, 6)) + rec(3, struct.pack("<IIQ", 0, 1, 0))
    data, _ = pv_stream(vcpu_context_64(), extra=frames + pages(1535))
    assert decode(data, None, False)[-1] == End()
    data, _ = pv_stream(vcpu_context_64(), extra=frames + pages(1536))
    with pytest.raises(BadRecord, match="highest possible is 0x5ff"):
        decode(data, None, False)


# What we refuse to write


@pytest.mark.parametrize(
    "record",
    [
        ImageHeader(1),
        DomainHeader(DomainType.HVM, -1, 0),
        PvInfo(8, 3),
        PageData(array("Q"), b""),
        PageData(array("Q", [1]), b""),
        PageData(array("Q", [5 << 60]), bytes(4096)),
        HvmContext(b""),
        HvmContext(bytes(RECORD_BYTES_MAX + 1)),
        HvmParams((HvmParam(1, 1 << 64),)),
        HvmParams((HvmParam(1, 1),) * (1 << 17)),
        TscInfo(1, 1, -1, 1),
        OptionalRecord(0x13, b""),
        OptionalRecord(0x0E, b""),
        EmulatorXenstoreData(2, 0, ((b"a\0b", b"c"),)),
        EmulatorXenstoreData(2, 0, ((b"/a", b"c"),)),
        EmulatorXenstoreData(2, 0, ((b"a", b"b\0c\0d"),)),
        EmulatorXenstoreData(1 << 32, 0, ()),
    ],
)
def test_impossible_records_are_not_written(record: Record) -> None:
    with pytest.raises(LocalWireError):
        encode_record(record)


def test_encoder_keeps_the_order() -> None:
    encoder = StreamEncoder(StreamKind.REMUS)
    with pytest.raises(LocalWireError, match="at START"):
        encoder.encode(DomainHeader(DomainType.HVM, 4, 17))
    encoder.encode(LibxlHeader())
    with pytest.raises(LocalWireError, match="at LIBXL"):
        encoder.encode(StaticDataEnd())
    with pytest.raises(LocalWireError, match="at LIBXL"):
        encoder.encode(ImageHeader())
    with pytest.raises(LocalWireError, match="only LIBXC_CONTEXT"):
        encoder.encode(CheckpointState(CheckpointStateId.NEW))
    for record in (LibxcContext(), ImageHeader(), DomainHeader(DomainType.HVM, 4, 17), StaticDataEnd()):
        encoder.encode(record)
    with pytest.raises(LocalWireError, match="no HVM_CONTEXT"):
        encoder.encode(CheckpointRecord())
    with pytest.raises(LocalWireError, match="may not end here"):
        encoder.finish()


def test_errors_are_told_apart() -> None:
    """A broken stream is the peer's fault, a record we cannot write is ours, and both are WireErrors."""
    for error in (TruncatedStream, BadHeader, UnknownMandatoryRecord, RecordOrder, RecordTooLarge, BadRecord):
        assert issubclass(error, RemoteWireError)
        assert not issubclass(error, LocalWireError)
    with pytest.raises(TruncatedStream):
        list(decode_stream(b""))
