"""The choice of the tracker and the fall-back, on RAM of this very process."""

from __future__ import annotations

import logging
import mmap
import os
from collections.abc import Iterator

import pytest

from replicator.guests.qemu_tracking import GuestTracker
from replicator.memory import Audit, DirtyBitmap, GuestLayout, GuestRam, open_own_uffd
from replicator.units import PAGE_SIZE

PAGES = 64


class OwnGuest:
    """RAM that this process maps as a guest would, besides the mapping of `ram`."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("own-guest")
        os.ftruncate(self.fd, PAGES * PAGE_SIZE)
        self.memory = mmap.mmap(self.fd, PAGES * PAGE_SIZE)
        self.ram = GuestRam(self.fd, GuestLayout.flat(PAGES))

    def write(self, pfn: int) -> None:
        self.memory[pfn * PAGE_SIZE] ^= 1

    def write_past_the_page_tables(self, pfn: int) -> None:
        """As a device with a mapping of its own would: write protection does not see it."""
        byte = os.pread(self.fd, 1, pfn * PAGE_SIZE)[0]
        os.pwrite(self.fd, bytes([byte ^ 1]), pfn * PAGE_SIZE)

    def close(self) -> None:
        self.ram.close()
        self.memory.close()
        os.close(self.fd)


@pytest.fixture
def guest() -> Iterator[OwnGuest]:
    own = OwnGuest()
    yield own
    own.close()


def scan(tracker: GuestTracker, *, live: bool = False) -> list[int]:
    bitmap = DirtyBitmap(PAGES)
    tracker.scan(bitmap, live=live)
    return list(bitmap.pfns())


def test_kernel_tracker_is_audited_first(guest: OwnGuest) -> None:
    tracker = GuestTracker(os.getpid(), open_own_uffd(), guest.ram, audit_scans=2)
    assert tracker.name == "unarmed"
    assert scan(tracker, live=True) == list(range(PAGES))
    for number in (3, 5):
        guest.write(number)
        assert scan(tracker) == [number]  # a scan in a pause is not audited
        assert tracker.name == "uffd+audit"
        guest.write(number + 1)
        # What the scan in between reported is looked at now.
        assert scan(tracker, live=True) == [number, number + 1]
    assert tracker.name == "uffd"
    guest.write(7)
    assert scan(tracker) == [7]
    tracker.close()


@pytest.mark.parametrize("pauses", [0, 2])
def test_a_tracker_that_misses_a_page_is_replaced(
    guest: OwnGuest, pauses: int, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = GuestTracker(os.getpid(), open_own_uffd(), guest.ram)
    scan(tracker, live=True)
    guest.write_past_the_page_tables(9)
    for _ in range(pauses):
        assert scan(tracker) == []
    with caplog.at_level(logging.WARNING):
        assert scan(tracker, live=True) == list(range(PAGES))
    assert tracker.name == "shadow"
    assert "uffd tracker missed 1 written pages: 0x9" in caplog.text
    guest.write_past_the_page_tables(11)
    assert scan(tracker) == [11]
    tracker.close()


def test_a_page_told_in_a_live_scan_is_excused_in_the_next_one(guest: OwnGuest) -> None:
    """A write between the two looks of a live scan: the tracker tells it at once, and that is no miss later."""
    tracker = GuestTracker(os.getpid(), open_own_uffd(), guest.ram)
    for _ in range(2):
        scan(tracker, live=True)
    audit = tracker._tracker
    assert isinstance(audit, Audit)
    look = audit._tracker.scan

    def write_then_look(bitmap: DirtyBitmap) -> int:
        guest.write(21)
        return look(bitmap)

    audit._tracker.scan = write_then_look  # type: ignore[method-assign]
    assert scan(tracker, live=True) == [21]
    audit._tracker.scan = look  # type: ignore[method-assign]
    assert scan(tracker) == []
    guest.write(21)
    assert scan(tracker) == [21]
    # Fingerprints are not taken of a guest that stands still, so it is told again.
    assert scan(tracker, live=True) == [21]
    assert scan(tracker, live=True) == []
    assert tracker.name == "uffd"  # proved
    tracker.close()


def test_no_userfaultfd_means_shadow(guest: OwnGuest) -> None:
    tracker = GuestTracker(os.getpid(), None, guest.ram)
    assert scan(tracker) == list(range(PAGES))
    assert tracker.name == "shadow"
    guest.write(1)
    assert scan(tracker) == [1]
    tracker.close()


def test_a_useless_userfaultfd_means_shadow(guest: OwnGuest, caplog: pytest.LogCaptureFixture) -> None:
    tracker = GuestTracker(os.getpid(), os.open("/dev/null", os.O_RDWR), guest.ram)
    with caplog.at_level(logging.WARNING):
        assert scan(tracker) == list(range(PAGES))
    assert tracker.name == "shadow"
    assert "falls back" in caplog.text
    tracker.close()


def test_closing_gives_the_userfaultfd_back(guest: OwnGuest) -> None:
    uffd = open_own_uffd()
    GuestTracker(os.getpid(), uffd, guest.ram).close()
    with pytest.raises(OSError):
        os.fstat(uffd)
