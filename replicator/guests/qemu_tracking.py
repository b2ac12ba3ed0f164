"""Which dirty tracker a guest gets, and what happens when it fails.

The kernel's tracker (userfaultfd) comes first. During the live rounds of the first synchronisation an audit compares it
with fingerprints of the pages; a tracker that misses a page there, or that cannot be had, or that fails later, is
replaced by the shadow tracker with a warning. The scan in which that happens reports every page, so nothing is lost by the change.

The tracker is armed at the first scan, not before: it reports all pages then anyway, and a standby that takes over
shall not spend time on a copy of its RAM before it runs.
"""

from __future__ import annotations

import logging
import os

from replicator.errors import GuestError, NativeError
from replicator.guests.qemu_process import read_start_time
from replicator.memory import (
    Audit,
    DirtyBitmap,
    DirtyTracker,
    Fingerprints,
    GuestRam,
    ShadowTracker,
    UffdTracker,
)

log = logging.getLogger(__name__)

#: Live scans after the first one that are audited, while the guest runs. The first of them and the one before read all
#: of the RAM that was ever written (256 MiB: 20 to 30 ms each), see Audit.
AUDIT_SCANS = 4


class GuestTracker:
    """The tracker of one guest. Takes over `uffd`; None: there is no userfaultfd, for the reason told before."""

    def __init__(self, pid: int, uffd: int | None, ram: GuestRam, *, audit_scans: int = AUDIT_SCANS) -> None:
        self._pid = pid
        self._uffd = uffd
        self._ram = ram
        self._audit_scans = audit_scans
        self._tracker: DirtyTracker | None = None

    @property
    def name(self) -> str:
        """ "uffd", "shadow", "uffd+audit" while it is audited, "unarmed" before the first scan."""
        return "unarmed" if self._tracker is None else self._tracker.name

    def scan(self, bitmap: DirtyBitmap, *, live: bool) -> int:
        """Add the pages written since the last scan. GuestError when the guest is gone."""
        try:
            if self._tracker is None:
                self._tracker = self._arm()
            if isinstance(self._tracker, Audit):
                return self._tracker.scan(bitmap, live=live)
            return self._tracker.scan(bitmap)
        except GuestError as error:
            return self._replace(error).scan(bitmap)

    def give_uffd(self) -> int | None:
        """Hand the userfaultfd over to another tracker, which is to be used instead of this one. None when there is
        none, or when this tracker was armed already."""
        uffd, self._uffd = self._uffd, None
        return uffd

    def close(self) -> None:
        if self._tracker is not None:
            self._tracker.close()
            self._tracker = None
        self._drop_uffd()

    def _arm(self) -> DirtyTracker:
        if self._uffd is None:
            return self._arm_shadow()
        uffd, self._uffd = self._uffd, None
        kernel = UffdTracker(self._pid, uffd, self._ram)
        audited = Audit(kernel, Fingerprints(self._ram), self._audit_scans) if self._audit_scans else kernel
        try:
            audited.arm()
        except (GuestError, NativeError):
            audited.close()
            raise
        return audited

    def _arm_shadow(self) -> ShadowTracker:
        shadow = ShadowTracker(self._ram)
        shadow.arm()
        return shadow

    def _replace(self, error: GuestError) -> DirtyTracker:
        """A shadow tracker in place of the one that failed; its first scan reports every page."""
        if read_start_time(self._pid) is None:
            raise GuestError(f"QEMU process {self._pid} is gone") from error
        if isinstance(self._tracker, ShadowTracker):
            raise error
        log.warning("dirty tracking falls back to comparing with a shadow copy: %s", error)
        if self._tracker is not None:
            self._tracker.close()
        self._tracker = self._arm_shadow()
        return self._tracker

    def _drop_uffd(self) -> None:
        if self._uffd is not None:
            os.close(self._uffd)
            self._uffd = None
