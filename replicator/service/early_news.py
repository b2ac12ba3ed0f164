"""What befalls a primary's lease and network, told to it even if it happens before the primary is there.

Both are older than the primary: its guest has to start, or its replica to become a guest. Frozen in that time, a process
wakes up to a lease that lapsed, came back or is another's. A primary that heard only of the return would wait for ever,
and one that missed the loss would say that it protects."""

from __future__ import annotations

import asyncio
import contextlib

from replicator.engine import events as ev
from replicator.service.primary_role import PrimaryRole

EarlyEvent = ev.LeaseLapsed | ev.LeaseRegained | ev.LeaseTaken | ev.GuestEnded


class EarlyNews:
    """For one primary, in order. Made and told in the event loop's thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._role: PrimaryRole | None = None
        self._kept: list[EarlyEvent] = []

    def report(self, event: EarlyEvent) -> None:
        """From any thread."""
        # Once the loop has ended nobody is left to tell.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._hear, event)

    def tell(self, role: PrimaryRole) -> None:
        """Tell `role` what has happened, and from now on what happens."""
        self._role = role
        kept, self._kept = self._kept, []
        for event in kept:
            role.post(event)

    def _hear(self, event: EarlyEvent) -> None:
        if self._role is None:
            self._kept.append(event)
        else:
            self._role.post(event)
