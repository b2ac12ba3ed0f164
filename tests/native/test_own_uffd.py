"""Memory that this process writes itself, tracked through a userfaultfd of its own. Runs under sanitizers too."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator

import pytest

from replicator.memory import DirtyBitmap, GuestLayout, GuestRam
from replicator.memory.trackers import UffdTracker
from replicator.memory.uffd import open_own_uffd
from replicator.units import PAGE_SIZE

PAGES = 16


@pytest.fixture
def ram() -> Iterator[GuestRam]:
    fd = os.memfd_create("own-ram")
    os.ftruncate(fd, PAGES * PAGE_SIZE)
    with GuestRam(fd, GuestLayout.flat(PAGES)) as made:
        made.reserve()
        yield made
    os.close(fd)


def test_what_we_write_through_the_tracked_mapping_is_reported_once(ram: GuestRam) -> None:
    """Our own copy of the RAM is another mapping of the same file, as in the synthetic guest."""
    with mmap.mmap(ram.fd, PAGES * PAGE_SIZE) as guest:
        tracker = UffdTracker(os.getpid(), open_own_uffd(), ram)
        tracker.arm()
        bitmap = DirtyBitmap(PAGES)
        tracker.scan(bitmap)  # what was there before
        bitmap.clear_all()
        for page in (3, 4, 11):
            guest[page * PAGE_SIZE + 7] = 1
        assert tracker.scan(bitmap) == 3
        assert bitmap.read_and_clear().tolist() == [3, 4, 11]
        assert tracker.scan(bitmap) == 0
        tracker.close()
