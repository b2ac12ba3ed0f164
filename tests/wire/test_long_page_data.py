"""PAGE_DATA of any length: nothing of it is held, and it comes out as it went in."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator

import pytest
from memory_peak import peak_below
from wire_vectors import join

from replicator.errors import BadRecord
from replicator.limits import RECORD_BYTES_MAX
from replicator.units import PAGE_SIZE
from replicator.wire.any_decoder import AnyDecoder
from replicator.wire.records import Item, PageRun, PageTable
from replicator.wire.rewrite import Rewriter

HVM = join("libxl_header libxc_context image_header_v3 domain_header_hvm static_data_end")
MIB = 1 << 20
#: Pages of the longest record: 8 bytes of entry and 4096 of page each.
PAGES_MAX = (RECORD_BYTES_MAX - 8) // (8 + PAGE_SIZE)


def record_head(count: int, pages: int) -> bytes:
    return struct.pack("<IIII", 1, 8 + 8 * count + PAGE_SIZE * pages, count, 0)


def pieces_of_zeros(size: int) -> Iterator[bytes]:
    piece = bytes(MIB)
    for start in range(0, size, MIB):
        yield piece[: size - start]


def feed_all(decoder: AnyDecoder, pieces: Iterator[bytes]) -> Iterator[Item]:
    for piece in pieces:
        yield from decoder.feed(piece)


def test_the_longest_record_of_pages_costs_no_memory() -> None:
    decoder = AnyDecoder()
    list(decoder.feed(HVM))
    entries = array("Q", range(PAGES_MAX)).tobytes()
    with peak_below(4 * MIB):
        items = feed_all(decoder, iter([record_head(PAGES_MAX, PAGES_MAX), entries]))
        assert [len(item.entries) for item in items if isinstance(item, PageTable)] == [PAGES_MAX]
        runs = feed_all(decoder, pieces_of_zeros(PAGES_MAX * PAGE_SIZE))
        assert sum(len(item.entries) for item in runs if isinstance(item, PageRun)) == PAGES_MAX
    assert decoder.offset == len(HVM) + 16 + PAGES_MAX * (8 + PAGE_SIZE)


def test_the_longest_table_costs_no_memory() -> None:
    """16 million entries without a page, and among them a few with one."""
    count = (RECORD_BYTES_MAX - 8 - 3 * PAGE_SIZE) // 8
    decoder = AnyDecoder()
    list(decoder.feed(HVM))
    xtab = array("Q", [0xF << 60 | 5] * (MIB // 8))
    seen = 0
    with peak_below(6 * MIB):
        list(decoder.feed(record_head(count, 3)))
        left = count
        for index in range(count // len(xtab) + 1):
            piece = array("Q", xtab[: min(left, len(xtab))])
            left -= len(piece)
            if index < 3:
                piece[7] = index
            for item in decoder.feed(piece.tobytes()):
                assert isinstance(item, PageTable)
                assert item.first == seen
                seen += len(item.entries)
    assert seen == count
    runs = [item for item in decoder.feed(bytes(3 * PAGE_SIZE)) if isinstance(item, PageRun)]
    assert [list(run.entries) for run in runs] == [[0, 1, 2]]


def test_a_long_record_is_written_as_it_was_read() -> None:
    """Its table comes in pieces, each with entries of both kinds."""
    count = 200_000
    entries = array("Q", [pfn if pfn % 1000 == 0 else 0xF << 60 | pfn for pfn in range(count)])
    pages = b"".join(bytes([n]) * PAGE_SIZE for n in range(200))
    data = record_head(count, 200) + entries.tobytes() + pages
    decoder, rewriter = AnyDecoder(), Rewriter()
    written = b"".join(bytes(part) for item in decoder.feed(HVM + data) for part in rewriter.write(item))
    assert written == HVM + data


@pytest.mark.parametrize("pages", [0, 1, 3])
def test_a_length_that_does_not_fit_the_table_is_refused_with_its_last_piece(pages: int) -> None:
    """Two pages are named, the length has room for another number."""
    count = 100_000
    entries = array("Q", [0xF << 60 | pfn for pfn in range(count)])
    entries[3] = entries[90_000] = 1
    decoder = AnyDecoder()
    list(decoder.feed(HVM))
    with pytest.raises(BadRecord, match="instead of") as caught:
        list(decoder.feed(record_head(count, pages) + entries.tobytes()))
    assert (caught.value.offset, caught.value.record) == (len(HVM), "PAGE_DATA")
