"""Mutations that know how an input is built: most of what they make is still a stream, so that the fuzzer gets
behind the first length that does not fit. libFuzzer's own mutations are used inside of records and, now and then,
on the whole input.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from typing import Any, Final

import legacy_maker as legacy
import msgpack
from harness import CONTROL_BYTES
from wire_vectors import RECORDS, load

from replicator.errors import WireError
from replicator.wire import layout
from replicator.wire.legacy import LegacyDecoder, MemoryBases, TmemPolicy
from replicator.wire.sniff import SNIFF_BYTES, StreamFormat, sniff

_XL, _LIBXL, _IMAGE = (
    layout.XL_MAGIC,
    layout.LIBXL_IDENT.to_bytes(8, "big"),
    layout.IMAGE_MARKER.to_bytes(8, "big"),
)
#: Numbers that hurt where a type, a length, a count or a frame stands.
_NASTY: Final = (
    *range(20), 0x7F, 0xFF, 0x1000, 0xFFFF, 0x100000, 1 << 20, (1 << 27) - 8, 1 << 27, (1 << 27) + 1, 1 << 28,
    0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 40, (1 << 52) - 1, 0x5 << 60, 0xF << 60, (1 << 63) - 1, (1 << 64) - 1,
)  # fmt: skip
_PAGES: Final = (bytes(legacy.PAGE), b"xen-3.".ljust(legacy.PAGE, b"\0"), b"\x55" * legacy.PAGE)
_V2_LIBRARY: Final = tuple(load(name) for name in RECORDS)
_LEGACY_LIBRARY: Final = (
    *(legacy.chunk(number) for number in (0, -1, -9, -13)),
    *(legacy.param(number, 5) for number in legacy.HVM_CHUNKS),
    legacy.vcpu_info((0,)),
    legacy.vcpu_info((0, 3)),
    legacy.tsc_info(1, 2, 3, 4),
    legacy.batch([1], _PAGES[0]),
    legacy.batch([2, 3]),
    legacy.chunk(-12, legacy.word(3) + b"\0\0\0"),
    legacy.chunk(-12, legacy.word(len(_PAGES[2]) + 1) + b"\x80" + _PAGES[2]),
    legacy.toolstack([legacy.region(1 << 20, 2 << 20, 4096, b"vga.vram\0")]),
    legacy.tmem(random.Random(1))[0][:200],
    legacy.hvm_tail(b"context"),
    *(legacy.device_model(each, b"state") for each in (legacy.DEVICE_MODEL, legacy.QEMU_DEVICE_MODEL)),
)
Blocks = list[bytes]


def mutate_stream(data: bytes, size_max: int, seed: int) -> bytes:
    """A custom mutator for inputs that hold a stream of any format."""
    rng = random.Random(seed)
    if rng.random() < 0.15:
        return _mutate(data, size_max)
    control, stream = data[:CONTROL_BYTES].ljust(CONTROL_BYTES, b"\0"), data[CONTROL_BYTES:]
    if rng.random() < 0.2:
        control = _mutate(control, CONTROL_BYTES).ljust(CONTROL_BYTES, b"\0")
    blocks = list(split(stream))
    steps = _LEGACY_STEPS if _is_legacy(stream) else _V2_STEPS
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if blocks:
            rng.choice(steps)(blocks, rng)
    return (control + b"".join(blocks))[:size_max]


def _mutate(data: bytes, size_max: int) -> bytes:
    import atheris

    mutated: bytes = atheris.Mutate(data, size_max)
    return mutated


# Blocks


@lru_cache(maxsize=64)
def split(stream: bytes) -> tuple[bytes, ...]:
    """A stream in headers and records, as far as it has them; what is none is the last block."""
    borders = _legacy_borders(stream) if _is_legacy(stream) else _v2_borders(stream)
    return tuple(stream[start:end] for start, end in pairwise(borders))


def _is_legacy(stream: bytes) -> bool:
    found = len(stream) >= SNIFF_BYTES and sniff(stream[:SNIFF_BYTES])
    return found in (StreamFormat.LEGACY_32, StreamFormat.LEGACY_64)


def _v2_borders(stream: bytes) -> list[int]:
    at, after_image = 0, False
    borders = [0]
    while at < len(stream):
        size = layout.DOMAIN_HEADER.size if after_image else _block_bytes(stream, at)
        after_image = not after_image and stream.startswith(_IMAGE, at)
        at = min(at + size, len(stream))
        borders.append(at)
    return borders


def _block_bytes(stream: bytes, at: int) -> int:
    if stream.startswith(_XL, at) and len(stream) >= at + layout.XL_HEADER.size:
        return layout.XL_HEADER.size + int(layout.XL_HEADER.unpack_from(stream, at)[4])
    if stream.startswith(_LIBXL, at):
        return layout.LIBXL_HEADER.size
    if stream.startswith(_IMAGE, at):
        return layout.IMAGE_HEADER.size
    if len(stream) < at + layout.RECORD_HEADER.size:
        return layout.RECORD_HEADER.size
    return layout.RECORD_HEADER.size + layout.padded(layout.RECORD_HEADER.unpack_from(stream, at)[1])


def _legacy_borders(stream: bytes) -> list[int]:
    decoder = LegacyDecoder(tmem=TmemPolicy.DROP, bases=MemoryBases())
    borders = {0, len(stream)}
    try:
        for start in range(0, len(stream), 128):
            for _ in decoder.feed(stream[start : start + 128]):
                borders.add(decoder.offset)
            borders.add(decoder.offset)
        for _ in decoder.finish():
            borders.add(decoder.offset)
    except WireError:
        pass
    return sorted(borders)


# Steps: each changes the blocks, of which there is at least one


def _drop(blocks: Blocks, rng: random.Random) -> None:
    del blocks[rng.randrange(len(blocks))]


def _repeat(blocks: Blocks, rng: random.Random) -> None:
    start = rng.randrange(len(blocks))
    end = min(start + rng.choice((1, 1, 2, 8)), len(blocks))
    blocks[end:end] = blocks[start:end]


def _move(blocks: Blocks, rng: random.Random) -> None:
    block = blocks.pop(rng.randrange(len(blocks)))
    blocks.insert(rng.randint(0, len(blocks)), block)


def _cut_off(blocks: Blocks, rng: random.Random) -> None:
    del blocks[rng.randint(1, len(blocks)) :]
    if rng.random() < 0.5:
        blocks[-1] = blocks[-1][: rng.randint(0, len(blocks[-1]))]


def _insert_v2(blocks: Blocks, rng: random.Random) -> None:
    blocks.insert(rng.randint(0, len(blocks)), rng.choice(_V2_LIBRARY))


def _insert_legacy(blocks: Blocks, rng: random.Random) -> None:
    blocks.insert(rng.randint(0, len(blocks)), rng.choice(_LEGACY_LIBRARY))


def _damage(blocks: Blocks, rng: random.Random) -> None:
    """libFuzzer's mutations in a window, at the head of a block more often than not."""
    index = rng.randrange(len(blocks))
    block = blocks[index]
    start = 0 if rng.random() < 0.6 else rng.randrange(len(block) + 1)
    window = block[start : start + rng.choice((4, 8, 16, 64))]
    mutated = _mutate(window, len(window) + 8)
    if rng.random() < 0.8:
        mutated = mutated[: len(window)].ljust(len(window), b"\0")
    blocks[index] = block[:start] + mutated + block[start + len(window) :]


