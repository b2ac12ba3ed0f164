"""Staging against the reference: records hold the right frames and pages, none is lost or doubled."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from memory_tools import page_of

from replicator.errors import InvariantError, NativeError
from replicator.limits import BATCH_PAGES_MAX, PART_BYTES_MAX
from replicator.memory import DirtyBitmap, GuestLayout, GuestRam, StagingBuffer, pfn_array, reference
from replicator.memory.staging import RECORD_BYTES_MAX, RECORD_BYTES_MIN, SLOT_BYTES
from replicator.units import PAGE_SIZE
from replicator.wire.recording import parse_page_data_header

MakeRam = Callable[..., GuestRam]
LAYOUT = GuestLayout.with_hole(3 * BATCH_PAGES_MAX, low_pages=600, high_pfn=5000)
SEGMENTS = LAYOUT.segments


@pytest.fixture
def big_ram(make_ram: MakeRam) -> GuestRam:
    """Each file page has content of its own."""
    made = make_ram(LAYOUT)
    os.pwrite(made.fd, b"".join(page_of(page + 1) for page in range(LAYOUT.pages)), 0)
    return made


def bitmap_of(pfns: list[int]) -> DirtyBitmap:
    bitmap = LAYOUT.new_bitmap()
    bitmap.set_pfns(pfn_array(pfns))
    return bitmap


def check_record(ram: GuestRam, part: memoryview) -> list[int]:
    """The part is one whole record with the guest's pages; return its frames."""
    pfns, offset = parse_page_data_header(part, LAYOUT.pfn_limit)
    content = os.pread(ram.fd, LAYOUT.file_bytes, 0)
    assert part[offset:] == reference.gather(content, SEGMENTS, pfns)
    assert part.readonly and len(part) <= PART_BYTES_MAX
    return pfns.tolist()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(
    chosen=st.sets(st.sampled_from(LAYOUT.pfns().tolist()), max_size=80),
    slots=st.integers(1, 3),
    bytes_max=st.integers(RECORD_BYTES_MIN, 20 * PAGE_SIZE),
)
def test_every_frame_once_whatever_the_sizes(
    big_ram: GuestRam, chosen: set[int], slots: int, bytes_max: int
) -> None:
    staging, bitmap = StagingBuffer(slots * SLOT_BYTES), bitmap_of(sorted(chosen))
    seen: list[int] = []
    while bitmap.count():
        parts = staging.copy_pages(big_ram, bitmap, bytes_max=bytes_max)
        assert parts and sum(map(len, parts)) <= bytes_max
        for part in parts:
            seen += check_record(big_ram, part)
            staging.release(part)
        assert bitmap.pfns().tolist() == sorted(chosen - set(seen))
    assert seen == sorted(chosen)
    assert staging.held_parts == 0 and staging.free_bytes == staging.capacity_bytes


def test_full_batches_and_a_remainder(big_ram: GuestRam) -> None:
    staging, bitmap = StagingBuffer(8 << 20), LAYOUT.new_bitmap()
    LAYOUT.mark_all(bitmap)
    bitmap.clear(5)
    parts = staging.copy_pages(big_ram, bitmap)
    assert [len(check_record(big_ram, part)) for part in parts] == [512, 512, 511]
    assert len(parts[0]) == RECORD_BYTES_MAX and bitmap.count() == 0


def test_an_epoch_larger_than_staging_goes_on_after_a_release(big_ram: GuestRam) -> None:
    staging, bitmap = StagingBuffer(2 * SLOT_BYTES + 5), LAYOUT.new_bitmap()
    LAYOUT.mark_all(bitmap)
    first, second = staging.copy_pages(big_ram, bitmap)
    assert staging.capacity_bytes == 2 * SLOT_BYTES and staging.free_bytes == 0
    assert bitmap.count() == BATCH_PAGES_MAX
    assert staging.copy_pages(big_ram, bitmap) == []
    kept = first.tobytes()
    staging.release(second)
    (third,) = staging.copy_pages(big_ram, bitmap)
    assert check_record(big_ram, third) == LAYOUT.pfns().tolist()[2 * BATCH_PAGES_MAX :]
    assert first == kept, "a part that is still held was written"
    assert bitmap.count() == 0


def test_a_held_part_does_not_follow_the_guest(big_ram: GuestRam) -> None:
    staging = StagingBuffer(SLOT_BYTES)
    (part,) = staging.copy_pages(big_ram, bitmap_of([7]))
    before = part.tobytes()
    big_ram.scatter(pfn_array([7]), bytes(PAGE_SIZE))
    assert part == before


def test_frames_that_are_no_ram_change_nothing(big_ram: GuestRam) -> None:
    staging = StagingBuffer(8 << 20)
    pfns = [*range(BATCH_PAGES_MAX), 700, 5001]
    bitmap = bitmap_of(pfns)
    with pytest.raises(NativeError, match="0x2bc"):
        staging.copy_pages(big_ram, bitmap)
    assert bitmap.pfns().tolist() == pfns
    assert staging.held_parts == 0 and staging.free_bytes == staging.capacity_bytes


def test_nothing_dirty_and_no_room_give_no_parts(big_ram: GuestRam) -> None:
    staging = StagingBuffer(SLOT_BYTES)
    assert staging.copy_pages(big_ram, bitmap_of([])) == []
    bitmap = bitmap_of([1])
    assert staging.copy_pages(big_ram, bitmap, bytes_max=RECORD_BYTES_MIN - 1) == []
    assert bitmap.count() == 1


def test_only_held_parts_can_be_released_and_only_once(big_ram: GuestRam) -> None:
    staging = StagingBuffer(SLOT_BYTES)
    (part,) = staging.copy_pages(big_ram, bitmap_of([1]))
    with pytest.raises(InvariantError):
        staging.release(part[:])
    staging.release(part)
    with pytest.raises(InvariantError):
        staging.release(part)


def test_staging_without_a_slot_is_refused() -> None:
    with pytest.raises(InvariantError):
        StagingBuffer(SLOT_BYTES - 1)
