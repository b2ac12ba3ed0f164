"""Page encodings beside a plain copy of the same bytes, by kind of page.

    python benchmarks/pages.py [--rounds 30] [--recording FILE]

Each kind is 16 MiB in parts of 512 pages, encoded against a cache of bases and decoded against a guest's RAM: with each
level of vectors that the processor has, and in two threads. With `--recording`, a file that `replicator primary --record`
wrote is read instead: what its epochs would have taken on the wire, by method.
"""

from __future__ import annotations

import argparse
import os
import random
from array import array
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tools import show, time_rounds

from replicator._native import lib
from replicator.limits import BATCH_PAGES_MAX
from replicator.memory import (
    BaseCache,
    EncodingStats,
    GuestLayout,
    GuestRam,
    PageMethod,
    decode_pages,
    encode_pages,
    pfn_array,
)
from replicator.store.epoch_stream import EpochStream
from replicator.units import PAGE_SIZE
from replicator.wire import layout, recording

PAGES = 4096
SIZE = PAGES * PAGE_SIZE
WORDS = (b"GET ", b"key:", b"value", b"00000000", b"\0\0\0\0\0\0\0\0", b"the quick brown fox ")
LEVELS = {
    lib.RP_SIMD_SCALAR: "scalar",
    lib.RP_SIMD_SSE2: "SSE2",
    lib.RP_SIMD_AVX2: "AVX2",
    lib.RP_SIMD_AVX512: "AVX-512",
    lib.RP_SIMD_NEON: "NEON",
}
#: Frames that a recording may name: 4 GiB with a hole.
RECORDED_FRAMES = 5 << 18


