"""How a part of an epoch travels: as it is, or in fewer bytes that the far end turns into the same ones again.

    plain    the part
    blocks   the part in blocks of 4096 bytes (the last one filled up with zeros), encoded without bases
    pages    a PAGE_DATA record of plain pages: count, count pfns, then its pages, encoded against bases or without

An encoding belongs to the link. The rebuilt part is a piece of the epoch's stream, byte for byte, and what is staged,
recorded, counted and digested. How one page or block is encoded is memory/encodings.py's matter.
"""

from __future__ import annotations

from array import array
from typing import Final, NamedTuple

from replicator.errors import RemoteWireError
from replicator.limits import PART_BYTES_MAX
from replicator.units import PAGE_SIZE
from replicator.wire import layout
from replicator.wire.recording import page_data_header_bytes

PLAIN: Final = "plain"
BLOCKS: Final = "blocks"
PAGES: Final = "pages"

_NAME = "epoch-part"


class PageTable(NamedTuple):
    """The frames of an encoded PAGE_DATA record and their encoded pages, which point into the payload."""

    pfns: array[int]
    encoded: memoryview


def count_blocks(part_bytes: int) -> int:
    """Blocks that a part of so many bytes has."""
    return -(-part_bytes // PAGE_SIZE)


def pack_table(pfns: array[int]) -> bytes:
    """What stands before the encoded pages. Every frame is below 2^32 (PFN_MAX)."""
    return layout.CODED_PAGES.pack(len(pfns)) + layout.u32_bytes(pfns)


def split_pages(payload: memoryview, part_bytes: int) -> PageTable:
    """The table of a `pages` payload whose record has `part_bytes`. RemoteWireError when they do not agree."""
    head = layout.CODED_PAGES.size
    if len(payload) < head:
        raise RemoteWireError(f"{len(payload)} bytes of encoded pages have no count", record=_NAME)
    (count,) = layout.CODED_PAGES.unpack_from(payload)
    if not count or count * PAGE_SIZE > PART_BYTES_MAX:
        raise RemoteWireError(f"a part of {count} encoded pages", record=_NAME)
    wanted = page_data_header_bytes(count) + count * PAGE_SIZE
    if part_bytes != wanted:
        raise RemoteWireError(
            f"{count} encoded pages make {wanted} bytes, announced are {part_bytes}", record=_NAME
        )
    end = head + count * layout.U32_BYTES
    if len(payload) < end:
        raise RemoteWireError(f"{len(payload)} bytes end in a table of {count} frames", record=_NAME)
    return PageTable(layout.word_array(payload[head:end], 32), payload[end:])
