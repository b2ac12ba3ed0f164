"""Damages to a stream that leave its length alone and can be undone."""

from __future__ import annotations

import random
from collections.abc import Callable

#: Numbers that hurt where a type, a length or a count stands.
_NASTY = (0, 1, 7, 8, 0x0E, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 27, (1 << 27) + 1)
#: Damages are likelier near the start, where headers and tables are.
_HEADS = (200, 4000, 20_000)


def damage_in_place(data: bytearray, rng: random.Random) -> Callable[[], None]:
    """One damage; the result takes it back."""
    head = min(rng.choice((*_HEADS, len(data))), len(data))
    choice = rng.randrange(3)
    if choice == 0:
        return _flip_bits(data, head, rng)
    if choice == 1:
        return _put(data, rng.randrange(head // 4) * 4, rng.choice(_NASTY).to_bytes(4, "little"))
    size = rng.choice((8, 16, 40, 4112))
    source = rng.randrange(head // 8) * 8
    return _put(data, rng.randrange(head // 8) * 8, bytes(data[source : source + size]))


def _put(data: bytearray, offset: int, value: bytes) -> Callable[[], None]:
    """Other bytes at an offset: a number, or what stands elsewhere."""
    value = value[: len(data) - offset]
    before = bytes(data[offset : offset + len(value)])
    data[offset : offset + len(value)] = value

    def undo() -> None:
        data[offset : offset + len(before)] = before

    return undo


def _flip_bits(data: bytearray, head: int, rng: random.Random) -> Callable[[], None]:
    flips = [(rng.randrange(head), 1 << rng.randrange(8)) for _ in range(rng.randint(1, 4))]

    def flip() -> None:
        for offset, bit in flips:
            data[offset] ^= bit

    flip()
    return flip
