"""Encoded pages: each method, round trips against the reference, and bytes that are no encoded body."""

from __future__ import annotations

import errno
import os
from array import array
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from page_kinds import LEVELS, Case, cases, changed, noise, text

from replicator._native import ffi, lib
from replicator.errors import BadRecord, InvariantError
from replicator.memory import (
    BaseCache,
    EncodingStats,
    GuestLayout,
    GuestRam,
    PageMethod,
    decode_pages,
    encode_bound,
    encode_pages,
    pfn_array,
    reference,
)
from replicator.units import PAGE_SIZE

ZEROS = bytes(PAGE_SIZE)
ZERO, SAME, DELTA, LZ4, RAW = PageMethod


@pytest.fixture
def every_level() -> Iterator[list[int]]:
    before = lib.rp_simd_level()
    yield LEVELS
    lib.rp_simd_force(before)


def ram_with(bases: list[bytes | None]) -> GuestRam:
    """The secondary's RAM. Where the cache has no base the RAM has something else."""
    layout = GuestLayout.flat(len(bases) or 1)
    fd = os.memfd_create("bases")
    os.ftruncate(fd, layout.file_bytes)
    os.pwrite(fd, b"".join(base or noise(99) for base in bases), 0)
    ram = GuestRam(fd, layout, writable=False)
    os.close(fd)
    return ram


def decode(pfns: array[int], data: bytes | memoryview, ram: GuestRam | None) -> bytes:
    out = bytearray(b"\xee" * (len(pfns) * PAGE_SIZE))
    decode_pages(pfns, data, ram, out)
    return bytes(out)


def reference_decode(data: bytes, bases: list[bytes | None]) -> bytes:
    """ValueError or IndexError for what is no such body."""
    pages = reference.split_encoded(data, len(bases))
    return b"".join(reference.decode_page(method, piece, base) for (method, piece), base in zip(pages, bases))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases())
def test_pages_come_out_as_they_went_in(every_level: list[int], case: Case) -> None:
    cache = case.cache()
    bodies = []
    for level in every_level:
        lib.rp_simd_force(level)
        encoded = encode_pages(case.pfns, case.body, cache)
        with ram_with(case.bases) as ram:
            assert decode(case.pfns, encoded.data, ram) == case.body
        bodies.append(bytes(encoded.data))
    assert len(set(bodies)) == 1, "a level encodes otherwise than the others"
    assert reference_decode(bodies[0], case.bases) == case.body
    assert len(bodies[0]) <= encode_bound(len(case.pages))
    pages = reference.split_encoded(bodies[0], len(case.pages))
    for method in PageMethod:
        sizes = [len(piece) for number, piece in pages if number == method]
        assert encoded.stats.pages[method] == len(sizes)
        assert encoded.stats.data_bytes[method] == sum(sizes)


@settings(deadline=None)
@given(case=cases())
def test_without_bases_no_page_needs_one(case: Case) -> None:
    encoded = encode_pages(case.pfns, case.body)
    assert decode(case.pfns, encoded.data, None) == case.body
    assert encoded.stats.pages[SAME] == encoded.stats.pages[DELTA] == 0


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases())
def test_without_compression_pages_come_out_as_they_went_in_and_none_is_lz4(case: Case) -> None:
    encoded = encode_pages(case.pfns, case.body, case.cache(), compress=False)
    with ram_with(case.bases) as ram:
        assert decode(case.pfns, encoded.data, ram) == case.body
    assert encoded.stats.pages[PageMethod.LZ4] == 0
    assert reference_decode(bytes(encoded.data), case.bases) == case.body


def encode_one(page: bytes, base: bytes | None = None) -> tuple[PageMethod, bytes]:
    case = Case([page], [base])
    encoded = encode_pages(case.pfns, page, case.cache())
    ((method, data),) = reference.split_encoded(bytes(encoded.data), 1)
    return PageMethod(method), data