def _put_number(blocks: Blocks, rng: random.Random) -> None:
    index = rng.randrange(len(blocks))
    block = bytearray(blocks[index])
    width = rng.choice((4, 8))
    at = rng.randrange(min(len(block), rng.choice((16, 64, 5200))) // 4 + 1) * 4
    number = rng.choice((*_NASTY, max(len(block) - 8, 0))) & (1 << 8 * width) - 1
    block[at : at + width] = number.to_bytes(width, "little")
    blocks[index] = bytes(block)


def _resize(blocks: Blocks, rng: random.Random) -> None:
    """Another body, and the length that it has."""
    index = rng.randrange(len(blocks))
    block = blocks[index]
    body = block[8:]
    size = rng.choice(
        (0, 1, 4, 8, 16, 32, max(len(body) - 8, 0), len(body) + 8, rng.randrange(len(body) + 9))
    )
    body = body[:size].ljust(size, b"\0")
    blocks[index] = block[:4] + struct.pack("<I", len(body)) + layout.pad(body)


def _change_entry(blocks: Blocks, rng: random.Random) -> None:
    """Another table of entries, with the pages that it needs."""
    found = [index for index, block in enumerate(blocks) if block.startswith(b"\1\0\0\0") and len(block) > 24]
    if not found:
        return
    chosen = rng.choice(found)
    count = int.from_bytes(blocks[chosen][8:12], "little")
    table = blocks[chosen][16 : 16 + 8 * min(count, 1024)]
    entries = [each for (each,) in struct.iter_unpack("<Q", table[: len(table) & -8])]
    fresh = rng.randrange(16) << 60 | rng.choice((*range(12), 0x3FF, 0x400, 0xF0000))
    match rng.randrange(4):
        case 0:
            entries.insert(rng.randint(0, len(entries)), fresh)
        case 1 if len(entries) > 1:
            del entries[rng.randrange(len(entries))]
        case 2:
            rng.shuffle(entries)
        case _:
            index = rng.randrange(len(entries) or 1)
            entries[index : index + 1] = [fresh]
    pages = b"".join(rng.choice(_PAGES) for each in entries if each >> 60 < 0xD)
    body = struct.pack("<II", len(entries), 0) + struct.pack(f"<{len(entries)}Q", *entries) + pages
    blocks[chosen] = struct.pack("<II", 1, len(body)) + body


_STEPS: Final = (_drop, _repeat, _move, _cut_off, _damage, _damage, _put_number, _put_number)
Step = Callable[[Blocks, random.Random], None]
_V2_STEPS: Final[tuple[Step, ...]] = (*_STEPS, _insert_v2, _insert_v2, _resize, _change_entry, _change_entry)
_LEGACY_STEPS: Final[tuple[Step, ...]] = (*_STEPS, _insert_legacy, _insert_legacy)


# Messages


def mutate_message(data: bytes, size_max: int, seed: int) -> bytes:
    """A custom mutator for messages: another value of a field, a field more or less."""
    rng = random.Random(seed)
    try:
        found = msgpack.unpackb(data, strict_map_key=False)
    except (ValueError, msgpack.UnpackException, msgpack.StackError, TypeError):
        found = None
    if not isinstance(found, dict | list) or not found or rng.random() < 0.3:
        return _mutate(data, size_max)
    key = rng.choice(list(found) if isinstance(found, dict) else range(len(found)))
    if rng.random() < 0.2:
        del found[key]
    else:
        found[key] = _mutate_value(found[key], rng)
    try:
        return bytes(msgpack.packb(found))[:size_max]
    except (ValueError, TypeError, OverflowError):
        return _mutate(data, size_max)


def _mutate_value(value: Any, rng: random.Random) -> Any:
    match value:
        case _ if rng.random() < 0.2:
            return rng.choice(
                (None, True, -1, 0, 1 << 63, 1.5, "", b"", [], {}, [[]], "\0\n\u202e", 17 * b"x")
            )
        case bool():
            return not value
        case int():
            return rng.choice((value + 1, value - 1, *_NASTY))
        case str():
            return rng.choice(
                (value + value, value[:-1], "hello", _mutate(value.encode(), 70).decode("latin-1"))
            )
        case bytes():
            return _mutate(value, len(value) + 1)
        case list() | dict() if value:
            key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
            value[key] = _mutate_value(value[key], rng)
        case list():
            value.append(1)
    return value
