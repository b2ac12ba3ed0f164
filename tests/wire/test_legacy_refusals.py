"""Everything that is refused in a legacy stream: each with its error class, the offset and the name of the thing."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from legacy_maker import (
    PAGE,
    UNMAPPED_SLOT,
    batch,
    block,
    chunk,
    extended_info,
    hvm_tail,
    param,
    region,
    toolstack,
    vcpu_info,
    word,
)
from legacy_reader import read
from wire_vectors import CR3_64, patch, u64, vcpu_context_32, vcpu_context_64

from replicator.errors import (
    BadHeader,
    BadRecord,
    RecordOrder,
    RecordTooLarge,
    TruncatedStream,
    UnknownMandatoryRecord,
    WireError,
)
from replicator.limits import LEGACY_UNMAPPED_MAX, LIBXL_RECORD_BYTES_MAX, RECORD_BYTES_MAX
from replicator.wire import StreamKind
from replicator.wire.intake import Intake
from replicator.wire.legacy import LegacyDecoder, MemoryBases, TmemPolicy
from replicator.wire.libxc import TABLE_BYTES_MAX
from replicator.wire.libxl import XENSTORE_BYTES_MAX


@dataclass(frozen=True)
class Refusal:
    """Bytes that are fine, then those that must be refused with this error, in this thing."""

    before: bytes
    bad: bytes
    error: type[WireError]
    record: str
    message: str
    options: Mapping[str, Any] = field(default_factory=dict)
    #: Something that the operator can do, which the hint says.
    hint: str = ""
    #: Bytes at the end of `before` that are part of what is refused.
    behind: int = 0


CONTEXT = vcpu_context_64()
VCPU = block(b"vcpu", CONTEXT)
XCNT = block(b"xcnt", struct.pack("<I", 16 + 40))

HVM = word(16)
HVM_BODY = HVM + batch([3], bytes(PAGE))
HVM_END = HVM_BODY + chunk(-9) + chunk(0)
HVM_CHECKPOINT = HVM_BODY + chunk(0) + hvm_tail(b"context")
#: A checkpoint behind which compressed ones follow.
PACKED = HVM_BODY + chunk(-13) + chunk(0) + hvm_tail(b"context")

NAMED_PAGES = batch([0, 6, 0xC0000002], bytes(3 * PAGE))


def pv(blocks: bytes = VCPU, pages: bytes = NAMED_PAGES) -> bytes:
    """A PV stream up to its pages."""
    return word(16) + extended_info(blocks) + word(6) + pages


PV = pv()
PV_END = PV + chunk(-9) + chunk(0)


def packed(data: bytes) -> bytes:
    return chunk(-12, word(len(data)) + data)


def blob(version: int, count: int, data: bytes = b"") -> bytes:
    whole = struct.pack("<II", version, count) + data
    return chunk(-18, struct.pack("<I", len(whole)) + whole)


HEADER, INFO, BATCH, TAIL = "legacy header", "legacy extended info", "legacy page batch", "legacy tail"
END_OF_TAIL, END, PACKED_DATA = (
    "legacy end of tail",
    "legacy chunk 0 (end)",
    "legacy chunk -12 (compressed data)",
)
VCPUS, TOOLSTACK, TMEM = (
    "legacy chunk -2 (vcpu info)",
    "legacy chunk -18 (toolstack)",
    "legacy chunk -5 (tmem)",
)
MODEL = "legacy device model record"
DROP = {"tmem": TmemPolicy.DROP}
TMEM_HEAD = struct.pack("<7I", 1, 1, 0xFFFFFFFF, 0, 0, 0, 0xFFFFFFFF)

REFUSALS = {
    # Header
    "an ELF file": Refusal(b"", b"\x7fELF\x02\x01\x01\0" + bytes(56), BadHeader, HEADER, "no stream: it starts with"),
    "text": Refusal(
        b"", b"To whom it may concern", BadHeader, HEADER, "would be a guest of 1998614356 pages", hint="4.6"
    ),
    "zeros": Refusal(b"", bytes(64), BadHeader, HEADER, "a guest of 0 pages"),
    "a guest above 1 TiB": Refusal(b"", word((1 << 28) + 1) + chunk(1), BadHeader, HEADER, "guest of 268435457 pages"),
    "a first chunk that is none": Refusal(b"", word(16) + chunk(1025), BadHeader, HEADER, "with a first chunk 1025"),
    "a small number and text": Refusal(b"", b"\0\1\0\0some text", BadHeader, HEADER, "possible are -21 to 1024"),
    "64 bits said, 32 found": Refusal(
        b"", word(16, 32) + chunk(-1), BadHeader, HEADER, "a 64-bit toolstack is said .* a 32-bit one", {"sender_bits": 64}
    ),
    "32 bits said, 64 found": Refusal(
        b"", HVM_BODY, BadHeader, HEADER, "a 32-bit toolstack is said .* a 64-bit one", {"sender_bits": 32}
    ),
    # Extended info
    "unknown block": Refusal(word(16), extended_info(block(b"ext2", b"")), BadHeader, INFO, "unknown block 'ext2'"),
    "vcpu of another size": Refusal(
        word(16), extended_info(block(b"vcpu", CONTEXT[1:])), BadHeader, INFO, "5167 bytes instead of 5168 or 2800"
    ),
    "extv with content": Refusal(
        word(16), extended_info(VCPU + block(b"extv", b"x")), BadHeader, INFO, "'extv' of 1 bytes instead of 0"
    ),
    "block twice": Refusal(word(16), extended_info(VCPU + VCPU), BadHeader, INFO, "second block 'vcpu'"),
    "no vcpu": Refusal(word(16), extended_info(XCNT), BadHeader, INFO, 'no block "vcpu"'),
    "nothing": Refusal(word(16), extended_info(b""), BadHeader, INFO, 'no block "vcpu"'),
    "block that is too long": Refusal(
        word(16), extended_info(b"vcpu\x30\x14\0\0" + bytes(9)), BadHeader, INFO, "5168 bytes, 17 are left"
    ),
    "half a block head": Refusal(word(16), extended_info(VCPU + b"xcnt\0"), BadHeader, INFO, "5 bytes left"),
    **{
        f"xsave areas of {size} bytes": Refusal(
            word(16),
            extended_info(VCPU + block(b"xcnt", struct.pack("<I", size + 16))),
            BadHeader,
            INFO,
            f"xsave areas of {size} bytes",
        )
        for size in (-1, 15, TABLE_BYTES_MAX)
    },
    # Batches
    "batch above 1024": Refusal(HVM_BODY, chunk(1025), BadRecord, BATCH, "1025 entries, at most 1024"),
    "pfn twice": Refusal(HVM_BODY, batch([1, 2, 1]), BadRecord, BATCH, "pfn 0x1 twice"),
    "pfn twice, once without a page": Refusal(HVM_BODY, batch([1, 0xF0000001]), BadRecord, BATCH, "pfn 0x1 twice"),
    "pfn above the guest": Refusal(HVM_BODY, batch([16]), BadRecord, BATCH, "pfn 0x10, the highest possible is 0xf"),
    "unmapped pfn above the guest": Refusal(HVM_BODY, batch([0xF0000010]), BadRecord, BATCH, "pfn 0x10"),
    "reserved type": Refusal(HVM_BODY, batch([0x50000001]), BadRecord, BATCH, "reserved page type 0x5"),
    "entry of more than 32 bits": Refusal(HVM_BODY, batch([1 << 32 | 1]), BadRecord, BATCH, "more than 32 bits"),
    # Chunks
    "unknown chunk": Refusal(
        HVM_BODY, chunk(-22), UnknownMandatoryRecord, "legacy chunk -22", "unknown chunk"
    ),
    "parameter of a PV guest": Refusal(
        PV, param(-3, 1), RecordOrder, "legacy chunk -3 (hvm ident pt)", "a PV guest has no such"
    ),
    "ioreq server pfn alone": Refusal(HVM_BODY + param(-19, 1), chunk(0), BadRecord, END, "they are a pair"),
    "ioreq server pages alone": Refusal(HVM_BODY + param(-20, 1), chunk(0), BadRecord, END, "they are a pair"),
    "negative vcpu": Refusal(HVM_BODY, chunk(-2, struct.pack("<i", -1)), BadRecord, VCPUS, "highest vcpu -1"),
    "vcpu 4096": Refusal(HVM_BODY, chunk(-2, struct.pack("<i", 4096)), BadRecord, VCPUS, "highest vcpu 4096"),
    "toolstack too long": Refusal(
        HVM_BODY, chunk(-18, struct.pack("<I", XENSTORE_BYTES_MAX + 1)), RecordTooLarge, TOOLSTACK, "at most"
    ),
    "toolstack too short": Refusal(
        HVM_BODY, chunk(-18, struct.pack("<I", 7) + bytes(7)), BadRecord, TOOLSTACK, "7 bytes, at least 8"
    ),
    "toolstack version": Refusal(HVM_BODY, blob(2, 0), BadRecord, TOOLSTACK, "version 2 instead of 1"),
    "region cut off": Refusal(
        HVM_BODY, blob(1, 2, region(1, 2, 3, b"n\0")), BadRecord, TOOLSTACK, "region 1 of 2 is cut off"
    ),
    "name cut off": Refusal(
        HVM_BODY, blob(1, 1, region(1, 2, 3, b"n\0")[:-5]), BadRecord, TOOLSTACK, "name of 2 bytes in region 0"
    ),
    "name without its NUL": Refusal(
        HVM_BODY, blob(1, 1, region(1, 2, 3, b"name")), BadRecord, TOOLSTACK, "does not end with NUL"
    ),
    "regions whose keys are too many": Refusal(
        HVM_BODY, toolstack([region(1 << 40, 2, 3, b"")] * 20_000), RecordTooLarge, TOOLSTACK, "at most"
    ),
    "regions of a PV guest": Refusal(
        PV, toolstack([region(1, 2, 3, b"n\0")]), RecordOrder, TOOLSTACK, "a PV guest has no device model"
    ),
    "verify mode before a checkpoint": Refusal(
        HVM_BODY + chunk(-1) + chunk(0) + hvm_tail(b"c"), b"", RecordOrder, TAIL, "verify mode", hint="Remus", behind=29
    ),
    # tmem
    "tmem": Refusal(HVM_BODY, chunk(-5), UnknownMandatoryRecord, TMEM, "removed from Xen in 2019", hint="--tmem drop"),
    "tmem extra": Refusal(
        HVM_BODY, chunk(-6), UnknownMandatoryRecord, "legacy chunk -6 (tmem extra)", "2019", hint="--tmem drop"
    ),
    "tmem without its marks": Refusal(
        HVM_BODY, chunk(-5, struct.pack("<7I", *[1] * 7)), BadRecord, TMEM, "instead of all ones twice", DROP
    ),
    # Compression
    "packed pages unannounced": Refusal(
        HVM_BODY, packed(b""), RecordOrder, PACKED_DATA, "nothing announced"
    ),
    "packed pages in the checkpoint that announces them": Refusal(
        HVM_BODY + chunk(-13), packed(b""), RecordOrder, PACKED_DATA, "nothing announced"
    ),
    "packed pages without bases": Refusal(
        PACKED, packed(b""), UnknownMandatoryRecord, PACKED_DATA, "builds on pages", {"bases": None}, "--spool FOLDER"
    ),
    "packed batch without bases": Refusal(
        PACKED, batch([3]), UnknownMandatoryRecord, BATCH, "builds on pages", {"bases": None}, "--spool FOLDER"
    ),
    "packed pages nobody listed": Refusal(PACKED, packed(b"\0"), BadRecord, PACKED_DATA, "more data than the listed"),
    "one packed page too many": Refusal(
        PACKED + batch([3, 0xF0000004]), packed(b"\0\0"), BadRecord, PACKED_DATA, "more data than the listed"
    ),
    "a packed page too few": Refusal(
        PACKED + batch([3, 5, 0xF0000006]) + packed(b"\0"), chunk(0), BadRecord, END, "1 of the listed pages"
    ),
    "half a packed page": Refusal(
        PACKED + batch([3]) + packed(b"\x80half"), chunk(0), BadRecord, END, "1 of the listed pages"
    ),
    "a run of no words": Refusal(
        PACKED + batch([3]), packed(b"\xff\x80"), BadRecord, PACKED_DATA, "pfn 0x3: runs that do not make up"
    ),
    "runs above a page": Refusal(
        PACKED + batch([3]), packed(b"\xff" * 9), BadRecord, PACKED_DATA, "pfn 0x3: runs that do not make up"
    ),
    # Tails
    "no context": Refusal(HVM_END, hvm_tail(b""), BadRecord, TAIL, "at least 1"),
    "context too long": Refusal(
        HVM_END, struct.pack("<QQQI", 1, 2, 3, RECORD_BYTES_MAX + 1), RecordTooLarge, TAIL, "at most"
    ),
    "too many unmapped pfns": Refusal(
        PV_END, struct.pack("<I", LEGACY_UNMAPPED_MAX + 1), RecordTooLarge, TAIL, "268435457 unmapped pfns"
    ),
    "xsave area of another size": Refusal(
        pv(VCPU + XCNT) + chunk(-9) + chunk(0) + bytes(4),
        CONTEXT + struct.pack("<QQ", 7, 39) + bytes(39 + PAGE),
        BadRecord,
        "legacy vcpu 0",
        "xsave area of 39 bytes instead of 40",
    ),
    "no vcpu 0": Refusal(
        PV + vcpu_info((1,)) + chunk(-9) + chunk(0) + bytes(4) + CONTEXT + bytes(PAGE),
        b"",
        RecordOrder,
        END_OF_TAIL,
        "no X86_PV_VCPU_BASIC of vcpu 0",
    ),
    "page table root that is none": Refusal(
        PV_END + bytes(4),
        patch(CONTEXT, {CR3_64: u64(6 << 12)}) + bytes(PAGE),
        BadRecord,
        "legacy vcpu 0",
        "cr3 frame 0x6 is NOTAB instead of L4TAB",
    ),
    "p2m frame that is none": Refusal(
        word(16) + extended_info(VCPU),
        word(7) + NAMED_PAGES + chunk(-9) + chunk(0) + bytes(4) + CONTEXT + bytes(PAGE),
        BadRecord,
        "legacy p2m frames",
        "p2m frame 0x7 is absent instead of NOTAB",
    ),
    # Device models
    "unknown signature": Refusal(
        HVM_END + hvm_tail(b"c"), b"DeviceModelRecord0003" + bytes(9), BadRecord, MODEL, "DeviceModelRecord0003"
    ),
    "device model too long": Refusal(
        HVM_END + hvm_tail(b"c"),
        b"RemusDeviceModelState" + struct.pack("<I", LIBXL_RECORD_BYTES_MAX),
        RecordTooLarge,
        MODEL,
        "at most",
    ),
    "no device model where one must be": Refusal(
        HVM_END + hvm_tail(b"c"), bytes(21), BadRecord, MODEL, "instead of a signature", {"has_device_model": True}
    ),
    "a device model that does not come": Refusal(
        HVM_END + hvm_tail(b"c"), b"", TruncatedStream, MODEL, "then nothing", {"has_device_model": True}
    ),
    "bytes behind a plain stream": Refusal(
        HVM_END + hvm_tail(b"c"), b"!", RecordOrder, "", "bytes behind the end", {"has_device_model": False}
    ),
    "another body behind a plain stream": Refusal(
        HVM_CHECKPOINT, batch([UNMAPPED_SLOT]), RecordOrder, "", "bytes behind the end", {"kind": StreamKind.PLAIN}
    ),
    "no chunk behind a checkpoint": Refusal(HVM_CHECKPOINT, b"garbage", BadRecord, BATCH, "at most 1024"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_it_is_refused_by_name(name: str) -> None:
    case = REFUSALS[name]
    with pytest.raises(WireError, match=case.message) as caught:
        read(case.before + case.bad, **case.options)
    assert type(caught.value) is case.error
    assert (caught.value.offset, caught.value.record) == (len(case.before) - case.behind, case.record)
    assert case.hint in caught.value.hint


@pytest.mark.parametrize("name", [name for name in REFUSALS if REFUSALS[name].error is not TruncatedStream])
def test_the_same_error_comes_for_ever(name: str) -> None:
    """Whatever is fed, and in whatever pieces."""
    case = REFUSALS[name]
    whole = case.before + case.bad
    decoder = LegacyDecoder(**{"bases": MemoryBases()} | dict(case.options))
    with pytest.raises(case.error) as caught:
        for at in range(0, len(whole), 31):
            list(decoder.feed(whole[at : at + 31]))
    for again in (lambda: decoder.feed(bytes(100)), decoder.drain, decoder.finish):
        with pytest.raises(case.error) as caught_again:
            list(again())
        assert caught_again.value is caught.value


@pytest.mark.parametrize("kind", [StreamKind.COLO, StreamKind.BACK_CHANNEL])
def test_there_were_no_other_kinds(kind: StreamKind) -> None:
    intake = Intake()
    intake.add(bytes(100))
    intake.take(48)
    with pytest.raises(BadHeader, match=f"never {kind.value}") as caught:
        LegacyDecoder(kind=kind, intake=intake)
    assert caught.value.offset == 48


@pytest.mark.parametrize("bits", [32, 64])
def test_a_guest_of_32_bits_has_smaller_contexts(bits: int) -> None:
    """Its pages are not those that a 64 bit context names."""
    info = extended_info(block(b"vcpu", vcpu_context_32()), bits)
    pages = batch([0, 6, 0xC0000002], bytes(3 * PAGE), bits)
    data = word(16, bits) + info + word(6, bits) + pages + chunk(-9) + chunk(0) + bytes(4)
    with pytest.raises(BadRecord, match="cr3 frame 0x7 is absent instead of L3TAB"):
        read(data + vcpu_context_32() + bytes(PAGE))
