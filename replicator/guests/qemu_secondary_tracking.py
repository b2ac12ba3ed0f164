"""Dirty tracking of a secondary's guest: continuous from before its first run, through every reload.

What differs from a primary's tracking (qemu_tracking.py): the RAM file is written by us as well, between two runs of
the guest; the process behind the guest may change; and no scan may report all pages for nothing, for each one is copied
within a pause. The kernel's tracker sees the guest's process alone, so our writes are none of its. A shadow copy sees
everything: it is told when we have written (`absorb`).

The first looks are audited: what differs from the shadow copy must have been reported. That holds for the loads, too:
what QEMU writes while it loads lies between `absorb` and the next look. They are few, for both guests stand still
meanwhile (1 GiB of RAM: some 0.3 s each); the first one comes before the guest has run. A tracker that misses a page,
or fails, is replaced by the shadow copy for good, and the scan in which that happens reports every page.
"""

from __future__ import annotations

import contextlib
import logging

from replicator.errors import GuestError, NativeError
from replicator.memory import DirtyBitmap, DirtyTracker, GuestRam, ShadowTracker, UffdTracker

log = logging.getLogger(__name__)

#: Of the first loads, and of two runs with the reload before each.
AUDIT_LOOKS = 3


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
    """Which pages the guest wrote, whatever process runs it. `ram` stays the caller's and outlives the tracker."""

    def __init__(self, ram: GuestRam, *, looks: int = AUDIT_LOOKS) -> None:
        self._ram = ram
        #: Paused scans that will still be checked.
        self.looks_left = looks
        self._kernel: DirtyTracker | None = None
        #: The audit's, or the only tracker.
        self._shadow: ShadowTracker | None = None
        self._is_trusted = True
        #: Written, seen and not reported yet.
        self._carried = ram.layout.new_bitmap()
        #: How many pages the shadow copy showed at the last look.
        self._changed = 0
        #: Reported since the last look of the audit.
        self._reported = ram.layout.new_bitmap()

    @property
    def name(self) -> str:
        """ "uffd", "shadow", "uffd+shadow" while it is audited, "unarmed" before there is a process."""
        return "+".join(tracker.name for tracker in (self._kernel, self._shadow) if tracker) or "unarmed"

    @property
    def has_shadow(self) -> bool:
        """Whether `absorb` reads the whole RAM."""
        return self._shadow is not None

    def follow(self, kernel: DirtyTracker | None) -> None:
        """From now on the guest is in the process that `kernel`, which was armed before, tracks. Takes it over."""
        self._carry()
        if not self._is_trusted:
            if kernel is not None:
                kernel.close()
            return
        self._kernel = kernel
        if kernel is None:
            self._fall_back(GuestError("there is no userfaultfd"))
        elif self.looks_left > 0 and self._shadow is None:
            self._shadow = self._arm_shadow()

    def absorb(self) -> None:
        """What differs by now is known to whoever asks: the guest stands still and we wrote its RAM."""
        if self._shadow is not None:
            self._shadow.scan(self._ram.layout.new_bitmap())

    def look(self) -> int:
        """Check the tracker while the guest stands still; what was written is reported by the next scan. Returns how
        many pages really changed since the last look, 0 if the audit is over."""
        self._changed = 0
        self._collect(self._carried, live=False)
        return self._changed

    def scan(self, bitmap: DirtyBitmap, *, live: bool) -> int:
        """Add the pages written since the last scan; returns how many are reported."""
        found, self._carried = self._carried, self._ram.layout.new_bitmap()
        self._collect(found, live=live)
        bitmap.merge(found)
        return found.count()

    def close(self) -> None:
        if self._kernel is not None:
            self._kernel.close()
            self._kernel = None
        self._drop_shadow()

    def _collect(self, found: DirtyBitmap, *, live: bool) -> None:
        if self._kernel is not None:
            self._scan_kernel(found, live=live)
        elif self._shadow is not None:
            self._changed = self._shadow.scan(found)

    def _scan_kernel(self, found: DirtyBitmap, *, live: bool) -> None:
        try:
            if self._shadow is None or live:
                self._ask_kernel(found)
            else:
                self._look(found, self._shadow)
        except GuestError as error:
            self._fall_back(error)
            self._ram.layout.mark_all(found)

    def _ask_kernel(self, found: DirtyBitmap) -> None:
        if self._kernel is not None:
            self._kernel.scan(found)
        if self._shadow is not None:
            self._reported.merge(found)

    def _look(self, found: DirtyBitmap, shadow: ShadowTracker) -> None:
        """A scan of a guest that stands still, checked against the shadow copy."""
        self._ask_kernel(found)
        missed = self._ram.layout.new_bitmap()
        self._changed = shadow.scan(missed)
        missed.subtract(self._reported)
        self._reported.clear_all()
        if missed.count():
            raise GuestError(f"the kernel's tracker missed {missed.count()} written pages")
        self.looks_left -= 1
        if self.looks_left <= 0:
            self._drop_shadow()

    def _carry(self) -> None:
        """Keep what the process up to now wrote and nobody asked for."""
        kernel, self._kernel = self._kernel, None
        if kernel is None:
            return
        try:
            kernel.scan(self._carried)
        except GuestError:
            self._ram.layout.mark_all(self._carried)
        kernel.close()
        if self._shadow is not None:
            self._reported.merge(self._carried)

    def _fall_back(self, error: GuestError) -> None:
        log.warning("dirty tracking falls back to comparing with a shadow copy: %s", error)
        self._is_trusted = False
        if self._kernel is not None:
            self._kernel.close()
            self._kernel = None
        if self._shadow is None:
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
