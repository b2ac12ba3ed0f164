"""How parts travel: the table in front of encoded pages, and what a receiver refuses."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import LocalWireError, RemoteWireError
from replicator.limits import PART_BYTES_MAX, PFN_MAX
from replicator.units import PAGE_SIZE
from replicator.wire import session as s
from replicator.wire.coded_part import BLOCKS, PAGES, count_blocks, pack_table, split_pages
from replicator.wire.recording import page_data_header

PFNS = st.lists(st.integers(0, PFN_MAX), min_size=1, max_size=40)


def record_bytes(pages: int) -> int:
    return len(page_data_header(array("Q", range(pages)))) + pages * PAGE_SIZE


@given(PFNS, st.binary(max_size=100))
def test_a_table_comes_back_with_what_follows_it(pfns: list[int], encoded: bytes) -> None:
    frames = array("Q", pfns)
    table = split_pages(memoryview(pack_table(frames) + encoded), record_bytes(len(pfns)))
    assert table.pfns == frames
    assert table.encoded == encoded


def test_the_bytes_of_a_table() -> None:
    assert pack_table(array("Q", [1, 0x12345])) == bytes.fromhex("02000000 01000000 45230100")


@given(PFNS, st.data())
def test_a_table_that_is_cut_is_refused(pfns: list[int], data: st.DataObject) -> None:
    whole = pack_table(array("Q", pfns))
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(RemoteWireError):
        split_pages(memoryview(whole[:cut]), record_bytes(len(pfns)))


@given(st.binary(max_size=64), st.integers(1, PART_BYTES_MAX))
def test_any_bytes_give_a_table_or_a_named_error(payload: bytes, part_bytes: int) -> None:
    try:
        table = split_pages(memoryview(payload), part_bytes)
    except RemoteWireError as error:
        assert error.record == "epoch-part"
    else:
        assert record_bytes(len(table.pfns)) == part_bytes


@pytest.mark.parametrize("announced", [1, record_bytes(2) - 1, record_bytes(2) + 1, record_bytes(3)])
def test_a_table_must_agree_with_the_announced_size(announced: int) -> None:
    with pytest.raises(RemoteWireError, match="2 encoded pages make"):
        split_pages(memoryview(pack_table(array("Q", [1, 2]))), announced)


def test_a_count_beyond_a_part_is_refused_before_memory_is_taken() -> None:
    with pytest.raises(RemoteWireError, match="4294967295 encoded pages"):
        split_pages(memoryview(b"\xff" * 8), PART_BYTES_MAX)


@pytest.mark.parametrize(
    ("size", "blocks"), [(1, 1), (PAGE_SIZE, 1), (PAGE_SIZE + 1, 2), (10 * PAGE_SIZE, 10)]
)
def test_the_last_block_may_be_short(size: int, blocks: int) -> None:
    assert count_blocks(size) == blocks


def test_a_header_says_what_is_rebuilt_unless_nothing_is() -> None:
    coded = s.EpochPart(bytes(16), 1, 0, 100, PAGES, record_bytes(1), bytes(range(16)))
    assert s.decode(s.encode(coded)) == coded
    wrong = (
        s.EpochPart(bytes(16), 1, 0, 100, PAGES),
        s.EpochPart(bytes(16), 1, 0, 100, BLOCKS, PART_BYTES_MAX + 1),
        s.EpochPart(bytes(16), 1, 0, 100, "plain", 100),
        s.EpochPart(bytes(16), 1, 0, 100, "zip", 100),
    )
    for one in wrong:
        with pytest.raises(LocalWireError):
            s.encode(one)
