"""A primary's hand on its guest: commands one at a time, never a run without a lease, and the news of its end.

The steps of an epoch (epoch_steps.py) command the guest through this file as well. Pages and output are not known here.
"""

from __future__ import annotations

import asyncio
import logging

from replicator.engine import events as ev
from replicator.errors import GuestError
from replicator.guests.base import Died, Panicked, PoweredOff
from replicator.service.clock_keeper import ClockKeeper
from replicator.service.primary_parts import Post, PrimaryParts

_LOG = logging.getLogger(__name__)

SHUTDOWN_PATIENCE_S = 20.0
#: From a failed command to the news of the guest's end, if that was the reason.
DEATH_NEWS_S = 1.0


class GuestCommands:
    """For one guest, from the role's start to `kill`."""

    def __init__(self, parts: PrimaryParts, post: Post) -> None:
        self._parts = parts
        self._post = post
        self.clock = ClockKeeper(
            parts.guest,
            parts.clock_settings,
            parts.clock,
            behind_ns=parts.clock_behind_ns,
            was_set_back=parts.was_set_back,
        )
        #: Held while its dirty pages are scanned, for which its process must be there.
        self.scanning = asyncio.Lock()
        #: Held for each command: a thaw that was ordered before a pause may not come after it.
        self._commanding = asyncio.Lock()
        #: It has powered off, panicked or died: nothing is left to shut down.
        self._is_off = asyncio.Event()
        #: CLOCK_MONOTONIC when it was last told to pause for an epoch.
        self.paused_ns = 0
        #: CLOCK_MONOTONIC when it was found to go on after its state was saved, 0 when it was not told to.
        self._went_on_ns = 0

    async def watch(self) -> None:
        """Post the guest's end, when it comes."""
        async for event in self._parts.guest.events():
            if isinstance(event, PoweredOff | Panicked | Died):
                self._is_off.set()
            if isinstance(event, PoweredOff):
                self._post(ev.GuestEnded("the guest powered off", died=False))
            elif isinstance(event, Panicked):
                self._post(ev.GuestEnded(f"the guest panicked {event.reason}".rstrip(), died=False))
            elif isinstance(event, Died):
                self._post(ev.GuestEnded(event.reason, died=True))

    async def hears_of_its_end(self) -> bool:
        """Whether the guest is off, or turns out to be within DEATH_NEWS_S."""
        try:
            await asyncio.wait_for(self._is_off.wait(), DEATH_NEWS_S)
        except TimeoutError:
            return False
        return True

    # In an epoch. GuestError when the command fails.

    async def pause(self) -> None:
        async with self._commanding:
            self.paused_ns = self._parts.clock.monotonic_ns()
            self._went_on_ns = 0
            self.clock.stop(self.paused_ns)
            await self._parts.guest.pause()

    async def save_device_state(self, *, runs_on: bool = False) -> bytes:
        """With `runs_on` the guest goes on right afterwards if there is a lease at this moment; `resume` follows."""
        async with self._commanding:
            runs_on = runs_on and self._parts.has_lease()
            try:
                state = await self._parts.guest.save_device_state(runs_on=runs_on)
            finally:
                self._went_on_ns = self._parts.clock.monotonic_ns() if runs_on else 0
            self.clock.measure(state)
            return state

    async def resume(self) -> bool:
        """False when there is no lease at that moment: the guest stands still as before. What was told to go on when
        there was one does: there is nothing left to be denied."""
        async with self._commanding:
            started_ns, self._went_on_ns = self._went_on_ns, 0
            if not started_ns:
                if not self._parts.has_lease():
                    return False
                started_ns = self._parts.clock.monotonic_ns()
            await self._parts.guest.resume()
            self.clock.start(started_ns)
            return True

    # Outside of one. A failure is the guest's end.

    async def freeze(self) -> None:
        try:
            async with self._commanding:
                self._went_on_ns = 0
                self.clock.stop(self._parts.clock.monotonic_ns())
                await self._parts.guest.pause()
        except GuestError as error:
            await self.failed(error)

    async def thaw(self) -> None:
        try:
            await self.resume()
        except GuestError as error:
            await self.failed(error)

    async def failed(self, error: GuestError) -> None:
        """It could not be commanded, which is its end. One that powers off in a pause refuses to go on before its news
        are here: called dead, it would be brought back on the other side."""
        if not await self.hears_of_its_end():
            self._post(ev.GuestEnded(str(error), died=True))

    # The end.

    def fence(self) -> None:
        """Nothing of the guest leaves from now on, and the lease is let go."""
        self._parts.deadline.deadline_ns = 0
        self._parts.keeper.stop()
        self._parts.relay.discard_output()

    async def shut_down(self) -> None:
        """Let it power off; returns after SHUTDOWN_PATIENCE_S in any case."""
        try:
            await asyncio.wait_for(self._power_off(), SHUTDOWN_PATIENCE_S)
        except (TimeoutError, GuestError) as error:
            _LOG.warning(
                "the guest did not power off within %.0f s and is ended: %r", SHUTDOWN_PATIENCE_S, error
            )

    async def _power_off(self) -> None:
        if not self._is_off.is_set():
            await self._parts.guest.shutdown()
        await self._is_off.wait()

    async def kill(self) -> None:
        """Once no scan is under way."""
        await self.clock.end()
        async with self.scanning:
            await self._parts.guest.kill()
