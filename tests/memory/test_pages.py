"""Page copies against their reference, through a layout with a hole."""

from __future__ import annotations

import errno
import os
from array import array
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from memory_tools import page_of

from replicator.errors import GuestError, InvariantError, NativeError
from replicator.memory import GuestLayout, GuestRam, Segment, pfn_array, reference, zero_mask
from replicator.units import PAGE_SIZE

MakeRam = Callable[..., GuestRam]


def fill(ram: GuestRam) -> bytes:
    """Give each file page content of its own; return the whole file."""
    content = b"".join(page_of(page + 1) for page in range(ram.layout.file_bytes // PAGE_SIZE))
    os.pwrite(ram.fd, content, 0)
    return content


def read_file(ram: GuestRam) -> bytes:
    return os.pread(ram.fd, ram.layout.file_bytes, 0)


@st.composite
def layouts(draw: st.DrawFn) -> GuestLayout:
    """Up to four segments with gaps, by frame and by file page."""
    segments: list[Segment] = []
    pfn = file_page = 0
    for _ in range(draw(st.integers(1, 4))):
        pfn += draw(st.integers(0, 3))
        file_page += draw(st.integers(0, 2))
        pages = draw(st.integers(1, 5))
        segments.append(Segment(pfn, file_page, pages))
        pfn, file_page = pfn + pages, file_page + pages
    return GuestLayout(segments)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data(), layout=layouts())
def test_gather_and_scatter_match_the_reference(
    make_ram: MakeRam, data: st.DataObject, layout: GuestLayout
) -> None:
    with make_ram(layout) as ram:
        model = bytearray(fill(ram))
        pfns = data.draw(st.lists(st.sampled_from(layout.pfns().tolist()), max_size=12))
        body = bytearray(len(pfns) * PAGE_SIZE)
        ram.gather(pfn_array(pfns), body)
        assert body == reference.gather(model, layout.segments, pfns)
        update = b"".join(page_of(1000 + index) for index in range(len(pfns)))
        ram.scatter(pfn_array(pfns), update)
        reference.scatter(model, layout.segments, pfns, update)
        assert read_file(ram) == model


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(places=st.lists(st.one_of(st.none(), st.integers(0, PAGE_SIZE - 1)), min_size=1, max_size=8))
def test_zero_pages_are_found(make_ram: MakeRam, places: list[int | None]) -> None:
    """One byte anywhere in a page makes it a page that is not zero."""
    body = bytearray(len(places) * PAGE_SIZE)
    for page, place in enumerate(places):
        if place is not None:
            body[page * PAGE_SIZE + place] = 1 << (place % 8)
    expected = bytes(place is None for place in places)
    with make_ram(GuestLayout.flat(len(places))) as ram:
        ram.scatter(ram.layout.pfns(), body)
        assert ram.zero_mask(ram.layout.pfns()) == zero_mask(body) == reference.zero_mask(body) == expected
        assert ram.is_zero(0) == (places[0] is None)


def test_frames_above_the_hole_live_at_lower_file_pages(ram: GuestRam, layout: GuestLayout) -> None:
    fill(ram)
    assert (layout.pages, layout.pfn_limit, layout.file_bytes) == (256, 1064, 256 * PAGE_SIZE)
    assert layout.file_page(191) == 191 and layout.file_page(1000) == 192
    assert ram.read_page(1063) == page_of(256)
    assert layout.pfns().tolist() == [*range(192), *range(1000, 1064)]


@pytest.mark.parametrize("bad", [192, 999, 1064, 2**63, 2**64 - 1])
def test_a_frame_that_is_no_ram_refuses_the_whole_copy(ram: GuestRam, bad: int) -> None:
    before = fill(ram)
    pfns = pfn_array([0, 1000, bad, 1])
    out = bytearray(b"x" * (4 * PAGE_SIZE))
    for refused in (
        lambda: ram.scatter(pfns, bytes(4 * PAGE_SIZE)),
        lambda: ram.gather(pfns, out),
        lambda: ram.zero_mask(pfns),
        lambda: ram.layout.file_page(bad),
    ):
        with pytest.raises(NativeError, match=f"{bad:#x}") as error:
            refused()
        assert error.value.code == -errno.ERANGE
    assert read_file(ram) == before
    assert out == b"x" * (4 * PAGE_SIZE)


def test_undo_brings_back_what_scatter_overwrote(ram: GuestRam) -> None:
    before = fill(ram)
    pfns = pfn_array([5, 1002, 7])
    undo = bytearray(3 * PAGE_SIZE)
    ram.save_undo(pfns, undo)
    ram.scatter(pfns, bytes(3 * PAGE_SIZE))
    assert read_file(ram) != before
    ram.scatter(pfns, undo)
    assert read_file(ram) == before


def test_bodies_of_a_wrong_size_are_our_own_bug(ram: GuestRam) -> None:
    with pytest.raises(InvariantError):
        ram.gather(pfn_array([1, 2]), bytearray(2 * PAGE_SIZE - 1))
    with pytest.raises(InvariantError):
        ram.scatter(pfn_array([1]), bytes(PAGE_SIZE + 1))
    with pytest.raises(InvariantError):
        zero_mask(bytes(PAGE_SIZE + 1))


def test_lists_of_frames_with_other_items_are_our_own_bug(ram: GuestRam) -> None:
    """The native core would read as many 64-bit items as the list has small ones."""
    for code in "BHI":
        with pytest.raises(InvariantError, match="64-bit"):
            ram.check_frames(array(code, [1, 2, 3]))
        with pytest.raises(InvariantError, match="64-bit"):
            ram.layout.new_bitmap().set_pfns(array(code, [1, 2, 3]))


def test_gather_writes_into_part_of_a_larger_buffer(ram: GuestRam) -> None:
    fill(ram)
    staging = bytearray(4 * PAGE_SIZE)
    ram.gather(pfn_array([3]), memoryview(staging)[PAGE_SIZE:])
    assert staging == bytes(PAGE_SIZE) + page_of(4) + bytes(2 * PAGE_SIZE)


@pytest.mark.parametrize(
    "segments",
    [
        [],
        [(0, 0, 0)],
        [(0, 0, 2), (1, 2, 1)],
        [(0, 0, 2), (2, 1, 1)],
        [(5, 0, 1), (0, 1, 1)],
        [(0, 5, 1), (5, 0, 1)],
        [(0, 0, 2**28 + 1)],
        [(2**28, 0, 1)],
        [(-1, 0, 1)],
        [(0, 2**64, 1)],
    ],
)
def test_layouts_that_make_no_sense_are_refused(segments: list[tuple[int, int, int]]) -> None:
    with pytest.raises(NativeError):
        GuestLayout(segments)


def test_a_guest_below_the_hole_has_no_second_segment() -> None:
    assert GuestLayout.with_hole(10, low_pages=10, high_pfn=20) == GuestLayout.flat(10)


def test_a_ram_file_that_is_too_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ram"
    path.write_bytes(bytes(2 * PAGE_SIZE))
    with pytest.raises(GuestError, match="8192 bytes"):
        GuestRam(path, GuestLayout.flat(3))


def test_ram_opened_by_path_is_shared_and_read_only_on_demand(tmp_path: Path) -> None:
    path = tmp_path / "ram"
    path.write_bytes(bytes(2 * PAGE_SIZE))
    with (
        GuestRam(path, GuestLayout.flat(2)) as writer,
        GuestRam(path, writer.layout, writable=False) as reader,
    ):
        writer.scatter(pfn_array([1]), page_of(9))
        assert reader.read_page(1) == page_of(9)
        with pytest.raises(InvariantError):
            reader.scatter(pfn_array([1]), page_of(8))
    assert path.read_bytes()[PAGE_SIZE:] == page_of(9)


def test_closed_ram_is_refused_not_touched(make_ram: MakeRam) -> None:
    ram = make_ram(GuestLayout.flat(1))
    ram.close()
    ram.close()
    with pytest.raises(InvariantError):
        ram.read_page(0)
