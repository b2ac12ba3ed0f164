"""The Internet checksum (RFC 1071) and its change by a part of what it covers (RFC 1624)."""

from __future__ import annotations

import struct


def sum_words(data: bytes | bytearray | memoryview) -> int:
    """Of 16-bit words, not folded; an odd byte is the first of its word."""
    if len(data) % 2:
        data = bytes(data) + b"\0"
    return sum(struct.unpack(f"!{len(data) // 2}H", data))


def fold(total: int) -> int:
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def update_checksum(checksum: int, before_sum: int, after_sum: int) -> int:
    """`checksum` when words that summed up to `before_sum` now sum up to `after_sum`. A wrong one stays wrong."""
    return ~fold((~checksum & 0xFFFF) + (~fold(before_sum) & 0xFFFF) + after_sum) & 0xFFFF
