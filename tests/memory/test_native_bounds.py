"""Numbers that no caller of ours passes to the native core: refused, never wrapped around."""

from __future__ import annotations

import errno
import resource
import subprocess
import sys
from collections.abc import Callable

import pytest

from replicator._native import ffi, lib
from replicator.errors import InvariantError
from replicator.memory import DirtyBitmap, GuestLayout, GuestRam, ShadowTracker
from replicator.units import PAGE_SIZE

HIGHEST = 2**64 - 1


@pytest.mark.parametrize(
    "mapping",
    [
        (PAGE_SIZE + 1, 0, 1),
        (PAGE_SIZE, 0, 0),
        (0, 0, HIGHEST),
        (HIGHEST - PAGE_SIZE + 1, 0, 2),
        (PAGE_SIZE, HIGHEST, 1),
        (PAGE_SIZE, HIGHEST - 4, 8),
    ],
)
def test_mappings_that_wrap_around_are_refused(mapping: tuple[int, int, int]) -> None:
    slot = ffi.new("struct rp_scanner **")
    mappings = ffi.new("struct rp_mapping[]", [(PAGE_SIZE, 0, 1), mapping])
    layout = GuestLayout.flat(8)
    assert lib.rp_scanner_create(0, layout.native, mappings, 2, slot) == -errno.EINVAL
    assert lib.rp_uffd_register(-1, mappings + 1) == -errno.EINVAL


def test_too_many_mappings_are_refused_unread() -> None:
    slot = ffi.new("struct rp_scanner **")
    layout = GuestLayout.flat(8)
    for count in (2**20 + 1, 2**61, HIGHEST):
        assert lib.rp_scanner_create(0, layout.native, ffi.NULL, count, slot) == -errno.E2BIG


@pytest.mark.parametrize("place", [(HIGHEST, 1), (1, HIGHEST), (HIGHEST, HIGHEST)])
def test_file_pages_that_wrap_around_mark_nothing(place: tuple[int, int]) -> None:
    layout = GuestLayout.flat(8)
    bitmap = layout.new_bitmap()
    assert lib.rp_layout_mark(layout.native, *place, bitmap.native) == -errno.ERANGE
    assert bitmap.count() == 0


def test_marks_behind_the_last_frame_of_a_small_bitmap_are_refused() -> None:
    bitmap = DirtyBitmap(4)
    assert lib.rp_layout_mark(GuestLayout.flat(8).native, 0, 8, bitmap.native) == -errno.ERANGE
    assert bitmap.count() == 0


def test_a_shadow_of_closed_ram_is_refused_not_touched(make_ram: Callable[..., GuestRam]) -> None:
    ram = make_ram(GuestLayout.flat(4))
    shadow = ShadowTracker(ram)
    shadow.arm()
    ram.close()
    with pytest.raises(InvariantError, match="closed"):
        shadow.scan(DirtyBitmap(4))
    shadow.close()


def test_a_shadow_without_memory_for_it_is_an_error() -> None:
    """In a process that may not have twice the RAM."""
    code = f"""
import os, resource
from replicator.errors import NativeError
from replicator.memory import GuestLayout, GuestRam, ShadowTracker
pages = 1 << 18
fd = os.memfd_create("ram")
os.ftruncate(fd, pages * {PAGE_SIZE})
ram = GuestRam(fd, GuestLayout.flat(pages))
used = int(open("/proc/self/statm").read().split()[0]) * {PAGE_SIZE}
resource.setrlimit(resource.RLIMIT_AS, (used + pages * {PAGE_SIZE} // 2, {resource.RLIM_INFINITY}))
try:
    ShadowTracker(ram).arm()
except NativeError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert "shadow copy" in done.stdout and "ENOMEM" in done.stdout