@pytest.mark.parametrize(
    ("page", "base", "method", "most"),
    [
        (ZEROS, None, ZERO, 0),
        (ZEROS, ZEROS, ZERO, 0),
        (ZEROS, noise(1), ZERO, 0),
        (noise(1), noise(1), SAME, 0),
        (changed(noise(1), [(7, 1)], 1), noise(1), DELTA, 2),
        (changed(noise(1), [(0, 1), (4095, 1)], 1), noise(1), DELTA, 6),
        (changed(noise(1), [(0, 3500)], 1), noise(1), DELTA, 3505),
        (text(1), None, LZ4, 1500),
        (text(1), noise(1), LZ4, 1500),
        (noise(1), None, RAW, PAGE_SIZE),
        (noise(1), noise(2), RAW, PAGE_SIZE),
    ],
)
def test_the_method_that_makes_it_small_is_taken(
    page: bytes, base: bytes | None, method: PageMethod, most: int
) -> None:
    taken, data = encode_one(page, base)
    assert taken is method
    assert len(data) <= most


def test_lz4_is_taken_in_place_of_a_larger_delta() -> None:
    base, page = text(1), text(2)
    method, data = encode_one(page, base)
    assert method is LZ4 and len(data) < len(reference.encode_delta(page, base))


#: Bytes before a run and bytes of it, around every change of form.
EDGES = (0, 1, 14, 15, 16, 142, 143, 144, 1000)


@pytest.mark.parametrize("skip", EDGES)
@pytest.mark.parametrize("length", [1, 14, 15, 16, 17, 142, 143, 144, 200])
def test_deltas_are_what_the_reference_makes(skip: int, length: int) -> None:
    base = noise(skip)
    runs = [(skip, length), (skip + length + 1, 2), (skip + length + 5, 1), (4095, 1)]
    page = changed(base, runs, length)
    assert encode_one(page, base) == (DELTA, reference.encode_delta(page, base))


@settings(deadline=None)
@given(runs=st.lists(st.tuples(st.integers(0, PAGE_SIZE - 1), st.integers(1, 9)), min_size=1, max_size=20))
def test_deltas_of_any_small_changes_are_what_the_reference_makes(runs: list[tuple[int, int]]) -> None:
    base = noise(len(runs))
    page = changed(base, runs, len(runs))
    assert encode_one(page, base) == (DELTA, reference.encode_delta(page, base))


def test_golden_bytes_of_each_method() -> None:
    base = bytes(range(256)) * 16
    page = bytearray(base)
    page[3:5] = b"\xaa\xbb"
    page[4000:4020] = b"\xcc" * 20
    # 16 literals "0123456789abcdef", then a match 16 back of 4080 - 5 bytes, then the last 5 as literals.
    block = b"\xff\x01" + b"0123456789abcdef" + b"\x10\x00" + b"\xff" * 15 + b"\xe7" + b"\x50" + b"bcdef"
    data = b"".join(
        (
            bytes.fromhex("05000000"),
            bytes.fromhex("0000 0020 1b40 2960 0090".replace("2960", f"{len(block):02x}60")),
            # Skip 3, run of 2; skip 15 + 0x7c + 128 * 30 = 4000 - 5, run of 15 + 5.
            bytes.fromhex("31aabb") + bytes.fromhex("ff 8c1f 04") + b"\xcc" * 20,
            block,
            noise(5),
        )
    )
    pages = [ZEROS, noise(4), bytes(page), b"0123456789abcdef" * 256, noise(5)]
    bases: list[bytes | None] = [None, noise(4), base, None, None]
    with ram_with(bases) as ram:
        assert decode(pfn_array(range(5)), data, ram) == b"".join(pages)
    encoded = encode_pages(pfn_array(range(5)), b"".join(pages), Case(pages, bases).cache())
    split = reference.split_encoded(bytes(encoded.data), 5)
    assert [method for method, _ in split] == list(PageMethod)
    ours = reference.split_encoded(data, 5)
    assert [*split[:3], split[4]] == [*ours[:3], ours[4]]


def test_an_empty_body_is_a_count_of_0() -> None:
    encoded = encode_pages(pfn_array(), b"", None)
    assert bytes(encoded.data) == bytes(4)
    assert encoded.stats == EncodingStats()
    assert decode(pfn_array(), encoded.data, None) == b""


def test_a_frame_may_come_twice() -> None:
    case = Case([noise(1), noise(1)], [noise(1)])
    encoded = encode_pages(pfn_array([0, 0]), case.body, case.cache())
    assert encoded.stats.pages[SAME] == 2
    with ram_with([noise(1)]) as ram:
        assert decode(pfn_array([0, 0]), encoded.data, ram) == case.body