def make_text(chance: random.Random) -> bytes:
    return b"".join(chance.choices(WORDS, k=PAGE_SIZE // 4))[:PAGE_SIZE]


def change_some(page: bytes, chance: random.Random) -> bytes:
    """5 % of the bytes, in runs of 8 like counters and pointers."""
    changed = bytearray(page)
    for _ in range(PAGE_SIZE // 20 // 8):
        at = 8 * chance.randrange(PAGE_SIZE // 8)
        changed[at : at + 8] = chance.randbytes(8)
    return bytes(changed)


def make_kinds() -> Iterator[tuple[str, bytes, bytes]]:
    """Name, pages, and what was sent of them before."""
    chance = random.Random(1)
    text = b"".join(make_text(chance) for _ in range(PAGES))
    noise, other = chance.randbytes(SIZE), chance.randbytes(SIZE)
    starts = range(0, SIZE, PAGE_SIZE)
    yield "zero", bytes(SIZE), noise
    yield "equal", text, text
    yield "5 % changed", b"".join(change_some(text[at : at + PAGE_SIZE], chance) for at in starts), text
    yield "text-like, new", text, noise
    yield "random, new", noise, other


class Part(NamedTuple):
    pfns: array[int]
    body: memoryview
    encoded: memoryview
    out: bytearray


class World:
    """Both ends, with the pages of one kind."""

    def __init__(self, pages: bytes, bases: bytes) -> None:
        everything = pfn_array(range(PAGES))
        self.cache = BaseCache(PAGES, PAGES)
        self.cache.update(everything, bases)
        self.ram = make_ram(PAGES)
        self.ram.scatter(everything, bases)
        self.pool = ThreadPoolExecutor(2)
        self.stats = EncodingStats()
        self.parts = [self._make_part(first, pages) for first in range(0, PAGES, BATCH_PAGES_MAX)]

    def _make_part(self, first: int, pages: bytes) -> Part:
        end = first + BATCH_PAGES_MAX
        pfns = pfn_array(range(first, end))
        body = memoryview(pages)[first * PAGE_SIZE : end * PAGE_SIZE]
        encoded = encode_pages(pfns, body, self.cache)
        self.stats += encoded.stats
        out = bytearray(len(body))
        decode_pages(pfns, encoded.data, self.ram, out)
        if out != body:
            raise AssertionError("the pages are not what they were")
        return Part(pfns, body, encoded.data, out)

    def _encode_part(self, part: Part) -> None:
        encode_pages(part.pfns, part.body, self.cache)

    def _decode_part(self, part: Part) -> None:
        decode_pages(part.pfns, part.encoded, self.ram, part.out)

    def copy(self) -> None:
        for part in self.parts:
            part.out[:] = part.body

    def encode(self, level: int) -> None:
        lib.rp_simd_force(level)
        for part in self.parts:
            self._encode_part(part)

    def encode_in_threads(self) -> None:
        list(self.pool.map(self._encode_part, self.parts))

    def decode(self) -> None:
        for part in self.parts:
            self._decode_part(part)

    def decode_in_threads(self) -> None:
        list(self.pool.map(self._decode_part, self.parts))

    def close(self) -> None:
        self.pool.shutdown()
        self.cache.close()
        self.ram.close()


def make_ram(pages: int) -> GuestRam:
    fd = os.memfd_create("ram")
    os.ftruncate(fd, pages * PAGE_SIZE)
    ram = GuestRam(fd, GuestLayout.flat(pages))
    os.close(fd)
    return ram


def describe(stats: EncodingStats) -> str:
    share = sum(stats.data_bytes) / (sum(stats.pages) * PAGE_SIZE)
    methods = ", ".join(
        f"{stats.pages[method]} {method.name}" for method in PageMethod if stats.pages[method]
    )
    return f"{share:.2%} of the bytes ({methods})"


def measure(rounds: int) -> None:
    levels = [level for level in LEVELS if lib.rp_simd_levels() >> level & 1]
    for name, pages, bases in make_kinds():
        world = World(pages, bases)
        steps: dict[str, Callable[[], object]] = {"plain copy": world.copy}
        steps |= {f"encode, {LEVELS[level]}": partial(world.encode, level) for level in levels}
        steps |= {
            "encode, two threads": world.encode_in_threads,
            "decode": world.decode,
            "decode, two threads": world.decode_in_threads,
        }
        show(f"{name}: {describe(world.stats)}", time_rounds(steps, rounds), SIZE)
        world.close()


class Batch(NamedTuple):
    pfns: array[int]
    body: memoryview


def read_epochs(path: Path, ram: GuestRam) -> Iterator[list[Batch]]:
    """The pages of each epoch of a recording, record by record: what follows an epoch belongs to the next one."""
    rest = memoryview(path.read_bytes())[len(recording.session_prologue()) :]
    while rest:
        stream = EpochStream(1, ram)
        batches: list[Batch] = []
        while not stream.complete:
            _, length = layout.RECORD_HEADER.unpack_from(rest)
            size = layout.RECORD_HEADER.size + layout.padded(length)
            found, _ = stream.take(rest[:size])
            batches += (Batch(*each) for each in found)
            rest = rest[size:]
        yield batches


def encode_epoch(batches: list[Batch], cache: BaseCache) -> EncodingStats:
    stats = EncodingStats()
    for pfns, body in batches:
        stats += encode_pages(pfns, body, cache).stats
        cache.update(pfns, body)
    return stats


def measure_recording(path: Path) -> None:
    with make_ram(RECORDED_FRAMES) as ram:
        cache = BaseCache(RECORDED_FRAMES, RECORDED_FRAMES)
        epochs = [encode_epoch(batches, cache) for batches in read_epochs(path, ram)]
    print(f"first copy, {sum(epochs[0].pages)} pages: {describe(epochs[0])}")
    print(f"{len(epochs) - 1} epochs after it: {describe(sum(epochs[1:], EncodingStats()))}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--recording", type=Path)
    options = parser.parse_args()
    if options.recording is None:
        measure(options.rounds)
    else:
        measure_recording(options.recording)


if __name__ == "__main__":
    main()
