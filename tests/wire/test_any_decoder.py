"""One decoder for all formats: it tells them apart, keeps offsets of the whole file, and minds what follows."""

from __future__ import annotations

import struct

import pytest
from wire_vectors import STREAMS, join, load_stream, load_xl_header

from replicator.errors import BadHeader, RecordOrder, TruncatedStream, WireError
from replicator.limits import PFN_MAX
from replicator.wire import StreamKind, decode_stream
from replicator.wire.any_decoder import AnyDecoder, ReadOptions
from replicator.wire.faults import Strict
from replicator.wire.layout import XL_HANDSHAKE_GO
from replicator.wire.page_data import PageJoiner
from replicator.wire.records import CheckpointState, DirtyPfnList, Handshake, Record, XlHeader
from replicator.wire.sniff import StreamFormat, sniff

HVM = "image_header_v3 domain_header_hvm static_data_end "


def guest_of(stream: str) -> str:
    return stream.partition(".")[0]


def with_xl_header(stream: str) -> bytes:
    return load_xl_header(guest_of(stream)) + load_stream(stream)


def decode(
    data: bytes, size: int = 1 << 20, options: ReadOptions | None = None, *, strict: bool = True
) -> list[object]:
    """All of a stream, fed in pieces of this size out of one buffer; PAGE_DATA whole."""
    decoder = AnyDecoder(options, judge=Strict() if strict else None)
    joiner = PageJoiner()
    records: list[object] = []
    buffer = bytearray(size)
    for start in range(0, len(data), size):
        piece = data[start : start + size]
        buffer[: len(piece)] = piece
        for item in decoder.feed(memoryview(buffer)[: len(piece)]):
            record = joiner.join(item)
            if record is not None:
                records.append(record)
        buffer[:] = b"\xee" * size
    records.extend(decoder.finish())
    return records


@pytest.mark.parametrize("size", [1, 7, 4096, 1 << 20])
def test_xl_files_give_their_header_and_then_the_stream(size: int) -> None:
    stream = "hvm1.save"
    header, *records = decode(with_xl_header(stream), size)
    assert isinstance(header, XlHeader)
    assert records == list(decode_stream(load_stream(stream), strict=True))


@pytest.mark.parametrize("stream", STREAMS)
def test_streams_without_xl_are_recognised(stream: str) -> None:
    expected: list[Record] = []
    try:
        expected.extend(decode_stream(load_stream(stream), strict=True))
    except TruncatedStream:
        return
    assert decode(load_stream(stream)) == expected


FORMATS = {
    "xl": (load_xl_header("pv1"), StreamFormat.XL),
    "libxl": (join("libxl_header"), StreamFormat.LIBXL),
    "version 2": (join("image_header_v2"), StreamFormat.LIBXC_V2),
    "version 3": (join("image_header_v3"), StreamFormat.LIBXC_V3),
    "version 9": (b"\xff" * 8 + b"XENF" + struct.pack(">I", 9), StreamFormat.LIBXC_V3),
    "64-bit toolstack": (struct.pack("<QQ", 0x8000, (1 << 64) - 1), StreamFormat.LEGACY_64),
    "32-bit toolstack, PV": (struct.pack("<II", 0x8000, 0xFFFFFFFF) + bytes(8), StreamFormat.LEGACY_32),
    "32-bit toolstack, HVM": (struct.pack("<Ii", 0x8000, 1024) + bytes(8), StreamFormat.LEGACY_32),
}


@pytest.mark.parametrize("name", FORMATS)
def test_sniffing(name: str) -> None:
    start, expected = FORMATS[name]
    assert sniff(start[:16]) is expected


@pytest.mark.parametrize("size", [1, 40, 1 << 20])
def test_the_handshake_behind_a_migration_is_part_of_it(size: int) -> None:
    data = with_xl_header("pv1.save") + XL_HANDSHAKE_GO
    *_, last = decode(data, size)
    assert last == Handshake()
    decoder = AnyDecoder()
    list(decoder.feed(data))
    assert decoder.offset == len(data)
    assert decoder.bytes_behind == 0


def test_a_handshake_that_breaks_off_is_cut() -> None:
    data = with_xl_header("pv1.save")
    for size in (1, 20, 43):
        with pytest.raises(TruncatedStream) as caught:
            decode(data + XL_HANDSHAKE_GO[:size])
        assert (caught.value.offset, caught.value.record) == (len(data), "migration handshake")


@pytest.mark.parametrize("behind", [b"x", XL_HANDSHAKE_GO[:-1] + b"x", XL_HANDSHAKE_GO + b"x"])
def test_anything_else_behind_the_end_is_a_fault(behind: bytes) -> None:
    data = with_xl_header("pv1.save")
    decode(data + behind, strict=False)
    with pytest.raises(RecordOrder, match="behind the end") as caught:
        decode(data + behind)
    assert caught.value.offset in (len(data), len(data) + len(XL_HANDSHAKE_GO))


