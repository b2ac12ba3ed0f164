"""Dirty tracking of a secondary's guest: continuous from before its first run, through every reload.

What differs from a primary's tracking (qemu_tracking.py): the RAM file is written by us as well, between two runs of
the guest; the process behind the guest may change; and no scan may report all pages for nothing, for each one is copied
within a pause. The kernel's tracker sees the guest's process alone, so our writes are none of its. A shadow copy sees
everything: it is told which pages we have written (`absorb`).

In the beginning the kernel's tracker is audited, while the guest runs: a look compares all of the RAM with the shadow
copy, part by part (`look_on`), and what has changed must have been reported by the end of the look, or since the
beginning of the look before it (`end_look`). A look goes on over checkpoints, so it sees what QEMU writes while it
loads, too; no pause waits for more than a part of it. The first look makes the copy. A tracker that misses a page, or
fails, is replaced by the shadow copy for good, and the scan in which that happens, or the next one, reports every page.
"""

from __future__ import annotations

import contextlib
import logging
import threading

from replicator.errors import GuestError, NativeError
from replicator.memory import DirtyBitmap, DirtyTracker, GuestRam, ShadowTracker, UffdTracker
from replicator.units import PAGE_SIZE

log = logging.getLogger(__name__)

#: Looks that prove something, each in a run of its own.
AUDIT_LOOKS = 3
#: Pages of the RAM file that are compared at once: a millisecond or so.
LOOK_PAGES = 1024


def arm_tracker(pid: int, uffd: int | None, ram: GuestRam) -> UffdTracker | None:
    """A tracker of a process that reports what is written from now on. None, with a warning, when the kernel does not
    do it. Takes over `uffd`."""
    if uffd is None:
        return None
    tracker = UffdTracker(pid, uffd, ram)
    try:
        tracker.arm()
        tracker.scan(ram.layout.new_bitmap())  # the one that reports all pages
    except (GuestError, NativeError) as error:
        tracker.close()
        log.warning("QEMU process %d is not tracked by the kernel: %s", pid, error)
        return None
    return tracker


