"""Guests whose memory map changes: what is built from a stream is what the guest was, at every checkpoint."""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moving_guest import Memory, MovingGuest, Sender
from wire_vectors import RECORDS, join

from replicator.errors import RecordTooLarge, TruncatedStream
from replicator.limits import GUEST_STATE_BYTES_MAX
from replicator.stream.image import GuestImage, Pages
from replicator.stream.plain import plain_items
from replicator.stream.snapshot import GuestState, SnapshotBuilder
from replicator.units import PAGE_SIZE
from replicator.wire import StreamEncoder, StreamKind, decode_stream, encode_record, verify_stream
from replicator.wire.any_decoder import AnyDecoder
from replicator.wire.layout import DomainType, LibxlType, PageType
from replicator.wire.records import (
    CheckpointEnd,
    EmulatorXenstoreData,
    End,
    HvmContext,
    HvmParam,
    HvmParams,
    LibxlEnd,
    P2mFrames,
    PageData,
    Record,
    TscInfo,
)
from replicator.wire.rewrite import Rewriter

kinds = st.sampled_from(DomainType)


def memory_of(records: Iterable[Record]) -> Memory:
    """What a receiver that starts with nothing makes of the pages of these records."""
    memory: Memory = {}
    for record in records:
        if not isinstance(record, PageData):
            continue
        at = 0
        for entry in record.entries:
            kind, pfn = PageType(entry >> 60), entry & ((1 << 52) - 1)
            page = None
            if kind < PageType.BROKEN:
                page, at = record.pages[at : at + PAGE_SIZE], at + PAGE_SIZE
            memory[pfn] = (kind, page)
    return {pfn: page for pfn, page in memory.items() if page[0] is not PageType.XTAB}


def encode(records: Iterable[Record]) -> bytes:
    """As a receiver takes it: a p2m list that grows is not in the strict order."""
    return b"".join(map(encode_record, records))


def build(data: bytes, checkpoint: int | None = None, piece: int = 1 << 16) -> SnapshotBuilder:
    decoder, builder = AnyDecoder(), SnapshotBuilder(GuestImage(Pages()), checkpoint)
    for start in range(0, len(data), piece):
        for item in decoder.feed(data[start : start + piece]):
            builder.take(item)
            if builder.reached:
                return builder
    builder.finish()
    return builder


def squash(builder: SnapshotBuilder) -> bytes:
    assert builder.image is not None
    rewriter = Rewriter()
    return b"".join(
        bytes(part) for item in plain_items(builder.state, builder.image) for part in rewriter.write(item)
    )


@given(kinds, st.integers(8, 60), st.integers(0, 1 << 32))
@settings(max_examples=40, deadline=None)
def test_a_live_migration_arrives_as_the_guest_was(kind: DomainType, frames: int, seed: int) -> None:
    rng = random.Random(seed)
    sender = Sender(MovingGuest(kind, frames, rng), rng)
    encoder = StreamEncoder(StreamKind.PLAIN)
    data = b"".join(map(encoder.encode, sender.plain()))
    builder = build(data)
    written = squash(builder)
    assert verify_stream([written]).kind is StreamKind.PLAIN
    assert memory_of(decode_stream(written)) == sender.truth[-1]


@given(kinds, st.integers(8, 60), st.integers(0, 1 << 32), st.data())
@settings(max_examples=40, deadline=None)
def test_every_checkpoint_is_the_guest_at_that_moment(
    kind: DomainType, frames: int, seed: int, data: st.DataObject
) -> None:
    """And cut anywhere behind it, the stream has the last one that is whole."""
    rng = random.Random(seed)
    sender = Sender(MovingGuest(kind, frames, rng), rng)
    checkpoints = data.draw(st.integers(1, 4), "checkpoints")
    records = list(sender.remus(checkpoints))
    stream = encode(records)
    wanted = data.draw(st.integers(1, checkpoints), "wanted")
    built = build(stream, wanted)
    assert memory_of(decode_stream(squash(built), strict=True)) == sender.truth[wanted - 1]
    ends = [len(encode(records[: i + 1])) for i, r in enumerate(records) if r == CheckpointEnd()]
    cut = data.draw(st.integers(ends[0], len(stream)), "cut")
    whole = sum(end <= cut for end in ends)
    rest = build(stream[:cut])
    assert rest.checkpoints == whole
    assert memory_of(decode_stream(squash(rest), strict=True)) == sender.truth[whole - 1]


