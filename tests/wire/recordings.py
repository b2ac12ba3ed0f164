"""Streams that a real Xen wrote: small ones that are part of the project, and whole ones where they are at hand.

The whole ones lie beside the project, in ../shared/data, and not in it: they have 700 MB. Without them the same
promises are proven on the small ones, which have the same records.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pytest
import zstandard
from wire_vectors import load_stream, load_xl_header

from replicator.wire.layout import XL_HANDSHAKE_GO

WHOLE = Path(__file__).parents[3] / "shared" / "data" / "xen-4.17"


@dataclass(frozen=True, slots=True)
class Recording:
    """One stream and what is known of it."""

    name: str
    #: Whole checkpoints, and where the last one ends; None of a plain stream, which is complete.
    checkpoints: int | None = None
    last_whole_end: int = 0
    is_small: bool = True

    @property
    def guest(self) -> str:
        return self.name.partition(".")[0]

    def load(self) -> bytes:
        return _load_small(self) if self.is_small else _load_whole(self.name)


SMALL = (
    Recording("pv1.save"),
    Recording("pv1.migrate"),
    Recording("pvh1.save"),
    Recording("hvm1.save"),
    Recording("pv1.remus-50ms", 2, 548_496),
    Recording("pvh1.remus-200ms", 6, 76_555),
    Recording("hvm1.remus-50ms", 4, 85_361),
    Recording("pvh1.killed-in-round0", 0),
)
#: Counts and offsets as the README of the recordings has them.
BIG = (
    Recording("pv1.save", is_small=False),
    Recording("pv1.migrate", is_small=False),
    Recording("pvh1.save", is_small=False),
    Recording("hvm1.save", is_small=False),
    Recording("pv1.remus-50ms", 35, 169_932_096, is_small=False),
    Recording("pvh1.remus-200ms", 36, 184_185_667, is_small=False),
    Recording("hvm1.remus-50ms", 16, 120_159_417, is_small=False),
    Recording("pvh2.remus-killed-in-round0", 0, is_small=False),
)
RECORDINGS = [
    *(pytest.param(each, id=f"small {each.name}") for each in SMALL),
    *(
        pytest.param(
            each,
            id=each.name,
            marks=pytest.mark.skipif(
                not WHOLE.is_dir(), reason="the whole recordings are not here (../shared/data)"
            ),
        )
        for each in BIG
    ),
]


def _load_small(recording: Recording) -> bytes:
    header = load_xl_header(recording.guest)
    match recording.name:
        case "pv1.migrate":
            return header + load_stream("pv1.save") + XL_HANDSHAKE_GO
        case "pvh1.killed-in-round0":
            return header + load_stream("pvh1.save")[:20_000]
        case name:
            return header + load_stream(name)


@lru_cache(maxsize=1)
def _load_whole(name: str) -> bytes:
    with (WHOLE / f"{name}.zst").open("rb") as file:
        return zstandard.ZstdDecompressor().stream_reader(file).read()


def pieces_of(data: bytes | bytearray, size: int = 1 << 20) -> Iterator[memoryview]:
    """As a reader gives them."""
    view = memoryview(data)
    for start in range(0, len(view), size):
        yield view[start : start + size]
