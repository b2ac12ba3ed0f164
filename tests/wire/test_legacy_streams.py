"""Legacy streams of every kind come out as what the guest was, however their bytes arrive."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import islice

import pytest
from legacy_maker import (
    DEVICE_MODEL,
    MATRIX,
    QEMU_DEVICE_MODEL,
    REMUS_DEVICE_MODEL,
    UNMAPPED_SLOT,
    Shape,
    batch,
    block,
    chunk,
    device_model,
    extended_info,
    hvm_tail,
    make_stream,
    param,
    region,
    toolstack,
    vcpu_info,
    word,
)
from legacy_reader import cut, read, read_pieces, replay
from wire_vectors import vcpu_context_64

from replicator.errors import RecordOrder, TruncatedStream
from replicator.units import PAGE_SIZE
from replicator.wire import StreamKind, decode_stream, encode_record, layout
from replicator.wire.faults import Strict
from replicator.wire.intake import Intake
from replicator.wire.layout import DomainType
from replicator.wire.legacy import LegacyDecoder, MemoryBases, TmemPolicy
from replicator.wire.page_data import PageJoiner
from replicator.wire.records import (
    CheckpointEnd,
    CheckpointRecord,
    DomainHeader,
    EmulatorContext,
    EmulatorXenstoreData,
    End,
    HvmContext,
    HvmParams,
    ImageHeader,
    LibxcContext,
    LibxlEnd,
    LibxlHeader,
    P2mFrames,
    PageData,
    PvInfo,
    Record,
    SharedInfo,
    StaticDataEnd,
    VcpuBasic,
    Verify,
    record_name,
)

HVM = next(shape for shape in MATRIX if str(shape) == "hvm-live-from-64")
PV = next(shape for shape in MATRIX if str(shape) == "pv64-live-from-64")
HVM_REMUS = replace(HVM, is_remus=True, has_last=False)
PV_REMUS = replace(PV, is_remus=True, has_last=False)
COMPRESSED = replace(HVM_REMUS, is_compressed=True)
TINY = {"frames": 12, "rounds": 2}

PAGES = batch([3], b"p" * PAGE_SIZE)
TAIL = hvm_tail(b"context")
#: A minimal plain HVM stream, but for its end.
BODY = word(16) + PAGES + chunk(-9) + chunk(0)


def names(records: list[Record]) -> str:
    return " ".join(map(record_name, records))


@pytest.mark.parametrize("shape", MATRIX, ids=str)
@pytest.mark.parametrize("seed", [1, 2])
def test_every_checkpoint_is_what_the_guest_was(shape: Shape, seed: int) -> None:
    stream = make_stream(replace(shape, seed=seed))
    assert replay(read(stream.data, judge=Strict())) == stream.checkpoints


@pytest.mark.parametrize("shape", MATRIX, ids=str)
def test_what_comes_out_is_a_v2_stream(shape: Shape) -> None:
    """Written as libxl v2 and read again by the strictest reader, it is still the same."""
    records = read(make_stream(shape).data)
    assert list(decode_stream(b"".join(map(encode_record, records)), strict=True)) == records


@pytest.mark.parametrize("shape", [HVM, COMPRESSED, PV], ids=str)
def test_a_guest_of_many_batches_is_whole(shape: Shape) -> None:
    stream = make_stream(replace(shape, frames=3000, batch_most=1100, rounds=2))
    assert replay(read(stream.data)) == stream.checkpoints


# How the bytes arrive


@pytest.mark.parametrize("shape", [replace(shape, **TINY) for shape in MATRIX], ids=str)
def test_bytes_one_by_one_give_the_same(shape: Shape) -> None:
    data = make_stream(shape).data
    assert list(read_pieces(cut(data, range(1, len(data))))) == read(data)


@pytest.mark.parametrize("shape", MATRIX, ids=str)
def test_any_cuts_give_the_same(shape: Shape) -> None:
    data = make_stream(shape).data
    expected = read(data)
    for seed in range(5):
        rng = random.Random(seed)
        offsets = [rng.randrange(len(data)) for _ in range(rng.choice([1, 10, 100]))]
        assert list(read_pieces(cut(data, offsets))) == expected


def test_a_dropped_iterator_loses_nothing() -> None:
    """Its bytes were copied, so its buffer may be used again."""
    data = make_stream(COMPRESSED).data
    piece = bytearray(data)
    decoder = LegacyDecoder(bases=MemoryBases())
    joiner = PageJoiner()
    records = [joiner.join(next(decoder.feed(piece)))]
    for _ in range(40):
        records += map(joiner.join, islice(decoder.feed(b""), 1))
        piece[:] = bytes(len(piece))
    records += map(joiner.join, decoder.finish())
    assert [record for record in records if record] == read(data)


@pytest.mark.parametrize("shape", MATRIX, ids=str)
@pytest.mark.parametrize("signature", [DEVICE_MODEL, None])
def test_a_stream_that_is_cut_ends_as_truncated_or_behind_a_checkpoint(
    shape: Shape, signature: bytes | None
) -> None:
    """At each border between chunks and in between, and at no other place it ends well."""
    stream = make_stream(replace(shape, signature=signature, frames=12))
    rng = random.Random(5)
    offsets = {*stream.borders, *stream.ends, *(rng.randrange(len(stream.data)) for _ in range(100))}
    for offset in sorted(offsets):
        if offset in stream.ends:
            assert len(replay(read(stream.data[:offset]))) == stream.ends[offset]
            continue
        with pytest.raises(TruncatedStream) as caught:
            read(stream.data[:offset])
        assert caught.value.offset is not None
        assert caught.value.offset <= offset


# Order


def test_the_records_of_a_plain_hvm_stream() -> None:
    records = read(BODY + TAIL + device_model(DEVICE_MODEL, b"state"))
    assert records == [
        LibxlHeader(converted=True),
        LibxcContext(),
        ImageHeader(3),
        DomainHeader(DomainType.HVM, 0, 1),
        StaticDataEnd(),
        PageData(layout.u64_array(word(3)), b"p" * PAGE_SIZE),
        HvmParams(((5, 5), (6, 6), (1, 1))),
        HvmContext(b"context"),
        End(),
        EmulatorContext(0, 0, b"state"),
        LibxlEnd(),
    ]


def test_the_order_of_a_pv_stream() -> None:
    records = read(make_stream(replace(PV, vcpus=(0,), has_oddities=False, batch_most=1000, rounds=1)).data)
    assert names(records) == (
        "libxl header LIBXC_CONTEXT image header domain header X86_PV_INFO STATIC_DATA_END X86_PV_P2M_FRAMES "
        "PAGE_DATA X86_TSC_INFO X86_PV_VCPU_BASIC X86_PV_VCPU_EXTENDED X86_PV_VCPU_XSAVE SHARED_INFO END libxl END"
    )
    assert PvInfo(8, 4) in records
    assert P2mFrames(0, PV.frames - 1, layout.u64_array(word(6))) in records


def test_the_order_of_a_checkpoint() -> None:
    records = read(make_stream(replace(HVM_REMUS, batch_most=1000, rounds=2, has_oddities=False)).data)
    checkpoint = (
        "PAGE_DATA X86_TSC_INFO HVM_PARAMS HVM_CONTEXT CHECKPOINT EMULATOR_XENSTORE_DATA EMULATOR_CONTEXT "
        "CHECKPOINT_END"
    )
    start = "libxl header LIBXC_CONTEXT image header domain header STATIC_DATA_END"
    assert names(records) == f"{start} {checkpoint} {checkpoint}"


# Where a stream or checkpoint ends


@pytest.mark.parametrize("signature", [DEVICE_MODEL, REMUS_DEVICE_MODEL, QEMU_DEVICE_MODEL])
@pytest.mark.parametrize("shape", [HVM, HVM_REMUS], ids=str)
def test_every_device_model_record_is_read(shape: Shape, signature: bytes) -> None:
    stream = make_stream(replace(shape, signature=signature))
    assert replay(read(stream.data)) == stream.checkpoints


def test_a_plain_pv_stream_is_over_behind_its_tail() -> None:
    decoder = LegacyDecoder()
    *_, last = decoder.feed(make_stream(PV).data)
    assert last == LibxlEnd()
    assert decoder.done
    assert list(decoder.finish()) == []


def test_a_plain_hvm_stream_with_a_device_model_is_over_behind_it() -> None:
    data = make_stream(HVM).data
    decoder = LegacyDecoder()
    *_, last = decoder.feed(data)
    assert last == LibxlEnd()
    assert (decoder.offset, decoder.pending) == (len(data), 0)


def test_a_plain_hvm_stream_without_a_device_model_is_over_with_its_bytes() -> None:
    decoder = LegacyDecoder()
    *_, last = decoder.feed(BODY + TAIL)
    assert last == End()
    assert not decoder.done
    assert list(decoder.finish()) == [LibxlEnd()]
    assert decoder.done


def test_whoever_knows_that_there_is_no_device_model_need_not_wait() -> None:
    decoder = LegacyDecoder(has_device_model=False)
    assert list(decoder.feed(BODY + TAIL))[-1] == LibxlEnd()


def test_bytes_behind_the_end_are_refused_or_taken() -> None:
    data = BODY + TAIL + device_model(DEVICE_MODEL, b"state")
    decoder = LegacyDecoder()
    list(decoder.feed(data))
    with pytest.raises(RecordOrder, match="bytes behind the end") as caught:
        list(decoder.feed(b"x"))
    assert caught.value.offset == len(data)
    decoder = LegacyDecoder()
    for _ in decoder.feed(data + b"ready"):
        if decoder.done:
            break
    assert decoder.take_rest() == b"ready"


@pytest.mark.parametrize("shape", [PV_REMUS, HVM_REMUS], ids=str)
def test_a_checkpoint_is_closed_as_soon_as_it_is_whole(shape: Shape) -> None:
    """Not only when the next one begins."""
    stream = make_stream(shape)
    decoder = LegacyDecoder()
    start = 0
    for end in sorted(stream.ends)[1 if shape.is_hvm else 0 :]:
        assert list(decoder.feed(stream.data[start:end]))[-1] == CheckpointEnd()
        assert decoder.grammar.may_end
        assert (decoder.offset, decoder.pending) == (end, 0)
        start = end


def test_a_checkpoint_without_a_device_model_waits_for_the_next_bytes() -> None:
    stream = make_stream(replace(HVM_REMUS, signature=None))
    first = min(stream.ends)
    decoder = LegacyDecoder()
    *_, record, _ = decoder.feed(stream.data[:first])
    assert record == CheckpointRecord()
    assert list(decoder.feed(stream.data[first : first + 3])) == []
    assert next(decoder.feed(stream.data[first + 3 :])) == CheckpointEnd()
    list(decoder.drain())
    assert list(decoder.finish()) == [CheckpointEnd()]


def test_a_later_checkpoint_without_its_device_model_does_not_count() -> None:
    """It was cut off: the first one had a record."""
    stream = make_stream(replace(HVM_REMUS, rounds=2))
    whole = max(end for end in stream.ends if end < len(stream.data))
    tail = stream.borders[-1]
    assert whole < tail
    decoder = LegacyDecoder()
    list(decoder.feed(stream.data[:tail]))
    with pytest.raises(TruncatedStream, match="legacy device model record"):
        list(decoder.finish())
    assert decoder.grammar.checkpoints == 1


@pytest.mark.parametrize(("behind", "checkpoints"), [(b"De", 0), (b"\x05\0\0", 1)])
def test_a_few_bytes_close_a_checkpoint_only_when_they_are_no_signature(
    behind: bytes, checkpoints: int
) -> None:
    """What they belong to is cut off in either case."""
    data = word(16) + PAGES + chunk(0) + TAIL
    decoder = LegacyDecoder()
    list(decoder.feed(data + behind))
    with pytest.raises(TruncatedStream) as caught:
        list(decoder.finish())
    assert caught.value.offset == len(data)
    assert decoder.grammar.checkpoints == checkpoints


def test_the_last_of_several_checkpoints_may_say_so() -> None:
    """END throws away what no checkpoint closed, so that one is closed too."""
    stream = make_stream(replace(HVM_REMUS, has_last=True))
    records = read(stream.data)
    assert names(records[-4:]) == "EMULATOR_CONTEXT CHECKPOINT_END END libxl END"
    assert replay(records) == stream.checkpoints


def test_a_plain_stream_may_leave_out_that_it_is_the_last() -> None:
    data = make_stream(replace(PV, has_last=False)).data
    assert read(data, kind=StreamKind.PLAIN)[-1] == LibxlEnd()
    assert read(data)[-1] == CheckpointEnd()


@pytest.mark.parametrize("kind", [None, StreamKind.PLAIN, StreamKind.REMUS])
def test_the_grammar_knows_what_kind_a_stream_is_of(kind: StreamKind | None) -> None:
    for shape, found in ((PV, StreamKind.PLAIN), (PV_REMUS, StreamKind.REMUS)):
        if kind in (None, found):
            decoder = LegacyDecoder(kind=kind)
            list(decoder.feed(make_stream(shape).data))
            assert decoder.grammar.kind is found


def test_offsets_count_from_the_start_of_what_was_around() -> None:
    intake = Intake()
    intake.add(b"some header" + word(16) + batch([16], b"p" * PAGE_SIZE))
    intake.take(11)
    decoder = LegacyDecoder(intake=intake)
    with pytest.raises(Exception, match="at offset 19"):
        list(decoder.drain())


# Peculiarities


@pytest.mark.parametrize("shape", [HVM, PV, COMPRESSED], ids=str)
def test_tmem_is_dropped_and_the_stream_stays_in_step(shape: Shape) -> None:
    stream = make_stream(replace(shape, has_tmem=True))
    assert replay(read(stream.data, tmem=TmemPolicy.DROP)) == stream.checkpoints
    decoder = LegacyDecoder(tmem=TmemPolicy.DROP, bases=MemoryBases())
    list(decoder.feed(stream.data))
    assert decoder.tmem_pages_dropped == stream.tmem_pages > 0


@pytest.mark.parametrize("extended", [True, False])
@pytest.mark.parametrize("xsave_bytes", [None, 0, 16, 832])
def test_every_extended_info_tells_what_the_tail_has(extended: bool, xsave_bytes: int | None) -> None:
    stream = make_stream(replace(PV, has_extended=extended, xsave_bytes=xsave_bytes))
    for truth in stream.checkpoints:
        truth.vcpus = {vcpu: (*state[:2], state[2] or None) for vcpu, state in truth.vcpus.items()}
    assert replay(read(stream.data)) == stream.checkpoints


@pytest.mark.parametrize("vcpus", [(0,), (0, 63), (0, 64), (0, 1, 127, 4095)])
def test_the_vcpus_that_are_online_are_in_the_tail(vcpus: tuple[int, ...]) -> None:
    stream = make_stream(replace(PV, vcpus=vcpus))
    assert replay(read(stream.data)) == stream.checkpoints


def pv_stream(body: bytes, vcpus: int = 1) -> bytes:
    """A plain PV stream of 16 frames whose body is the pages that it needs and this."""
    pages = batch([0, 6, 0xC0000002], bytes(PAGE_SIZE) * 3)
    start = word(16) + extended_info(block(b"vcpu", vcpu_context_64())) + word(6)
    return (
        start + pages + body + chunk(-9) + chunk(0) + bytes(4) + vcpu_context_64() * vcpus + b"s" * PAGE_SIZE
    )


def test_a_stream_that_names_no_vcpus_has_the_first() -> None:
    records = read(pv_stream(b""))
    assert [record.vcpu_id for record in records if isinstance(record, VcpuBasic)] == [0]
    assert SharedInfo(b"s" * PAGE_SIZE) in records


def test_bits_behind_the_highest_vcpu_mean_nothing() -> None:
    info = bytearray(vcpu_info((0, 1)))
    info[8] |= 0b1111_0000
    records = read(pv_stream(bytes(info), vcpus=2))
    assert [record.vcpu_id for record in records if isinstance(record, VcpuBasic)] == [0, 1]


def test_a_later_parameter_replaces_an_earlier_one_and_the_tail_comes_last() -> None:
    body = PAGES + param(-8, 1) + param(-3, 2) + param(-8, 3) + chunk(-9) + chunk(0)
    records = read(word(16) + body + TAIL)
    assert HvmParams(((17, 3), (12, 2), (5, 5), (6, 6), (1, 1))) in records


def test_unmapped_slots_go_and_a_batch_of_them_is_nothing() -> None:
    body = batch([UNMAPPED_SLOT] * 1024) + batch([UNMAPPED_SLOT, 0xF0000001, 5], b"p" * PAGE_SIZE)
    records = read(word(16) + body + chunk(-9) + chunk(0) + TAIL)
    found = [record for record in records if isinstance(record, PageData)]
    assert [list(record.entries) for record in found] == [[0xF << 60 | 1, 5]]


@pytest.mark.parametrize("bits", [32, 64])
def test_regions_become_xenstore_keys(bits: int) -> None:
    """The one without a name too, whose sender counts no byte of it."""
    regions = [region(0xF0000000, 0xABC, 0x1000, b"vga.vram\0", bits), region(1 << 40, 0, 16, b"", bits)]
    data = (
        word(16, bits) + batch([3], b"p" * PAGE_SIZE, bits) + toolstack(regions) + chunk(-9) + chunk(0) + TAIL
    )
    (keys,) = (record.entries for record in read(data) if isinstance(record, EmulatorXenstoreData))
    assert keys == (
        (b"physmap/f0000000/start_addr", b"abc"),
        (b"physmap/f0000000/size", b"1000"),
        (b"physmap/f0000000/name", b"vga.vram"),
        (b"physmap/10000000000/start_addr", b"0"),
        (b"physmap/10000000000/size", b"10"),
        (b"physmap/10000000000/name", b""),
    )


def test_a_toolstack_chunk_without_regions_is_nothing() -> None:
    assert "XENSTORE" not in names(read(word(16) + PAGES + toolstack([]) + chunk(-9) + chunk(0) + TAIL))
    assert "XENSTORE" not in names(read(pv_stream(toolstack([]))))


@pytest.mark.parametrize("kind", [None, StreamKind.PLAIN])
def test_verify_mode_is_told_once(kind: StreamKind | None) -> None:
    data = word(16) + PAGES + chunk(-1) + PAGES + chunk(-1) + chunk(-9) + chunk(0) + TAIL
    records = read(data, kind=kind)
    assert names(records).count("VERIFY") == 1
    assert records[6] == Verify()


def test_verify_mode_of_a_checkpointed_stream_is_not_told() -> None:
    """Pages that come again are stored again: they are the same."""
    stream = make_stream(replace(PV_REMUS, is_verified=True))
    records = read(stream.data, kind=StreamKind.REMUS)
    assert Verify() not in records
    assert replay(records) == stream.checkpoints


def test_a_guest_without_pages_may_be_said_by_a_64_bit_sender() -> None:
    assert read(word(16) + chunk(-9) + chunk(0) + TAIL)[-1] == LibxlEnd()


def test_the_word_size_may_be_given() -> None:
    for bits in (32, 64):
        stream = make_stream(replace(PV, sender_bits=bits))
        assert replay(read(stream.data, sender_bits=bits)) == stream.checkpoints