@pytest.mark.parametrize("kind", DomainType)
def test_records_of_a_round_that_breaks_off_are_forgotten(kind: DomainType) -> None:
    rng = random.Random(1)
    sender = Sender(MovingGuest(kind, 50, rng), rng)
    records = list(sender.remus(3))
    last_whole = max(i for i, r in enumerate(records[:-1]) if r == CheckpointEnd())
    stream = encode(records[:-2])
    times = [record for record in records[:last_whole] if isinstance(record, TscInfo)]
    assert build(stream).state.ordered_tail()[0] == times[-1]


def test_an_end_behind_a_checkpoint_throws_the_round_away() -> None:
    rng = random.Random(2)
    sender = Sender(MovingGuest(DomainType.HVM, 50, rng), rng)
    records = [*sender.remus(2)]
    first = next(i for i, r in enumerate(records) if r == CheckpointEnd())
    cut = [r for r in records[first + 1 :] if isinstance(r, PageData)]
    stream = encode([*records[: first + 1], *cut, End(), LibxlEnd()])
    builder = build(stream)
    assert builder.is_complete
    assert memory_of(decode_stream(squash(builder))) == sender.truth[0]


def test_pages_behind_verify_are_not_stored() -> None:
    start = "libxl_header libxc_context image_header_v3 domain_header_hvm static_data_end page_data_hvm "
    data = join(start + "verify page_data_qemu hvm_params hvm_context end emulator_context libxl_end")
    expected = memory_of(decode_records(start))
    assert memory_of(decode_stream(squash(build(data)))) == expected


def decode_records(names: str) -> list[Record]:
    """Of a stream that goes on."""
    return [RECORDS[name] for name in names.split()]


def test_xalloc_makes_sure_that_there_is_a_page_and_keeps_its_content() -> None:
    start = "libxl_header libxc_context image_header_v3 domain_header_hvm static_data_end"
    page = b"p" * PAGE_SIZE
    pages = [
        PageData(array("Q", [7, 0xE << 60 | 8]), page),
        PageData(array("Q", [0xE << 60 | 7, 0xF << 60 | 9, 0xE << 60 | 9]), b""),
    ]
    tail = decode_records("hvm_params hvm_context end libxl_end")
    stream = encode([*decode_records(start), *pages, *tail])
    assert memory_of(decode_stream(squash(build(stream)))) == {
        7: (PageType.NOTAB, page),
        8: (PageType.XALLOC, None),
        9: (PageType.XALLOC, None),
    }


def test_parameters_and_keys_count_one_by_one() -> None:
    """Xen's converter writes two records of parameters; a receiver sets those of both."""
    state = GuestState()
    for params in ({1: 10, 5: 50}, {5: 51, 33: 2}):
        state.take(HvmParams(tuple(map(HvmParam._make, params.items()))))
    assert state.ordered_tail() == [HvmParams((HvmParam(1, 10), HvmParam(5, 51), HvmParam(33, 2)))]
    for entries in (((b"a", b"1"), (b"b", b"2")), ((b"b", b"3"),)):
        state.take(EmulatorXenstoreData(2, 0, entries))
    assert state.device_model[LibxlType.EMULATOR_XENSTORE_DATA] == EmulatorXenstoreData(
        2, 0, ((b"a", b"1"), (b"b", b"3"))
    )


def test_lists_of_frames_grow_and_never_shrink() -> None:
    state = GuestState()
    for record in decode_records("x86_pv_info_64"):
        state.take(record)
    for first, last, frames in ((0, 1023, [10, 11]), (1024, 2047, [12, 13]), (0, 511, [20])):
        state.take(P2mFrames(first, last, array("Q", frames)))
    assert state.p2m == P2mFrames(0, 2047, array("Q", [20, 11, 12, 13]))


def test_what_is_held_of_a_state_is_bounded() -> None:
    state = GuestState()
    state.take(HvmContext(bytes(100 << 20)))
    state.take(HvmContext(bytes(101 << 20)))
    with pytest.raises(RecordTooLarge, match="of state together"):
        state.take(HvmContext(bytes(GUEST_STATE_BYTES_MAX + 1)))


def test_a_checkpoint_that_is_not_there_is_named() -> None:
    rng = random.Random(3)
    stream = encode(Sender(MovingGuest(DomainType.HVM, 20, rng), rng).remus(2))
    with pytest.raises(TruncatedStream, match="checkpoint 3 is asked, the stream has 2"):
        build(stream, 3)
    with pytest.raises(TruncatedStream, match="before its first whole checkpoint"):
        build(stream[:500])
