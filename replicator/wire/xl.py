"""The header that `xl` puts in front of a save file or a migration: bytes to record and back.

48 bytes with flags, then optional data, which today is the length and the text of the guest's configuration.
An `xl` refuses mandatory flags that it does not know and passes over optional ones, whatever its own comments
say; so do we.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import NamedTuple

from replicator.errors import BadHeader, LocalWireError
from replicator.limits import XL_OPTIONAL_BYTES_MAX
from replicator.units import PAGE_SIZE
from replicator.wire import layout
from replicator.wire.records import XlHeader

_KNOWN_FLAGS = layout.XL_FLAG_JSON | layout.XL_FLAG_STREAM_V2
#: Frames below 4 GiB. An HVM guest has RAM on both sides of a hole that ends there.
_LOW_FRAMES = (4 << 30) // PAGE_SIZE


class XlHead(NamedTuple):
    """The 48 bytes before the optional data."""

    mandatory_flags: int
    optional_flags: int
    optional_bytes: int


def decode_head(data: memoryview, offset: int) -> XlHead:
    """The fixed part; raises BadHeader."""
    magic, byte_order, mandatory, optional, length = layout.XL_HEADER.unpack(data)
    if magic != layout.XL_MAGIC:
        raise _bad(f"magic {magic.hex()} instead of {layout.XL_MAGIC.hex()}", offset)
    if byte_order == layout.XL_BYTE_ORDER_SWAPPED:
        raise _bad("written by a big endian machine, which is not supported", offset)
    if byte_order != layout.XL_BYTE_ORDER:
        raise _bad(f"byte order mark {byte_order:#010x} instead of {layout.XL_BYTE_ORDER:#010x}", offset)
    if mandatory & ~_KNOWN_FLAGS:
        raise _bad(
            f"mandatory flags {mandatory:#x}, known are {_KNOWN_FLAGS:#x}",
            offset,
            hint="the stream was written by an xl that is newer than this reader",
        )
    if length > XL_OPTIONAL_BYTES_MAX:
        raise _bad(f"{length} bytes of optional data, at most {XL_OPTIONAL_BYTES_MAX} are allowed", offset)
    return XlHead(mandatory, optional, length)


def decode_optional_data(head: XlHead, data: memoryview, offset: int) -> XlHeader:
    """The whole header; raises BadHeader when the configuration does not fit the optional data."""
    if data:
        if len(data) < layout.XL_CONFIG.size:
            raise _bad(f"{len(data)} bytes of optional data, a configuration needs 4", offset)
        (length,) = layout.XL_CONFIG.unpack_from(data)
        room = len(data) - layout.XL_CONFIG.size
        if length > room:
            raise _bad(f"configuration of {length} bytes in {room} bytes of optional data", offset)
    flags = head.mandatory_flags
    return XlHeader(
        bool(flags & layout.XL_FLAG_JSON),
        bool(flags & layout.XL_FLAG_STREAM_V2),
        head.optional_flags,
        bytes(data),
    )


def make_header(config: bytes | None, *, is_json: bool) -> XlHeader:
    """The header of a libxl v2 stream with this configuration (None: without one)."""
    if config is None:
        return XlHeader(is_json, True, 0, b"")
    text = config + b"\0" if is_json else config
    return XlHeader(is_json, True, 0, layout.XL_CONFIG.pack(len(text)) + text)


def encode(header: XlHeader) -> bytes:
    """All bytes of the header. LocalWireError when no reader would take them."""
    flags = header.is_json * layout.XL_FLAG_JSON | header.is_stream_v2 * layout.XL_FLAG_STREAM_V2
    data = header.optional_data
    head = XlHead(flags, header.optional_flags, len(data))
    try:
        if len(data) > XL_OPTIONAL_BYTES_MAX:
            raise _bad(f"{len(data)} bytes of optional data, at most {XL_OPTIONAL_BYTES_MAX} are allowed", 0)
        decode_optional_data(head, memoryview(data), 0)
    except BadHeader as error:
        raise LocalWireError(f"may not be written: {error}") from None
    fixed = layout.XL_HEADER.pack(
        layout.XL_MAGIC, layout.XL_BYTE_ORDER, flags, header.optional_flags, len(data)
    )
    return fixed + data


def list_faults(header: XlHeader) -> Iterator[str]:
    """What a strict reader expects of a header that was decoded, and does not find."""
    if header.optional_flags:
        yield f"optional flags 0 (are {header.optional_flags:#x})"
    config = header.config
    if config is None:
        yield "a configuration"
    elif header.is_json and _parse_json(config) is None:
        yield "a configuration that is a JSON object"


def guest_pfn_limit(header: XlHeader) -> int | None:
    """One more than the highest pfn that an HVM guest with this JSON configuration can have; None when it does
    not tell. Source: libxl JSON, b_info.max_memkb; RAM that the hole displaces goes above 4 GiB."""
    parsed = _parse_json(header.config or b"") or {}
    build = parsed.get("b_info")
    memory_kib = build.get("max_memkb") if isinstance(build, dict) else None
    if not isinstance(memory_kib, int) or isinstance(memory_kib, bool) or memory_kib <= 0:
        return None
    return _LOW_FRAMES + memory_kib * 1024 // PAGE_SIZE


def _parse_json(text: bytes) -> dict[str, object] | None:
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def _bad(message: str, offset: int, *, hint: str = "") -> BadHeader:
    return BadHeader(message, offset=offset, record=XlHeader.NAME, hint=hint)
