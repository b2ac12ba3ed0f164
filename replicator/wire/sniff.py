"""Which format a stream has, told from its first bytes.

Every v2 format starts with eight bytes that no legacy stream can start with: that one's first number is a count
of pages. So what is none of the others is taken for legacy, and the legacy decoder says so when it is not.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from replicator.wire import layout


class StreamFormat(Enum):
    """The outermost format of a stream."""

    XL = "xl"
    LIBXL = "libxl"
    LIBXC_V2 = "libxc version 2"
    LIBXC_V3 = "libxc version 3"
    LEGACY_32 = "legacy, 32-bit toolstack"
    LEGACY_64 = "legacy, 64-bit toolstack"


#: Bytes that `sniff` needs.
SNIFF_BYTES: Final = 16
_MAGIC_BYTES: Final = 8
_LIBXL_MAGIC: Final = layout.LIBXL_IDENT.to_bytes(_MAGIC_BYTES, "big")
_LIBXC_MAGIC: Final = layout.IMAGE_MARKER.to_bytes(_MAGIC_BYTES, "big")
_VERSIONS: Final = {2: StreamFormat.LIBXC_V2, 3: StreamFormat.LIBXC_V3}


def sniff(start: bytes) -> StreamFormat:
    """The format of a stream that starts with these bytes, of which the first SNIFF_BYTES count (fewer when the
    stream has fewer). Which version a libxc stream has is only said of one that has a right header; a wrong one
    counts as the newest, whose decoder refuses it with the reason."""
    magic = start[:_MAGIC_BYTES]
    if layout.XL_MAGIC.startswith(magic):
        return StreamFormat.XL
    if magic == _LIBXL_MAGIC:
        return StreamFormat.LIBXL
    if magic == _LIBXC_MAGIC:
        version = int.from_bytes(start[12:16], "big")
        return _VERSIONS.get(version, StreamFormat.LIBXC_V3)
    # The count of pages is an unsigned long of the sending toolstack, and below 2^32.
    return StreamFormat.LEGACY_32 if any(start[4:8]) else StreamFormat.LEGACY_64
