"""RAM files that do not hold all of their pages: told from those that do, read and filled without giving them memory."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from memory_tools import page_of

from replicator.errors import InvariantError, NativeError
from replicator.memory import DirtyBitmap, GuestLayout, GuestRam, pfn_array
from replicator.units import PAGE_SIZE

MakeRam = Callable[..., GuestRam]
LAYOUT = GuestLayout.with_hole(24, low_pages=16, high_pfn=64)
FRAMES = LAYOUT.pfns().tolist()
ZEROS = bytes(PAGE_SIZE)


def held_pages(ram: GuestRam) -> int:
    return os.fstat(ram.fd).st_blocks * 512 // PAGE_SIZE


@pytest.mark.parametrize("reserved", [False, True])
def test_pages_that_were_never_written_are_absent(make_ram: MakeRam, reserved: bool) -> None:
    ram = make_ram(LAYOUT)
    if reserved:
        ram.reserve()
    ram.scatter(pfn_array([3, 70]), page_of(1) + ZEROS)
    absent = ram.find_absent()
    assert absent.pfns().tolist() == [pfn for pfn in FRAMES if pfn not in (3, 70)]


def test_a_file_that_holds_everything_has_no_absent_pages(make_ram: MakeRam) -> None:
    ram = make_ram(LAYOUT)
    ram.scatter(LAYOUT.pfns(), ZEROS * len(FRAMES))
    assert ram.find_absent().count() == 0


def test_reading_around_absent_pages_leaves_them_absent(make_ram: MakeRam) -> None:
    ram = make_ram(LAYOUT)
    ram.scatter(pfn_array([3, 4, 70]), page_of(1) + page_of(2) + page_of(3))
    body = bytearray(b"x" * (len(FRAMES) * PAGE_SIZE))
    ram.gather_present(LAYOUT.pfns(), body, ram.find_absent())
    wanted = {3: page_of(1), 4: page_of(2), 70: page_of(3)}
    assert body == b"".join(wanted.get(pfn, ZEROS) for pfn in FRAMES)
    assert held_pages(ram) == 3


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    before=st.lists(st.sampled_from(FRAMES), unique=True),
    batches=st.lists(
        st.lists(st.tuples(st.sampled_from(FRAMES), st.integers(0, 2)), max_size=12), max_size=4
    ),
)
def test_filling_is_scattering(
    make_ram: MakeRam, before: list[int], batches: list[list[tuple[int, int]]]
) -> None:
    filled, scattered = make_ram(LAYOUT), make_ram(LAYOUT)
    for ram in (filled, scattered):
        ram.scatter(pfn_array(before), b"".join(map(page_of, range(5, 5 + len(before)))))
    for batch in batches:
        pfns, body = pfn_array([pfn for pfn, _ in batch]), b"".join(page_of(kind) for _, kind in batch)
        filled.fill(pfns, body)
        scattered.scatter(pfns, body)
        assert os.pread(filled.fd, LAYOUT.file_bytes, 0) == os.pread(scattered.fd, LAYOUT.file_bytes, 0)


def test_zeros_are_not_written_where_there_is_nothing(make_ram: MakeRam) -> None:
    ram = make_ram(LAYOUT)
    ram.fill(pfn_array([1, 2, 3]), ZEROS + page_of(1) + ZEROS)
    assert held_pages(ram) == 1
    ram.fill(pfn_array([2]), ZEROS)  # it is not absent any more
    assert ram.is_zero(2)


@pytest.mark.parametrize("count", [1, 2])
def test_one_page_said_twice_is_what_was_said_last(make_ram: MakeRam, count: int) -> None:
    """What was a hole when the list began is none behind a page that is written."""
    ram = make_ram(LAYOUT)
    ram.fill(pfn_array([1, *range(2, 2 + count), 1]), ZEROS + page_of(1) * count + ZEROS)
    ram.fill(pfn_array([4, 5, 5]), ZEROS + page_of(2) + ZEROS)
    assert ram.is_zero(1) and not ram.is_zero(2) and ram.is_zero(5)


def test_a_frame_that_is_no_ram_refuses_the_whole_list(make_ram: MakeRam) -> None:
    ram = make_ram(LAYOUT)
    absent, pfns, out = ram.find_absent(), pfn_array([1, 20]), bytearray(2 * PAGE_SIZE)
    for refused in (
        partial(ram.fill, pfns, page_of(1) * 2),
        partial(ram.gather_present, pfns, out, absent),
    ):
        with pytest.raises(NativeError, match="0x14") as error:
            refused()
        assert error.value.code == -errno.ERANGE
    assert held_pages(ram) == 0


def test_bitmaps_and_bodies_of_other_sizes_are_our_own_bug(make_ram: MakeRam) -> None:
    ram = make_ram(LAYOUT)
    pfns, absent, small = pfn_array([1]), ram.find_absent(), DirtyBitmap(4)
    for misuse in (
        partial(ram.fill, pfns, ZEROS + b"x"),
        partial(ram.gather_present, pfns, bytearray(PAGE_SIZE), small),
        partial(ram.gather_present, pfns, bytearray(8), absent),
    ):
        with pytest.raises(InvariantError):
            misuse()


def test_a_full_file_system_is_an_error_and_no_signal(make_ram: MakeRam) -> None:
    """As a file that may not be written is."""
    ram = make_ram(LAYOUT)
    writable, ram.fd = ram.fd, os.open(f"/proc/self/fd/{ram.fd}", os.O_RDONLY)
    try:
        with pytest.raises(NativeError, match="cannot fill the RAM file"):
            ram.fill(pfn_array([1]), page_of(1))
    finally:
        os.close(ram.fd)
        ram.fd = writable