def test_stats_add_up() -> None:
    encoded = encode_pages(pfn_array([1, 2]), ZEROS + noise(1))
    twice = encoded.stats + encoded.stats
    assert twice.pages == (2, 0, 0, 0, 2)
    assert twice.data_bytes == (0, 0, 0, 0, 2 * PAGE_SIZE)


def test_threads_may_encode_against_the_same_bases() -> None:
    bases = [text(seed) for seed in range(64)]
    pages = [changed(base, [(17 * seed, 9)], seed) for seed, base in enumerate(bases)]
    case = Case(pages, list(bases))
    cache = case.cache()
    with ThreadPoolExecutor(4) as pool:
        bodies = set(pool.map(lambda _: bytes(encode_pages(case.pfns, case.body, cache).data), range(40)))
    assert bodies == {bytes(encode_pages(case.pfns, case.body, cache).data)}


# Bytes that are no encoded body.


def body_of_each_method() -> tuple[bytes, list[bytes | None]]:
    """All but LZ4."""
    bases: list[bytes | None] = [ZEROS, noise(4), text(1), noise(5)]
    pages = [ZEROS, noise(4), changed(text(1), [(3, 2), (20, 30), (3000, 200)], 1), noise(6)]
    case = Case(pages, bases)
    return bytes(encode_pages(case.pfns, case.body, case.cache()).data), bases


def assert_same_verdict(data: bytes, bases: list[bytes | None], ram: GuestRam) -> None:
    pfns = pfn_array(range(len(bases)))
    try:
        expected = reference_decode(data, bases)
    except (ValueError, IndexError):
        with pytest.raises(BadRecord, match="encoded pages"):
            decode(pfns, data, ram)
    else:
        assert decode(pfns, data, ram) == expected


def test_every_cut_is_refused() -> None:
    data, bases = body_of_each_method()
    with ram_with(bases) as ram:
        for end in range(len(data)):
            with pytest.raises(BadRecord):
                decode(pfn_array(range(4)), data[:end], ram)
        with pytest.raises(BadRecord, match="4 pages: the table"):
            decode(pfn_array(range(4)), data + b"\0", ram)