class SecondaryTracker:
    """Which pages the guest wrote, whatever process runs it. `ram` stays the caller's and outlives the tracker. Each
    method may be called from any thread."""

    def __init__(self, ram: GuestRam, *, looks: int = AUDIT_LOOKS, look_pages: int = LOOK_PAGES) -> None:
        self._ram = ram
        #: Looks that will still be made, after the one that makes the copy.
        self.looks_left = looks
        self._look_pages = look_pages
        self._kernel: DirtyTracker | None = None
        #: The audit's while there is a kernel's tracker, else the only one.
        self._shadow: ShadowTracker | None = None
        self._is_trusted = True
        #: Written, seen and not reported yet.
        self._carried = ram.layout.new_bitmap()
        #: Of the look under way: the next page of the file, and what has changed since the look before.
        self._next_page = 0
        self._changed = ram.layout.new_bitmap()
        self._has_copy = False
        self._may_look = True
        #: What the kernel's tracker has reported since the beginning of this look, and during the one before.
        self._reported = ram.layout.new_bitmap()
        self._reported_before = ram.layout.new_bitmap()
        self._lock = threading.RLock()

    @property
    def name(self) -> str:
        """ "uffd", "shadow", "uffd+shadow" while it is audited, "unarmed" before there is a process."""
        return "+".join(tracker.name for tracker in (self._kernel, self._shadow) if tracker) or "unarmed"

    @property
    def is_audited(self) -> bool:
        """Whether looks are wanted."""
        return self._kernel is not None and self.looks_left > 0

    def follow(self, kernel: DirtyTracker | None) -> None:
        """From now on the guest is in the process that `kernel`, which was armed before, tracks. Takes it over."""
        with self._lock:
            self._carry()
            if not self._is_trusted:
                if kernel is not None:
                    kernel.close()
                return
            self._kernel = kernel
            if kernel is None:
                self._fall_back(GuestError("there is no userfaultfd"))

    def absorb(self, written: DirtyBitmap) -> None:
        """The guest stands still and we have written these pages: they are known to whoever asks."""
        with self._lock:
            if self._shadow is not None:
                self._shadow.absorb(written)

    def scan(self, bitmap: DirtyBitmap) -> int:
        """Add the pages written since the last scan; returns how many are reported."""
        with self._lock:
            self._collect()
            found, self._carried = self._carried, self._ram.layout.new_bitmap()
        bitmap.merge(found)
        return found.count()

    def count_written(self) -> int:
        """How many pages the next scan would report now."""
        with self._lock:
            self._collect()
            return self._carried.count()

    def close(self) -> None:
        with self._lock:
            if self._kernel is not None:
                self._kernel.close()
                self._kernel = None
            self._drop_shadow()

    # The audit.

    def allow_looks(self, allowed: bool) -> None:
        """Before we write into the RAM, and after that. Waits for the part that is being compared."""
        with self._lock:
            self._may_look = allowed

    def look_on(self) -> bool:
        """Compare the next part of the RAM, unless that is not allowed. False when that was the last one, or there is
        nothing to look for: then `end_look` comes next."""
        with self._lock:
            if not self.is_audited:
                return False
            if not self._may_look:
                return True
            if self._shadow is None:
                self._shadow = ShadowTracker(self._ram)
                self._shadow.arm()
            pages = self._ram.layout.file_bytes // PAGE_SIZE
            count = min(self._look_pages, pages - self._next_page)
            self._shadow.scan_part(self._next_page, count, self._changed)
            self._next_page += count
            return self._next_page < pages

    def end_look(self) -> None:
        """Judge the tracker by a look that is complete."""
        with self._lock:
            if not self.is_audited:
                return
            # What the look has seen was written before this.
            self._collect()
            if self._has_copy and self._kernel is not None:
                self._judge()
            self._has_copy = True
            self._next_page = 0
            self._changed.clear_all()
            self._reported_before, self._reported = self._reported, self._ram.layout.new_bitmap()

    def _judge(self) -> None:
        missed = self._changed.copy()
        missed.subtract(self._reported)
        missed.subtract(self._reported_before)
        if missed.count():
            self._fall_back(GuestError(f"the kernel's tracker missed {missed.count()} written pages"))
            self._ram.layout.mark_all(self._carried)
            return
        self.looks_left -= 1
        if self.looks_left <= 0:
            self._drop_shadow()

    # Both trackers.

    def _collect(self) -> None:
        """Into what is carried."""
        try:
            if self._kernel is not None:
                found = self._ram.layout.new_bitmap()
                self._kernel.scan(found)
                self._note(found)
            elif self._shadow is not None:
                self._shadow.scan(self._carried)
        except GuestError as error:
            self._fall_back(error)
            self._ram.layout.mark_all(self._carried)

    def _note(self, found: DirtyBitmap) -> None:
        self._carried.merge(found)
        if self.looks_left > 0:
            self._reported.merge(found)

    def _carry(self) -> None:
        """Keep what the process up to now wrote and nobody asked for."""
        kernel, self._kernel = self._kernel, None
        if kernel is None:
            return
        found = self._ram.layout.new_bitmap()
        try:
            kernel.scan(found)
        except GuestError:
            self._ram.layout.mark_all(found)
        self._note(found)
        kernel.close()

    def _fall_back(self, error: GuestError) -> None:
        log.warning("dirty tracking falls back to comparing with a shadow copy: %s", error)
        self._is_trusted = False
        if self._kernel is not None:
            self._kernel.close()
            self._kernel = None
        self._drop_shadow()
        self._shadow = self._arm_shadow()

    def _arm_shadow(self) -> ShadowTracker:
        shadow = ShadowTracker(self._ram)
        shadow.arm()
        shadow.scan(self._ram.layout.new_bitmap())  # the one that reports all pages
        return shadow

    def _drop_shadow(self) -> None:
        shadow, self._shadow = self._shadow, None
        if shadow is not None:
            with contextlib.suppress(GuestError):
                shadow.close()
