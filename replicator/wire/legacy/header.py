"""What a legacy stream starts with: the guest's size, and of a PV guest its shape and its p2m frames.

    word      p2m size: how many frames the guest has
    PV only:  extended info   word of all ones, u32 length, blocks { name, u32 size, bytes }
              p2m frames      words, one for each frame of the guest's p2m list

A word is 4 or 8 bytes, as the toolstack was that wrote the stream, and nothing says which. But a guest has fewer
than 2^32 frames: when octets 4 to 7 are zero they are the upper half of a first word of 8 bytes. Nothing names the
kind of guest either: of an HVM guest the first chunk of the body follows at once, and none of those is all ones.

There is no magic, so any file may come here. What cannot be a legacy stream is refused as no stream at all.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Final

from replicator.errors import BadHeader
from replicator.limits import PFN_MAX
from replicator.units import PAGE_SIZE
from replicator.wire import layout
from replicator.wire.layout import LegacyChunk
from replicator.wire.legacy.source import Source, Steps
from replicator.wire.libxc import TABLE_BYTES_MAX
from replicator.wire.records import Place, PvInfo

NAME: Final = "legacy header"
#: Frames of the largest guest; a batch has no more bits for a pfn.
P2M_SIZE_MAX: Final = min(PFN_MAX + 1, 1 << layout.LEGACY_PFN_BITS)

#: Blocks of the extended info and the sizes that each may have.
_VCPU, _EXTENDED, _XSAVE = b"vcpu", b"extv", b"xcnt"
_BLOCK_SIZES: Final = {
    _VCPU: tuple(layout.VCPU_CONTEXT_BYTES.values()),
    _EXTENDED: (0,),
    _XSAVE: (layout.LEGACY_XSAVE_BLOCK.size,),
}
#: What a context of vcpu 0 tells by its size.
_SHAPES: Final = {size: width for width, size in layout.VCPU_CONTEXT_BYTES.items()}


@dataclass(frozen=True, slots=True)
class PvShape:
    """What the extended info says of a PV guest."""

    info: PvInfo
    #: The tail has an extended context of each vcpu.
    has_extended: bool
    #: Bytes of each vcpu's xsave area; None: the tail has none.
    xsave_bytes: int | None


@dataclass(frozen=True, slots=True)
class LegacyGuest:
    """The guest of a stream, and the toolstack that wrote it."""

    #: Of a word.
    bits: int
    p2m_size: int
    #: None of an HVM guest.
    pv: PvShape | None


def read_guest(source: Source, given_bits: int | None) -> Steps[LegacyGuest]:
    """Everything before the p2m frames. BadHeader when this is no legacy stream, or not one of a toolstack with
    `given_bits`."""
    place = source.begin(NAME)
    start = yield from source.peek(layout.LEGACY_SNIFF_BYTES)
    bits = 32 if any(start[4:]) else 64
    p2m_size = int.from_bytes(start[:4], "little")
    if not 0 < p2m_size <= P2M_SIZE_MAX:
        raise _no_stream(start, p2m_size, f", possible are 1 to {P2M_SIZE_MAX}", place)
    if given_bits not in (None, bits):
        raise _bad(
            f"a {given_bits}-bit toolstack is said to have written it, a {bits}-bit one by octets 4-7 "
            f"({start[4:].hex()})",
            place,
        )
    yield from source.take(layout.LEGACY_WORD[bits].size)
    pv = None
    if (yield from _is_pv(source, bits, start, p2m_size)):
        pv = yield from _read_extended_info(source, bits)
    return LegacyGuest(bits, p2m_size, pv)


def read_p2m_frames(source: Source, guest: LegacyGuest, width: int) -> Steps[array[int]]:
    """The pfns of the frames of a PV guest's p2m list; at most 4 MiB of them."""
    source.begin("legacy p2m frames")
    count = -(-guest.p2m_size // (PAGE_SIZE // width))
    data = yield from source.take(count * layout.LEGACY_WORD[guest.bits].size)
    return layout.word_array(data, guest.bits)


def _is_pv(source: Source, bits: int, start: bytes, p2m_size: int) -> Steps[bool]:
    """Whether the extended info of a PV guest follows; else a chunk must."""
    head = yield from source.peek(layout.LEGACY_CHUNK.size)
    if head == b"\xff" * len(head):
        word = yield from source.peek(layout.LEGACY_WORD[bits].size)
        return word == b"\xff" * len(word)
    (chunk,) = layout.LEGACY_CHUNK.unpack(head)
    lowest, highest = min(LegacyChunk).value, layout.LEGACY_BATCH_ENTRIES_MAX
    if not lowest <= chunk <= highest:
        detail = f" with a first chunk {chunk}, possible are {lowest} to {highest}"
        raise _no_stream(start, p2m_size, detail, source.place)
    return False


def _read_extended_info(source: Source, bits: int) -> Steps[PvShape]:
    place = source.begin("legacy extended info")
    yield from source.take(layout.LEGACY_WORD[bits].size)
    (left,) = yield from source.unpack(layout.LEGACY_LENGTH)
    blocks: dict[bytes, int] = {}
    while left:
        name, size, value = yield from _read_block(source, left, place)
        if name in blocks:
            raise _bad(f"a second block {_show(name)}", place)
        blocks[name] = value
        left -= layout.LEGACY_BLOCK.size + size
    return _make_shape(blocks, place)


def _read_block(source: Source, left: int, place: Place) -> Steps[tuple[bytes, int, int]]:
    """Name and size of a block, and what it says: the guest's width, or a number."""
    if left < layout.LEGACY_BLOCK.size:
        raise _bad(f"{left} bytes left for a block, at least {layout.LEGACY_BLOCK.size} are needed", place)
    name, size = yield from source.unpack(layout.LEGACY_BLOCK)
    sizes = _BLOCK_SIZES.get(name)
    if sizes is None:
        raise _bad(f"unknown block {_show(name)}", place)
    if size not in sizes:
        raise _bad(f"block {_show(name)} of {size} bytes instead of {' or '.join(map(str, sizes))}", place)
    if size > left - layout.LEGACY_BLOCK.size:
        raise _bad(f"block {_show(name)} of {size} bytes, {left} are left with its head", place)
    body = yield from source.take(size)
    return name, size, _SHAPES[size] if name == _VCPU else int.from_bytes(body, "little")


def _make_shape(blocks: dict[bytes, int], place: Place) -> PvShape:
    if _VCPU not in blocks:
        raise _bad('no block "vcpu"', place)
    width = blocks[_VCPU]
    levels = dict(layout.PV_WIDTHS)[width]
    xsave_bytes = None
    if _XSAVE in blocks:
        xsave_bytes = _judge_xsave(blocks[_XSAVE] - layout.LEGACY_XSAVE_HEADER.size, place)
    return PvShape(PvInfo(width, levels), _EXTENDED in blocks, xsave_bytes)


def _judge_xsave(size: int, place: Place) -> int:
    """An xsave area has no byte, or as many as a record of it may have."""
    least, most = layout.VCPU_XSAVE_BYTES_MIN, TABLE_BYTES_MAX - layout.VCPU.size
    if size and not least <= size <= most:
        raise _bad(f"xsave areas of {size} bytes, possible are 0 and {least} to {most}", place)
    return size


def _no_stream(start: bytes, p2m_size: int, detail: str, place: Place) -> BadHeader:
    return _bad(
        f"no stream: it starts with {start!r}; as a legacy stream it would be a guest of {p2m_size} pages{detail}",
        place,
        hint="streams of Xen 4.6 and later start with a magic of xl, libxl or libxc, older ones with the guest's "
        "size in pages",
    )


def _bad(message: str, place: Place, *, hint: str = "") -> BadHeader:
    return BadHeader(message, offset=place.offset, record=place.name, hint=hint)


def _show(name: bytes) -> str:
    return ascii(name.decode("latin-1"))
