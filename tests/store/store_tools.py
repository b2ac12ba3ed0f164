"""Makes epochs the way a primary sends them, and models what a store must hold after them."""

from __future__ import annotations

import random
import struct
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import xxhash

from replicator.memory.pages import GuestLayout
from replicator.store import Committed, ReplicaStore
from replicator.units import PAGE_SIZE

Pages = dict[int, bytes]

PROLOGUE = (
    struct.pack(">QII", 0x4C6962786C466D74, 2, 0)
    + struct.pack("<II", 1, 0)
    + struct.pack(">QIIHHI", (1 << 64) - 1, 0x58454E46, 3, 0, 0, 0)
    + struct.pack("<IHHII", 2, 12, 0, 4, 17)
)


def record(kind: int, body: bytes = b"") -> bytes:
    return struct.pack("<II", kind, len(body)) + body + bytes(-len(body) % 8)


def page_data(pages: Pages) -> bytes:
    pfns = array("Q", pages)
    return record(0x01, struct.pack("<II", len(pfns), 0) + pfns.tobytes() + b"".join(pages.values()))


def digest_stream(stream: bytes) -> bytes:
    """As wire/epoch_digest.py has it, page by page."""
    digest = xxhash.xxh3_128()
    while stream:
        size = len(PROLOGUE)
        if not stream.startswith(PROLOGUE):
            kind, length = struct.unpack_from("<II", stream)
            size = 8 + length + -length % 8
            if kind == 0x01:
                digest.update(digest_page_data(stream[:size]))
                stream = stream[size:]
                continue
        digest.update(stream[:size])
        stream = stream[size:]
    return digest.digest()


def digest_page_data(body: bytes) -> bytes:
    (count,) = struct.unpack_from("<I", body, 8)
    header = 16 + 8 * count
    pages = [body[at : at + PAGE_SIZE] for at in range(header, len(body), PAGE_SIZE)]
    kept = [page for page in pages if any(page)]
    mask = bytes(not any(page) for page in pages)
    return xxhash.xxh3_128_digest(body[:header] + mask + b"".join(kept))


def tail(state: bytes) -> bytes:
    return record(0x0E) + record(3, struct.pack("<II", 2, 0) + state) + record(4)


def page(*seed: int) -> bytes:
    return random.Random(repr(seed)).randbytes(64) * (PAGE_SIZE // 64)


@dataclass
class MadeEpoch:
    """An epoch as parts, with its totals and what it changes."""

    term: int
    epoch: int
    parts: list[bytes]
    pages: Pages
    state: bytes

    @property
    def stream(self) -> bytes:
        return b"".join(self.parts)

    @property
    def digest(self) -> bytes:
        return digest_stream(self.stream)


def make_epoch(
    term: int, epoch: int, pages: Pages, state: bytes, *, batch: int = 8, part_bytes: int = 0
) -> MadeEpoch:
    """One record a part, or cut anywhere into pieces of `part_bytes`."""
    numbers = list(pages)
    parts = [PROLOGUE] if epoch == 1 else []
    for start in range(0, len(numbers), batch):
        parts.append(page_data({pfn: pages[pfn] for pfn in numbers[start : start + batch]}))
    parts.append(tail(state))
    if part_bytes:
        stream = b"".join(parts)
        parts = [stream[at : at + part_bytes] for at in range(0, len(stream), part_bytes)]
    return MadeEpoch(term, epoch, parts, pages, state)


def send_parts(store: ReplicaStore, made: MadeEpoch, **begin: bool) -> None:
    store.begin(made.term, made.epoch, **begin)
    for index, payload in enumerate(made.parts):
        store.add_part(index, memoryview(payload))


def commit(store: ReplicaStore, made: MadeEpoch, **begin: bool) -> Committed:
    send_parts(store, made, **begin)
    return store.finish(len(made.parts), len(made.stream), made.digest)


@dataclass
class Shape:
    """A guest with a hole in its frames."""

    low: int = 24
    high: int = 40
    high_start: int = 100

    @property
    def layout(self) -> GuestLayout:
        return GuestLayout.with_hole(self.low + self.high, low_pages=self.low, high_pfn=self.high_start)

    @property
    def pfns(self) -> list[int]:
        return [*range(self.low), *range(self.high_start, self.high_start + self.high)]

    @property
    def ram_bytes(self) -> int:
        return (self.low + self.high) * PAGE_SIZE

    def full(self, *seed: int) -> Pages:
        return {pfn: page(*seed, pfn) for pfn in self.pfns}

    def ram_image(self, pages: Pages) -> bytes:
        return b"".join(pages[pfn] for pfn in self.pfns)

    def open(self, directory: Path, staging: int = 1 << 20) -> ReplicaStore:
        return ReplicaStore(directory, self.ram_bytes, self.layout, staging)


def merge(base: Pages, changes: Iterable[MadeEpoch]) -> Pages:
    result = dict(base)
    for made in changes:
        result.update(made.pages)
    return result
