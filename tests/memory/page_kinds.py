"""Pages of the kinds that guests have, for the encodings' tests."""

from __future__ import annotations

import random
from array import array
from typing import NamedTuple

from hypothesis import strategies as st

from replicator._native import lib
from replicator.memory import BaseCache, pfn_array
from replicator.units import PAGE_SIZE

#: The SIMD levels of this processor.
LEVELS = [level for level in range(8) if lib.rp_simd_levels() >> level & 1]
WORDS = (b"key:", b"value ", b"\0\0\0\0", b"0123456789", b"the quick brown fox ")


class Case(NamedTuple):
    """Pages with, where there is one, what was sent before of the same frame."""

    pages: list[bytes]
    bases: list[bytes | None]

    @property
    def body(self) -> bytes:
        return b"".join(self.pages)

    @property
    def pfns(self) -> array[int]:
        return pfn_array(range(len(self.pages)))

    def cache(self) -> BaseCache:
        cache = BaseCache(len(self.pages) + 1, len(self.pages) + 1)
        for pfn, base in enumerate(self.bases):
            if base is not None:
                cache.update(pfn_array([pfn]), base)
        return cache


def noise(seed: int, size: int = PAGE_SIZE) -> bytes:
    return random.Random(seed).randbytes(size)


def text(seed: int) -> bytes:
    chance = random.Random(seed)
    return b"".join(chance.choices(WORDS, k=PAGE_SIZE))[:PAGE_SIZE]


def changed(base: bytes, runs: list[tuple[int, int]], seed: int) -> bytes:
    """The page with other bytes in these runs (first, length)."""
    page = bytearray(base)
    chance = random.Random(seed)
    for first, length in runs:
        for at in range(first, min(first + length, PAGE_SIZE)):
            page[at] = base[at] ^ chance.randrange(1, 256)
    return bytes(page)


RUNS = st.lists(
    st.tuples(st.integers(0, PAGE_SIZE - 1), st.one_of(st.integers(1, 20), st.integers(1, PAGE_SIZE))),
    max_size=12,
)


@st.composite
def cases(draw: st.DrawFn, max_size: int = 6) -> Case:
    """Mixtures of zeros, equal, slightly changed, compressible and random pages, with and without bases."""
    pages: list[bytes] = []
    bases: list[bytes | None] = []
    for _ in range(draw(st.integers(0, max_size))):
        seed = draw(st.integers(0, 2**16))
        content = draw(st.sampled_from((bytes(PAGE_SIZE), text(seed), noise(seed))))
        bases.append(draw(st.sampled_from((None, content, text(seed + 1)))))
        pages.append(changed(content, draw(RUNS), seed))
    return Case(pages, bases)
