"""Dirty trackers: which pages did the guest write since the last look?

`UffdTracker` asks the kernel: the guest's RAM is write-protected through a userfaultfd in asynchronous
mode, a first write lifts the protection of its page without waking anybody, and one PAGEMAP_SCAN lists such
pages and protects them again, page by page atomically. `ShadowTracker` needs nothing from the kernel: it
compares the RAM with a private copy. `Audit` runs both and proves that the first one misses nothing.

Rules. 1: the first scan after `arm` reports every page. 2: a page written between two scans is in the
second one; a page written during a scan is in this or the next. 3: a page reported though its content is
equal is allowed, a page left out never. 4: after an error the tracker's state is lost: close it, arm
another one.

What the kernel's way cannot see: writes through other mappings than those of the tracked process, that is
of another process with the same file (vhost-user, a second QEMU, our own scatter), pages that are punched
out of the file (balloon, free page reporting), and writes that a KVM guest or vfio device makes past the
process's page tables. Guest adapters refuse the former; `Audit` at start finds out about the latter, for it
looks at the RAM file itself.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import Protocol

from replicator._native import ffi, lib
from replicator.errors import GuestError, require
from replicator.memory.bitmap import DirtyBitmap
from replicator.memory.check import check
from replicator.memory.maps import Area, find_file_areas
from replicator.memory.pages import GuestRam
from replicator.units import PAGE_SIZE

#: Frames that an audit's error message names.
NAMED_PFNS_MAX = 16


class DirtyTracker(Protocol):
    """Finds the pages that were written. Not for use from several threads at once."""

    @property
    def name(self) -> str: ...

    def arm(self) -> None:
        """Start: the next scan reports every page. GuestError when this way does not work here."""
        ...

    def scan(self, bitmap: DirtyBitmap) -> int:
        """Add the pages written since the last scan to `bitmap` and start anew; returns how many it
        reports. GuestError after which nothing is known: every page must be taken for dirty."""
        ...

    def close(self) -> None: ...


class UffdTracker:
    """Tracks the writes of process `pid` to `ram`. Takes over `uffd`, a fresh userfaultfd of that process."""

    name = "uffd"

    def __init__(self, pid: int, uffd: int, ram: GuestRam) -> None:
        self._pid = pid
        self._uffd = uffd
        self._ram = ram
        self._pagemap = -1
        self._scanner = None
        self._areas: list[Area] = []
        self._enabled = False
        self._is_first = True

    def arm(self) -> None:
        """Protect all mappings that the process has of the RAM. May be called again, after the process
        mapped anew."""
        self._areas = find_file_areas(self._pid, self._ram.fd, self._ram.layout.file_bytes)
        if not self._enabled:
            self._check(
                lib.rp_uffd_enable(self._uffd), "asynchronous write protection", "needs Linux 6.7 or newer"
            )
            self._enabled = True
        mappings = ffi.new("struct rp_mapping[]", [_mapping_fields(area) for area in self._areas])
        for index in range(len(self._areas)):
            self._check(lib.rp_uffd_register(self._uffd, mappings + index), "registering the RAM")
        self._open_pagemap()
        slot = ffi.new("struct rp_scanner **")
        code = lib.rp_scanner_create(self._pagemap, self._ram.layout.native, mappings, len(self._areas), slot)
        self._check(code, "making a scanner")
        self._scanner = ffi.gc(slot[0], lib.rp_scanner_destroy)
        self._is_first = True

    def scan(self, bitmap: DirtyBitmap) -> int:
        require(self._scanner is not None, "scan before arm")
        found = ffi.new("uint64_t *")
        self._check(lib.rp_scanner_scan(self._scanner, bitmap.native, found), "scanning for written pages")
        if not self._is_first:
            return int(found[0])
        self._ram.layout.mark_all(bitmap)
        self._is_first = False
        return self._ram.layout.pages

    def check_mappings(self) -> None:
        """GuestError when the process maps its RAM otherwise than at `arm`: then writes may be missed."""
        areas = find_file_areas(self._pid, self._ram.fd, self._ram.layout.file_bytes)
        if _covered(areas) != _covered(self._areas):
            raise GuestError(
                f"process {self._pid} changed the mappings of its RAM", hint="arm the tracker again"
            )

    def close(self) -> None:
        """Lift the protection: the last close of the userfaultfd does that."""
        self._scanner = None
        for fd in (self._uffd, self._pagemap):
            if fd >= 0:
                os.close(fd)
        self._uffd = self._pagemap = -1

    def _open_pagemap(self) -> None:
        if self._pagemap >= 0:
            os.close(self._pagemap)
            self._pagemap = -1
        try:
            self._pagemap = os.open(f"/proc/{self._pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise GuestError(f"cannot open the page map of process {self._pid}: {error.strerror}") from error

    def _check(self, code: int, what: str, hint: str = "") -> None:
        if code == 0:
            return
        if code == -errno.ESRCH:
            raise GuestError(f"{what}: process {self._pid} is gone")
        raise GuestError(f"{what} of process {self._pid}: {os.strerror(-code)}", hint=hint)


def _mapping_fields(area: Area) -> tuple[int, int, int]:
    return area.start, area.offset // PAGE_SIZE, (area.end - area.start) // PAGE_SIZE


def _covered(areas: list[Area]) -> list[tuple[int, int, int]]:
    """(start, end, offset) with neighbours joined, for the kernel splits and joins mappings as it likes."""
    joined: list[tuple[int, int, int]] = []
    for area in sorted(areas):
        if (
            joined
            and joined[-1][1] == area.start
            and joined[-1][2] + area.start - joined[-1][0] == area.offset
        ):
            joined[-1] = (joined[-1][0], area.end, joined[-1][2])
        else:
            joined.append((area.start, area.end, area.offset))
    return joined


class ShadowTracker:
    """Compares the RAM with a private copy. Takes as much memory as the guest has and, for each scan, the
    time to read both. Sees every write however it was made, except one that puts the same content back."""

    name = "shadow"

    def __init__(self, ram: GuestRam) -> None:
        self._ram = ram
        self._shadow = None
        self._is_first = True

    def arm(self) -> None:
        slot = ffi.new("struct rp_shadow **")
        check(lib.rp_shadow_create(self._ram.native, slot), "cannot make a shadow copy of the guest's RAM")
        self._shadow = ffi.gc(slot[0], lib.rp_shadow_destroy)
        self._is_first = True

    def scan(self, bitmap: DirtyBitmap) -> int:
        found = self.scan_part(0, self._ram.layout.file_bytes // PAGE_SIZE, bitmap)
        if not self._is_first:
            return found
        self._ram.layout.mark_all(bitmap)
        self._is_first = False
        return self._ram.layout.pages

    def scan_part(self, first: int, count: int, bitmap: DirtyBitmap) -> int:
        """Compare so many pages of the RAM file and add those that differ, which in the beginning are those that are
        not zero; returns how many they are."""
        self._check_armed()
        found = ffi.new("uint64_t *")
        code = lib.rp_shadow_scan(self._shadow, first, count, bitmap.native, found)
        check(code, "comparing with the shadow copy")
        return int(found[0])

    def absorb(self, bitmap: DirtyBitmap) -> None:
        """What these pages hold now is no change any more."""
        self._check_armed()
        check(lib.rp_shadow_absorb(self._shadow, bitmap.native), "bringing the shadow copy up to date")

    def _check_armed(self) -> None:
        require(
            self._shadow is not None and self._ram.is_open, "scan before arm, or after the RAM was closed"
        )

    def close(self) -> None:
        if self._shadow is not None:
            ffi.release(self._shadow)
            self._shadow = None


class Audit:
    """A tracker that checks another one: at each live scan, first scans not counted, every page that `shadow` finds
    changed since the last live scan must have been reported by `tracker`; GuestError names those that were not. After
    `looks` such scans the shadow copy is given back and only the tracker remains. Both trackers belong to the audit.

    A scan of a paused guest does not look: reading the RAM twice would make the pause long. A page may be written
    between the two looks of a live scan, so what the live scan before reported counts as well; hence the first look
    after a scan that reported everything proves nothing."""

    def __init__(self, tracker: DirtyTracker, shadow: DirtyTracker, looks: int) -> None:
        self._tracker = tracker
        self._shadow: DirtyTracker | None = shadow
        #: What the tracker reported from the last live scan on.
        self._reported: DirtyBitmap | None = None
        #: Live scans that will still be checked.
        self.looks_left = looks
        #: Changed pages that the tracker was proved to have seen.
        self.proved_pages = 0

    @property
    def name(self) -> str:
        return self._tracker.name if self._shadow is None else f"{self._tracker.name}+{self._shadow.name}"

    def arm(self) -> None:
        if self._shadow is not None:
            self._shadow.arm()
        self._tracker.arm()
        self._reported = None

    def scan(self, bitmap: DirtyBitmap, *, live: bool = False) -> int:
        if self._shadow is None:
            return self._tracker.scan(bitmap)
        changed, reported = DirtyBitmap(bitmap.pages), DirtyBitmap(bitmap.pages)
        if live:
            # This order: what the shadow saw was written before the tracker looks.
            self._shadow.scan(changed)
        count = self._tracker.scan(reported)
        bitmap.merge(reported)
        bitmap.merge(changed)
        before, self._reported = self._reported, reported
        if before is None:
            return count
        if live:
            self._compare(changed, reported, before)
        else:
            reported.merge(before)
        return count

    def close(self) -> None:
        self._drop_shadow()
        self._tracker.close()

    def _compare(self, changed: DirtyBitmap, reported: DirtyBitmap, before: DirtyBitmap) -> None:
        missed = changed.copy()
        missed.subtract(reported)
        missed.subtract(before)
        if missed.count():
            raise GuestError(_describe_missed(self._tracker.name, missed), hint="use the shadow tracker")
        self.proved_pages += changed.count()
        self.looks_left -= 1
        if self.looks_left <= 0:
            self._drop_shadow()

    def _drop_shadow(self) -> None:
        shadow, self._shadow = self._shadow, None
        if shadow is not None:
            with contextlib.suppress(GuestError):
                shadow.close()


def _describe_missed(name: str, missed: DirtyBitmap) -> str:
    pfns = missed.pfns()
    named = ", ".join(f"{pfn:#x}" for pfn in pfns[:NAMED_PFNS_MAX])
    rest = ", ..." if len(pfns) > NAMED_PFNS_MAX else ""
    return f"the {name} tracker missed {len(pfns)} written pages: {named}{rest}"
