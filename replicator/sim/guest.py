"""A simulated machine as a daemon sees it: commands that take time and may fail, a scan of dirty pages, news of its end.

What the machine does between two commands is its own business (machine.py); how it came to be is the kit's (kit.py).
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from replicator.errors import GuestError, require
from replicator.guests.base import Died, GuestAgent, GuestEvent, GuestIdentity, NicEndpoint, PoweredOff
from replicator.memory.bitmap import DirtyBitmap
from replicator.memory.pages import GuestRam
from replicator.sim.machine import MAC, Machine
from replicator.sim.process import Process
from replicator.units import NS_PER_MS

COMMAND_NS = (60_000, 900_000)
#: A command that is not answered is given up after this, as QMP's are.
ANSWER_TIMEOUT_NS = 2_000 * NS_PER_MS

NICS = (NicEndpoint("nic0", MAC, Path("guest"), Path("relay")),)


@dataclass(slots=True)
class MachineFaults:
    """What goes wrong at the machines of one host at present."""

    #: Commands fail with this probability.
    error: float = 0.0
    #: Pauses are carried out and never answered.
    pause_hangs: bool = False
    #: Device states are not taken by a VM that runs beside another one.
    load_fails: bool = False


class SimGuest:
    """Implements guests.base.Guest for one process."""

    def __init__(
        self, process: Process, machine: Machine, identity: GuestIdentity, faults: MachineFaults
    ) -> None:
        self.machine = machine
        self._process = process
        self._identity = identity
        self._faults = faults
        self._events: asyncio.Queue[GuestEvent | None] = asyncio.Queue()
        self._killed = False
        #: Of the newest command.
        self._answer: asyncio.Future[None] | None = None

    @property
    def identity(self) -> GuestIdentity:
        return self._identity

    @property
    def ram(self) -> GuestRam:
        return self.machine.ram

    @property
    def nics(self) -> tuple[NicEndpoint, ...]:
        return NICS

    @property
    def pid(self) -> int:
        return 1

    @property
    def agent(self) -> GuestAgent | None:
        return None

    async def pause(self) -> None:
        await self._command(self.machine.pause, hangs=self._faults.pause_hangs)

    async def resume(self) -> None:
        await self._command(self.machine.resume)

    async def save_device_state(self, *, runs_on: bool = False) -> bytes:
        saved: list[bytes] = []
        await self._command(lambda: saved.append(self._save(runs_on)))
        require(bool(saved[0]), "saved while it runs")
        return saved[0]

    def _save(self, runs_on: bool) -> bytes:
        if self.machine.running:
            return b""
        state = self.machine.state.pack()
        if runs_on:
            self.machine.resume()
        return state

    def read_clock(self, device_state: bytes) -> int | None:
        return None

    def scan_dirty(self, bitmap: DirtyBitmap) -> int:
        if not self.machine.alive:
            raise GuestError("the guest's process is gone")
        if self._process.world.chance(self._faults.error):
            raise GuestError("the scan failed")
        found, self.machine.dirty = self.machine.dirty, set()
        bitmap.set_pfns(array("Q", sorted(found)))
        return len(found)

    def activity(self) -> int | None:
        return self.machine.bursts

    async def events(self) -> AsyncIterator[GuestEvent]:
        while (event := await self._events.get()) is not None:
            yield event

    async def shutdown(self) -> None:
        await self._command(self.machine.end)
        self._events.put_nowait(PoweredOff())

    async def kill(self) -> None:
        self._killed = True
        self.machine.end()
        self._events.put_nowait(None)

    def die(self) -> None:
        """Its process ends for itself."""
        if self.machine.alive and not self._killed:
            self.machine.end()
            self._process.schedule(100_000, self._events.put_nowait, Died("the guest's process ended"))

    async def _command(self, carry_out: Callable[[], None], *, hangs: bool = False) -> None:
        world = self._process.world
        answer = self._answer = asyncio.get_running_loop().create_future()
        fails = world.chance(self._faults.error)
        world.after(world.between(*COMMAND_NS), self._carry_out, carry_out, answer, fails, hangs)
        await answer

    def _carry_out(
        self, carry_out: Callable[[], None], answer: asyncio.Future[None], fails: bool, hangs: bool
    ) -> None:
        if not self.machine.alive:
            self._process.schedule(0, fail_answer, answer, "the guest's process is gone")
        elif hangs:
            carry_out()
            self._process.schedule(ANSWER_TIMEOUT_NS, fail_answer, answer, "the guest did not answer")
        elif fails:
            self._process.schedule(20_000, fail_answer, answer, "the command failed")
        else:
            carry_out()
            self._process.schedule(self._process.world.between(10_000, 200_000), _succeed, answer)


def _succeed(answer: asyncio.Future[None]) -> None:
    if not answer.done():
        answer.set_result(None)


def fail_answer(answer: asyncio.Future[None], reason: str) -> None:
    if not answer.done():
        answer.set_exception(GuestError(reason))