def test_a_flip_of_any_bit_is_judged_as_the_reference_does() -> None:
    data, bases = body_of_each_method()
    head = len(data) - PAGE_SIZE + 8
    with ram_with(bases) as ram:
        for bit in range(8 * head):
            flipped = bytearray(data)
            flipped[bit // 8] ^= 1 << bit % 8
            assert_same_verdict(bytes(flipped), bases, ram)


@settings(deadline=None, max_examples=300)
@given(
    methods=st.lists(st.integers(0, 7), min_size=1, max_size=4),
    pieces=st.lists(st.one_of(st.binary(max_size=40), st.just(noise(1))), min_size=4, max_size=4),
    extra=st.binary(max_size=2),
)
def test_any_table_and_data_is_judged_as_the_reference_does(
    methods: list[int], pieces: list[bytes], extra: bytes
) -> None:
    methods = [method if method != LZ4 else DELTA for method in methods]
    bases: list[bytes | None] = [text(n) for n in range(len(methods))]
    table = b"".join((m << 13 | len(p)).to_bytes(2, "little") for m, p in zip(methods, pieces))
    data = len(methods).to_bytes(4, "little") + table + b"".join(pieces[: len(methods)]) + extra
    with ram_with(bases) as ram:
        assert_same_verdict(data, bases, ram)


@settings(deadline=None, max_examples=300)
@given(block=st.binary(min_size=1, max_size=60))
def test_bytes_that_are_no_lz4_block_are_refused_or_a_page(block: bytes) -> None:
    data = b"\1\0\0\0" + (LZ4 << 13 | len(block)).to_bytes(2, "little") + block
    try:
        page = decode(pfn_array([0]), data, None)
    except BadRecord:
        return
    assert page == reference.unpack_lz4(block)


@pytest.mark.parametrize("cut", [0, 1, 5, -6, -1])
def test_a_damaged_lz4_block_is_refused(cut: int) -> None:
    method, block = encode_one(text(3))
    assert method is LZ4
    damaged = block[:cut] if cut else block + b"\x10\x41"
    data = b"\1\0\0\0" + (LZ4 << 13 | len(damaged)).to_bytes(2, "little") + damaged
    with pytest.raises(BadRecord, match=r"page 0 \(frame 0x7\)"):
        decode(pfn_array([7]), data, None)


@pytest.mark.parametrize(
    ("index", "entry", "words"),
    [
        (1, 5 << 13, "a method that there is not"),
        (1, 7 << 13, "a method that there is not"),
        (0, ZERO << 13 | 1, "a length that it cannot have"),
        (0, SAME << 13 | 1, "a length that it cannot have"),
        (1, DELTA << 13, "a length that it cannot have"),
        (1, DELTA << 13 | PAGE_SIZE, "a length that it cannot have"),
        (1, LZ4 << 13, "a length that it cannot have"),
        (1, RAW << 13 | PAGE_SIZE - 1, "a length that it cannot have"),
        (1, RAW << 13 | PAGE_SIZE, "the table of lengths and the data differ"),
        (0, DELTA << 13 | 1, "cannot be decoded"),
    ],
)
def test_the_error_names_the_page_and_what_is_wrong(index: int, entry: int, words: str) -> None:
    entries = [ZERO << 13, ZERO << 13]
    entries[index] = entry
    data = b"\2\0\0\0" + b"".join(each.to_bytes(2, "little") for each in entries) + b"\xff"
    with ram_with([noise(1), noise(2)]) as ram, pytest.raises(BadRecord, match=words) as error:
        decode(pfn_array([0, 1]), data, ram)
    assert f"page {index} (frame {index:#x})" in str(error.value)
    assert error.value.hint


@pytest.mark.parametrize("pages", [0, 1, 3])
def test_a_body_of_another_number_of_pages_is_refused(pages: int) -> None:
    data = encode_pages(pfn_array([0, 1]), ZEROS * 2).data
    with pytest.raises(BadRecord, match=f"{pages} pages"):
        decode(pfn_array(range(pages)), data, None)


@pytest.mark.parametrize("page", [noise(1), changed(noise(1), [(5, 5)], 1)])
def test_pages_that_need_a_base_are_refused_without_ram(page: bytes) -> None:
    case = Case([ZEROS, page], [None, noise(1)])
    data = encode_pages(case.pfns, case.body, case.cache()).data
    with pytest.raises(BadRecord, match=r"page 1 \(frame 0x1\): it needs a base, and none"):
        decode(case.pfns, data, None)


@pytest.mark.parametrize("bad", [2, 2**40, 2**64 - 1])
def test_bases_of_frames_that_are_no_ram_are_refused(bad: int) -> None:
    data = b"\2\0\0\0" + b"\0\0" + (SAME << 13).to_bytes(2, "little")
    with ram_with([None, None]) as ram, pytest.raises(BadRecord, match=f"{bad:#x}.*no RAM of this guest"):
        decode(pfn_array([0, bad]), data, ram)


def test_another_base_gives_another_page_and_no_crash() -> None:
    page = changed(noise(1), [(5, 5)], 1)
    case = Case([page], [noise(1)])
    data = encode_pages(case.pfns, page, case.cache()).data
    with ram_with([noise(2)]) as ram:
        assert decode(case.pfns, data, ram) == changed_part(page, noise(2))


def changed_part(page: bytes, base: bytes) -> bytes:
    return base[:5] + page[5:10] + base[10:]


# Our own bugs.


def test_misuse_is_our_own_bug(make_ram: Callable[..., GuestRam]) -> None:
    with pytest.raises(InvariantError, match="differ in size"):
        encode_pages(pfn_array([1, 2]), ZEROS)
    with pytest.raises(InvariantError, match="differ in size"):
        decode_pages(pfn_array([1]), b"", None, bytearray(2 * PAGE_SIZE))
    ram, cache = make_ram(GuestLayout.flat(1)), BaseCache(1, 1)
    ram.close()
    cache.close()
    with pytest.raises(InvariantError, match="closed"):
        decode_pages(pfn_array([0]), b"", ram, bytearray(PAGE_SIZE))
    with pytest.raises(InvariantError, match="closed"):
        encode_pages(pfn_array([0]), ZEROS, cache)


def test_a_buffer_below_the_bound_and_too_many_pages_are_refused_unread() -> None:
    size, stats = ffi.new("uint64_t *"), ffi.new("struct rp_page_stats *")

    def encode(count: int, room: int) -> int:
        null = ffi.NULL
        return int(lib.rp_encode_pages(null, count, null, null, True, null, room, size, stats))

    assert encode(3, encode_bound(3) - 1) == -errno.ENOSPC
    assert encode(2**28 + 1, 2**63) == -errno.E2BIG
