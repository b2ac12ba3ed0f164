"""A hostile legacy stream gives items or a WireError, in time and memory in proportion to its bytes."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from legacy_maker import (
    MATRIX,
    PAGE,
    QEMU_DEVICE_MODEL,
    Shape,
    batch,
    chunk,
    device_model,
    hvm_tail,
    make_stream,
    param,
    word,
)
from legacy_reader import read
from memory_peak import peak_below
from wire_vectors import vcpu_context_64

from replicator.errors import RecordTooLarge, TruncatedStream, WireError
from replicator.limits import LIBXL_RECORD_BYTES_MAX
from replicator.wire.legacy import LegacyDecoder, MemoryBases, TmemPolicy

MIB = 1 << 20
MUTATIONS = 100
HVM = word(16)
BODY = HVM + batch([3], bytes(PAGE))
END = chunk(-9) + chunk(0) + hvm_tail(b"context")


def feed_much(decoder: LegacyDecoder, data: bytes, times: int) -> None:
    for _ in range(times):
        for _ in decoder.feed(data):
            pass


# Damage


def flip_bits(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.randint(1, 4)):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def write_number(data: bytearray, rng: random.Random) -> None:
    """As if an id, a length or a count were wrong."""
    at = rng.randrange(len(data))
    value = rng.choice(
        [0, 1, 7, 1024, 1025, 0x7FFFFFFF, 0x80000000, 1 << 28, *range((1 << 32) - 23, 1 << 32)]
    )
    data[at : at + 4] = struct.pack("<I", value)


def cut_out(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    del data[at : at + rng.choice([1, 4, 8, 24, 4096])]


def put_twice(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    data[at:at] = data[at : at + rng.choice([4, 8, 20, 4112])]


DAMAGES: list[Callable[[bytearray, random.Random], None]] = [flip_bits, write_number, cut_out, put_twice]


def damage(data: bytes, borders: list[int], rng: random.Random) -> bytes:
    """One damage, near a border between chunks more often than elsewhere."""
    start = rng.choice([0, rng.choice(borders), rng.choice(borders), rng.randrange(len(data))])
    part = bytearray(data[start : start + rng.choice([40, 400, len(data)])])
    behind = data[start + len(part) :]
    rng.choice(DAMAGES)(part, rng)
    return data[:start] + bytes(part) + behind


@pytest.mark.parametrize("shape", MATRIX, ids=str)
def test_damaged_streams_give_items_or_a_wire_error(shape: Shape) -> None:
    stream = make_stream(replace(shape, frames=16, has_tmem=True))
    refused = 0
    for seed in range(MUTATIONS):
        data = damage(stream.data, stream.borders, random.Random(seed))
        try:
            read(data, tmem=TmemPolicy.DROP)
        except WireError as error:
            refused += 1
            assert error.offset is not None
            assert error.offset <= len(data)
    assert refused > MUTATIONS // 5, "the damages do not damage"


@given(st.binary(max_size=300))
@settings(max_examples=300)
def test_any_bytes_behind_a_start_give_items_or_a_wire_error(data: bytes) -> None:
    for start in (b"", HVM, BODY, BODY + chunk(0) + hvm_tail(b"context")):
        try:
            read(start + data, tmem=TmemPolicy.DROP)
        except WireError as error:
            assert error.offset is not None


# Memory


def test_announced_bytes_cost_nothing_until_they_come() -> None:
    """The largest context, device model, p2m list and packed pages."""
    pv_start = word(1 << 28) + b"\xff" * 8 + struct.pack("<I", 0x1438) + b"vcpu" + struct.pack("<I", 0x1430)
    for data in (
        BODY + chunk(0) + struct.pack("<QQQI", 1, 2, 3, 128 * MIB),
        BODY + END + b"DeviceModelRecord0002" + struct.pack("<I", LIBXL_RECORD_BYTES_MAX - 8),
        pv_start + bytes(0x1430),
        BODY + chunk(-13) + chunk(0) + hvm_tail(b"c") + chunk(-12) + word((1 << 64) - 1),
    ):
        decoder = LegacyDecoder(bases=MemoryBases())
        with peak_below(2 * MIB):
            feed_much(decoder, data, 1)
        with pytest.raises(TruncatedStream):
            list(decoder.finish())


def test_unmapped_pfns_are_passed_over_in_constant_memory() -> None:
    info = b"vcpu" + struct.pack("<I", 0x1430) + vcpu_context_64()
    start = word(16) + b"\xff" * 8 + struct.pack("<I", len(info)) + info + word(6)
    pages = batch([0, 6, 0xC0000002], bytes(3 * PAGE))
    decoder = LegacyDecoder()
    with peak_below(2 * MIB):
        feed_much(decoder, start + pages + chunk(-9) + chunk(0) + struct.pack("<I", 32 * MIB // 8), 1)
        feed_much(decoder, bytes(MIB), 32)
        feed_much(decoder, vcpu_context_64() + bytes(PAGE), 1)
    assert decoder.done


def test_tmem_is_passed_over_in_constant_memory() -> None:
    """One page of 128 MiB, the largest that its flags can say."""
    head = struct.pack("<7I", 1, 1, 0xFFFFFFFF, 0, 0, 0, 0xFFFFFFFF)
    pool = struct.pack("<III16x", 0, 0xF1, 1) + bytes(28)
    decoder = LegacyDecoder(tmem=TmemPolicy.DROP)
    with peak_below(2 * MIB):
        feed_much(decoder, BODY + chunk(-5) + head + pool, 1)
        feed_much(decoder, bytes(MIB), 128)
        feed_much(decoder, b"\xff" * 4 + END, 1)
    list(decoder.finish())
    assert decoder.done
    assert decoder.tmem_pages_dropped == 1


def test_packed_pages_are_unpacked_in_constant_memory() -> None:
    """A thousand pages that announce their length together; bases that keep nothing."""

    class ZeroBases(MemoryBases):
        def keep_rebuilt(self, pfn: int, page: bytes) -> None: ...

    start = word(1 << 20) + batch([3], bytes(PAGE)) + chunk(-13) + chunk(0) + hvm_tail(b"c")
    batches = b"".join(batch(list(range(at, at + 1000))) for at in range(0, 16_000, 1000))
    decoder = LegacyDecoder(bases=ZeroBases())
    feed_much(decoder, start, 1)
    page = b"\x80" + bytes(PAGE)
    with peak_below(4 * MIB):
        feed_much(decoder, batches + chunk(-12) + word(len(page) * 16_000), 1)
        feed_much(decoder, page * 100, 160)
    assert list(decoder.feed(chunk(0))) == []


def test_the_device_model_that_reaches_to_the_end_is_bounded() -> None:
    decoder = LegacyDecoder()
    feed_much(decoder, BODY + END + device_model(QEMU_DEVICE_MODEL, b""), 1)
    with pytest.raises(RecordTooLarge, match="legacy device model record"):
        feed_much(decoder, bytes(4 * MIB), 17)


# Time


@pytest.mark.parametrize(
    "piece", [chunk(-9), param(-3, 1), chunk(-2, bytes(12)), chunk(-18, struct.pack("<III", 8, 1, 0))]
)
def test_many_small_chunks_in_one_piece_take_linear_time(piece: bytes) -> None:
    """And leave nothing behind."""
    decoder = LegacyDecoder()
    data = BODY + piece * 20_000
    feed_much(decoder, data, 1)
    assert decoder.pending == 0


def test_entries_that_wait_make_the_others_no_slower() -> None:
    """Half a million of them, while batches of one come and go."""
    decoder = LegacyDecoder(bases=MemoryBases())
    start = word(1 << 20) + batch([3], bytes(PAGE)) + chunk(-13) + chunk(0) + hvm_tail(b"c")
    waiting = b"".join(batch(list(range(at, at + 1024))) for at in range(0, 1 << 19, 1024))
    feed_much(decoder, start + waiting, 1)
    feed_much(decoder, (batch([3]) + chunk(-12, word(1) + b"\0")) * 1000, 10)
    assert decoder.pending == 0


def test_a_large_thing_that_comes_byte_by_byte_takes_linear_time() -> None:
    decoder = LegacyDecoder()
    feed_much(decoder, BODY + chunk(0) + struct.pack("<QQQI", 1, 2, 3, MIB), 1)
    feed_much(decoder, b"x", 100_000)
    assert decoder.pending > 100_000