def test_there_is_no_handshake_without_an_xl_header() -> None:
    with pytest.raises(RecordOrder):
        decode(load_stream("pv1.save") + XL_HANDSHAKE_GO)


def test_offsets_count_from_the_first_byte() -> None:
    header = load_xl_header("hvm1")
    data = bytearray(header + load_stream("hvm1.save"))
    data[len(header) + 8] = 9  # version of the libxl header
    with pytest.raises(BadHeader) as caught:
        decode(bytes(data))
    assert (caught.value.offset, caught.value.record) == (len(header), "libxl header")


def test_a_header_that_announces_another_format_is_refused() -> None:
    header = bytearray(load_xl_header("pv1"))
    header[36] = 1  # a legacy stream follows
    with pytest.raises(BadHeader, match="libxl, the xl header announces legacy"):
        decode(bytes(header) + load_stream("pv1.save"))


def test_every_prefix_of_a_start_is_cut() -> None:
    """However short: no bytes, part of an xl header, part of its configuration, part of the next header."""
    data = with_xl_header("hvm1.save")
    for size in (*range(70), len(load_xl_header("hvm1")) - 1, *range(1330, 1370)):
        with pytest.raises(TruncatedStream):
            decode(data[:size])


def test_more_bytes_mend_a_cut() -> None:
    data = with_xl_header("hvm1.save")
    decoder = AnyDecoder()
    list(decoder.feed(data[:2000]))
    with pytest.raises(TruncatedStream):
        list(decoder.finish())
    list(decoder.feed(data[2000:]))
    assert list(decoder.finish()) == []


def test_other_errors_stay() -> None:
    decoder = AnyDecoder()
    with pytest.raises(BadHeader) as first:
        list(decoder.feed(b"\xff" * 8 + b"NOPE" + bytes(12)))
    with pytest.raises(BadHeader) as again:
        list(decoder.feed(b""))
    assert again.value is first.value


def test_the_configuration_bounds_the_guest() -> None:
    """A frame that 1 TiB would have is beyond 48 MiB and the hole."""
    stream = join("libxl_header libxc_context " + HVM) + struct.pack(
        "<IIIIQ", 1, 16, 1, 0, 0xF << 60 | PFN_MAX
    )
    list(AnyDecoder().feed(stream))
    with pytest.raises(WireError, match="the highest possible is"):
        list(AnyDecoder().feed(load_xl_header("hvm1") + stream))


# What has to be named


def wide_dirty_list(pfns: list[int]) -> bytes:
    """As Xen 4.18 and later write it: the header is a C structure of 16 bytes."""
    return struct.pack(f"<IIQ{len(pfns)}Q", 0x0F, 8 * len(pfns), 0, *pfns)


BACK = "checkpoint_state_ready checkpoint_state_resumed checkpoint_state_suspended"


def test_back_channels_of_newer_xen_are_read_on_demand() -> None:
    data = (join(BACK) + wide_dirty_list([7, 9])) * 2
    quirk = ReadOptions(kind=StreamKind.BACK_CHANNEL, wide_dirty_lists=True)
    lists = [item for item in decode(data, options=quirk) if isinstance(item, DirtyPfnList)]
    assert [list(each.pfns) for each in lists] == [[7, 9], [7, 9]]
    with pytest.raises(RecordOrder, match="CHECKPOINT_STATE is expected") as caught:
        decode(data, options=ReadOptions(kind=StreamKind.BACK_CHANNEL))
    assert "--quirk xen-4.18" in caught.value.hint


def test_a_wide_header_must_end_with_zeros() -> None:
    data = bytearray(join(BACK) + wide_dirty_list([7]))
    data[-9] = 1
    quirk = ReadOptions(kind=StreamKind.BACK_CHANNEL, wide_dirty_lists=True)
    with pytest.raises(WireError, match="16 byte header ends with"):
        decode(bytes(data), options=quirk)


def test_rounds_of_colo_are_told_from_those_of_remus() -> None:
    tail = "x86_tsc_info hvm_params hvm_context checkpoint checkpoint_end "
    rounds = (
        "libxl_header libxc_context " + HVM + tail + "checkpoint_state_new " + tail + "checkpoint_state_new"
    )
    records = decode(join(rounds))
    assert sum(isinstance(record, CheckpointState) for record in records) == 2
    decoder = AnyDecoder()
    list(decoder.feed(join(rounds)))
    assert decoder.grammar is not None
    assert decoder.grammar.kind is StreamKind.COLO
