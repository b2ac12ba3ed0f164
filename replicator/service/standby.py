"""Keeps a standby ready: the process that waits for the guest may die for itself, and is started again.

Nobody else would notice before the take-over needs it, and then it is too late. While there is none, `trouble` says why.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from pathlib import Path

from replicator.errors import GuestError, require
from replicator.guests.base import Guest, Standby

_LOG = logging.getLogger(__name__)

#: After a standby that could not be started.
RETRY_S = 1.0


class StandbyKeeper:
    """One standby at a time on the replica's RAM file, from `start` to `activate` or `kill`."""

    def __init__(self, make: Callable[[], Standby], ram_path: Path) -> None:
        self._make = make
        self._ram_path = ram_path
        self._standby: Standby | None = None
        self._changing = asyncio.Lock()
        self._watch: asyncio.Task[None] | None = None
        #: Why no standby waits at present, "" if one does.
        self.trouble = ""

    async def start(self) -> None:
        """GuestError when the first standby cannot start: the configuration is to blame, not an accident."""
        require(self._watch is None, "a standby is kept once")
        self._standby = await self._start_one()
        self._watch = asyncio.create_task(self._keep())

    async def activate(self, device_state: bytes) -> Guest:
        """The guest, paused. GuestError when a second, new standby failed as well."""
        await self._end_watch()
        async with self._changing:
            standby = self._standby or await self._start_one()
            try:
                return await standby.activate(device_state)
            except GuestError as error:
                _LOG.warning("the standby could not take over, a new one is tried: %s", error)
                await standby.kill()
            standby = await self._start_one()
            return await standby.activate(device_state)

    async def kill(self) -> None:
        """End the standby, if it was not activated."""
        await self._end_watch()
        async with self._changing:
            if self._standby is not None:
                await self._standby.kill()

    async def _start_one(self) -> Standby:
        standby = self._make()
        await standby.start(self._ram_path)
        return standby

    async def _end_watch(self) -> None:
        # Not in the middle of a start, which would leave its process behind.
        async with self._changing:
            watch, self._watch = self._watch, None
            if watch is not None:
                watch.cancel()
        if watch is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await watch

    async def _keep(self) -> None:
        while True:
            if self._standby is not None:
                how = await self._standby.wait()
                self.trouble = f"the standby ended: {how}"
                _LOG.warning("%s; a new one is started", self.trouble)
            async with self._changing:
                await self._replace()
            if self._standby is None:
                await asyncio.sleep(RETRY_S)

    async def _replace(self) -> None:
        old, self._standby = self._standby, None
        try:
            if old is not None:
                await old.kill()
            self._standby = await self._start_one()
            self.trouble = ""
        except GuestError as error:
            self.trouble = f"no standby can be started: {error}"
            _LOG.warning("%s", self.trouble)
