"""A primary's eye on its guest's clocks: how far they are behind, and under the policy "catch-up" the wall clock is set.

The guest's commands tell it of each stop (guest_commands.py). Setting the clock is a task of its own that talks to an
agent inside the guest while the guest runs; no epoch ever waits for it. What is decided is in engine/guest_clock.py.

An answer of the agent may belong to an epoch that is never committed: then the guest goes on elsewhere with its clock not
set, and whoever takes over looks at the clock anew instead of trusting what was known here.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from replicator.clock import Clock
from replicator.engine.guest_clock import CatchUp, ClockPolicy, ClockSettings, DriftMeter, Reading
from replicator.errors import ConfigError, GuestError
from replicator.guests.base import GuestAgent
from replicator.observe.status import ClockStatus
from replicator.units import NS_PER_MS

_LOG = logging.getLogger(__name__)

#: Between two looks whether the clock is too far behind.
LOOK_S = 0.2
#: A stop as long as this is none of an epoch's: the guest was frozen.
LONG_STOP_NS = 500 * NS_PER_MS


class HasClocks(Protocol):
    """What of guests.base.Guest concerns its clocks."""

    @property
    def agent(self) -> GuestAgent | None: ...

    def read_clock(self, device_state: bytes) -> int | None: ...


class ClockKeeper:
    """Of one guest, which runs. `behind_ns`: what is known of a life before; `was_set_back`: it was just taken over.

    `wall` is the host's wall clock in nanoseconds."""

    def __init__(
        self,
        guest: HasClocks,
        settings: ClockSettings,
        clock: Clock,
        *,
        behind_ns: int = 0,
        was_set_back: bool = False,
        wall: Callable[[], int] = time.time_ns,
    ) -> None:
        self._guest = guest
        self._settings = settings
        self._clock = clock
        self._wall = wall
        self._meter = DriftMeter(clock.monotonic_ns(), behind_ns)
        self._catch_up = CatchUp(is_ordered=was_set_back)
        self._stopped_ns = 0
        self._task: asyncio.Task[None] | None = None
        self._steps = 0
        self._last_step_ns = 0
        self._trouble = ""

    # Told by the guest's commands.

    def stop(self, now_ns: int) -> None:
        if not self._meter.is_stopped:
            self._stopped_ns = now_ns
        self._meter.stop(now_ns)

    def measure(self, device_state: bytes) -> None:
        """The guest is stopped, and this is its state."""
        running_ns = self._guest.read_clock(device_state)
        if running_ns is not None:
            self._meter.measure(running_ns)

    def start(self, now_ns: int) -> None:
        if self._is_frozen(now_ns):
            self._catch_up.order()
        self._meter.start(now_ns)

    def _is_frozen(self, now_ns: int) -> bool:
        return self._meter.is_stopped and now_ns - self._stopped_ns >= LONG_STOP_NS

    # Catching up.

    def begin(self) -> None:
        """Look after the wall clock from now on, if the policy says so."""
        if self._settings.policy is ClockPolicy.CATCH_UP and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._keep())
            self._task.add_done_callback(_tell_failure)

    async def end(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    def set_policy(self, policy: ClockPolicy) -> None:
        """ConfigError when the guest has no agent that could set its clock."""
        check_agent(policy, has_agent=self._guest.agent is not None)
        self._settings = replace(self._settings, policy=policy)
        self._trouble = ""
        self.begin()

    async def _keep(self) -> None:
        while True:
            agent, now_ns = self._guest.agent, self._clock.monotonic_ns()
            is_due = self._catch_up.is_due(self._settings, self._meter.behind_ns(now_ns), now_ns)
            if agent is not None and is_due and not self._is_frozen(now_ns):
                await self._set(agent)
            await asyncio.sleep(LOOK_S)

    async def _set(self, agent: GuestAgent) -> None:
        try:
            await agent.sync()
            reading = await self._read(agent)
            if reading.is_worth_a_step:
                await agent.set_time(self._wall())
                reading = self._note_step(reading, await self._read(agent))
        except GuestError as error:
            if self._trouble != str(error):
                _LOG.warning("the guest's clock is not set: %s", error)
            self._trouble = str(error)
            self._catch_up.failed(self._clock.monotonic_ns())
            return
        now_ns = self._clock.monotonic_ns()
        self._meter.correct(reading.likely_behind_ns, now_ns)
        self._catch_up.succeeded(now_ns)
        self._trouble = ""

    async def _read(self, agent: GuestAgent) -> Reading:
        asked_ns = self._wall()
        guest_ns = await agent.read_time()
        return Reading(asked_ns, guest_ns, self._wall())

    def _note_step(self, before: Reading, after: Reading) -> Reading:
        self._steps += 1
        self._last_step_ns = before.likely_behind_ns - after.likely_behind_ns
        _LOG.info(
            "the guest's wall clock was %.0f ms behind and is set; it is %.0f ms behind now",
            before.likely_behind_ns / NS_PER_MS,
            after.likely_behind_ns / NS_PER_MS,
        )
        return after

    # Shown.

    def behind_ns(self) -> int:
        """From any thread."""
        return self._meter.behind_ns(self._clock.monotonic_ns())

    def show(self) -> ClockStatus:
        now_ns = self._clock.monotonic_ns()
        return ClockStatus(
            self._settings.policy.value,
            self._meter.behind_ns(now_ns) / NS_PER_MS,
            self._meter.drift_ppm(now_ns),
            self._steps,
            self._last_step_ns / NS_PER_MS,
            self._trouble,
        )


def check_agent(policy: ClockPolicy, *, has_agent: bool) -> None:
    """ConfigError when the policy needs a way into the guest that is not there."""
    if policy is ClockPolicy.CATCH_UP and not has_agent:
        raise ConfigError(
            "the clock policy catch-up needs the guest agent, and this guest has no channel for one",
            hint='run qemu-guest-agent in the guest and write [agent] into its guest file, or use "continue"',
        )


def _tell_failure(task: asyncio.Task[None]) -> None:
    """Our own bug stops the looking after the clock, and nothing else."""
    if not task.cancelled() and (error := task.exception()) is not None:
        _LOG.error("the guest's clock is left alone from now on: %r", error, exc_info=error)
