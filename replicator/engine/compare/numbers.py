"""Arithmetic of 32-bit sequence numbers and timestamps (RFC 9293, 3.4; RFC 7323, 5.2)."""

from __future__ import annotations

from typing import Final

MASK: Final = 0xFFFF_FFFF
_HALF: Final = 0x8000_0000


def distance(start: int, end: int) -> int:
    """From `start` to `end` the shorter way round: -2^31 to 2^31 - 1."""
    return ((end - start + _HALF) & MASK) - _HALF


def is_at_or_after(one: int, other: int) -> bool:
    return distance(other, one) >= 0


def latest(one: int | None, other: int) -> int:
    return other if one is None or distance(one, other) > 0 else one
