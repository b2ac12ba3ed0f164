"""Dirty trackers: which pages did the guest write since the last look?

`UffdTracker` asks the kernel: the guest's RAM is write-protected through a userfaultfd in asynchronous
mode, a first write lifts the protection of its page without waking anybody, and one PAGEMAP_SCAN lists such
pages and protects them again, page by page atomically. `ShadowTracker` needs nothing from the kernel: it
compares the RAM with a private copy. `Audit` compares the first one with `Fingerprints` of the pages, and proves that
it misses nothing.

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


class Fingerprints:
    """Finds changed pages as a ShadowTracker does, with 8 bytes a page instead of a copy (native/prints.h), and only
    where it is asked to look. Pages that the RAM file has never held are not read: reading gives them memory."""

    def __init__(self, ram: GuestRam) -> None:
        self._ram = ram
        slot = ffi.new("struct rp_prints **")
        check(lib.rp_prints_create(ram.native, slot), "cannot make fingerprints of the guest's RAM")
        self._prints = ffi.gc(slot[0], lib.rp_prints_destroy)
        #: Absent at the last look everywhere; they are zeros, as is what a fingerprint starts from.
        self._absent = ram.layout.new_bitmap()
        ram.layout.mark_all(self._absent)

    def look(self) -> DirtyBitmap:
        """The pages that changed since they were looked at last; at first, all that are not zeros."""
        where = self._ram.layout.new_bitmap()
        self._ram.layout.mark_all(where)
        absent = self._ram.find_absent()
        still_absent = absent.copy()
        came = absent.copy()
        came.subtract(self._absent)
        still_absent.subtract(came)
        where.subtract(still_absent)
        self._absent = still_absent
        return self.look_at(where)

    def look_at(self, where: DirtyBitmap) -> DirtyBitmap:
        """The same of these frames."""
        require(
            self._prints is not None and self._ram.is_open, "a look after the end, or at RAM that was closed"
        )
        changed, found = self._ram.layout.new_bitmap(), ffi.new("uint64_t *")
        code = lib.rp_prints_scan(self._prints, where.native, changed.native, found)
        check(code, "comparing with fingerprints")
        return changed

    def close(self) -> None:
        """May be repeated."""
        if self._prints is not None:
            ffi.release(self._prints)
            self._prints = None


class Audit:
    """A tracker that checks another one: at each live scan after the first, every page that `prints` find changed since
    they were made must have been reported by `tracker`; GuestError names those that were not. After `looks` such scans
    the fingerprints are given back and only the tracker remains. Both belong to the audit.

    The first look is at all of the RAM. The later ones are at the pages that were reported since the start: only these
    have been put under watch anew, which is the one thing that the first look says nothing about.

    A scan of a paused guest does not look: reading the RAM would make the pause long. A page may be written between the
    two looks of a live scan, so what the live scan before reported counts as well."""

    def __init__(self, tracker: DirtyTracker, prints: Fingerprints, looks: int) -> None:
        self._tracker = tracker
        self._prints: Fingerprints | None = prints
        #: What the tracker reported from the last live scan on; None before the first scan.
        self._reported: DirtyBitmap | None = None
        #: What it reported after the first scan, which reports everything: pages that are watched anew.
        self._renewed: DirtyBitmap | None = None
        self._has_looked = False
        #: Live scans that will still be checked.
        self.looks_left = looks
        #: Changed pages that the tracker was proved to have seen.
        self.proved_pages = 0

    @property
    def name(self) -> str:
        return self._tracker.name if self._prints is None else f"{self._tracker.name}+audit"

    def arm(self) -> None:
        self._tracker.arm()
        self._reported = None

    def scan(self, bitmap: DirtyBitmap, *, live: bool = False) -> int:
        if self._prints is None:
            return self._tracker.scan(bitmap)
        if self._reported is None or self._renewed is None:
            return self._begin(bitmap, self._prints)
        # This order: what has changed here was written before the tracker looks.
        changed = self._look(self._prints, self._renewed) if live else DirtyBitmap(bitmap.pages)
        reported = DirtyBitmap(bitmap.pages)
        count = self._tracker.scan(reported)
        bitmap.merge(reported)
        bitmap.merge(changed)
        self._renewed.merge(reported)
        before, self._reported = self._reported, reported
        if live:
            # From now on they are looked at: what they are like now is known by the tracker's word.
            self._prints.look_at(reported)
            self._compare(changed, reported, before)
        else:
            reported.merge(before)
        return count

    def close(self) -> None:
        self._drop_prints()
        self._tracker.close()

    def _begin(self, bitmap: DirtyBitmap, prints: Fingerprints) -> int:
        """What changes after this was written after the tracker began to watch."""
        count = self._tracker.scan(bitmap)
        prints.look()
        self._reported, self._renewed = DirtyBitmap(bitmap.pages), DirtyBitmap(bitmap.pages)
        self._has_looked = False
        return count

    def _look(self, prints: Fingerprints, renewed: DirtyBitmap) -> DirtyBitmap:
        if self._has_looked:
            return prints.look_at(renewed)
        self._has_looked = True
        return prints.look()

    def _compare(self, changed: DirtyBitmap, reported: DirtyBitmap, before: DirtyBitmap) -> None:
        missed = changed.copy()
        missed.subtract(reported)
        missed.subtract(before)
        if missed.count():
            raise GuestError(_describe_missed(self._tracker.name, missed), hint="use the shadow tracker")
        self.proved_pages += changed.count()
        self.looks_left -= 1
        if self.looks_left <= 0:
            self._drop_prints()

    def _drop_prints(self) -> None:
        prints, self._prints = self._prints, None
        if prints is not None:
            prints.close()


def _describe_missed(name: str, missed: DirtyBitmap) -> str:
    pfns = missed.pfns()
    named = ", ".join(f"{pfn:#x}" for pfn in pfns[:NAMED_PFNS_MAX])
    rest = ", ..." if len(pfns) > NAMED_PFNS_MAX else ""
    return f"the {name} tracker missed {len(pfns)} written pages: {named}{rest}"
