"""Makes the machines of a simulated process: the one that is started, and the standby's, which waits for a device state.

It does not know what a daemon wants them for, nor what they do once they are made.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from replicator.errors import GuestError
from replicator.guests.base import (
    DirectStarter,
    Guest,
    GuestIdentity,
    NicEndpoint,
    SecondaryVm,
    Standby,
    VmStarter,
)
from replicator.memory.pages import GuestLayout, GuestRam
from replicator.sim.guest import NICS, MachineFaults, SimGuest
from replicator.sim.machine import MAC, Machine, MachineState, Workload
from replicator.sim.process import Process
from replicator.sim.twin import TwinMachine
from replicator.sim.vm import SimVm
from replicator.units import PAGE_SIZE


class SimStandby:
    """Implements guests.base.Standby."""

    def __init__(self, process: Process, kit: SimKit) -> None:
        self._process = process
        self._kit = kit
        self._ram: GuestRam | None = None
        self._ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def start(self, ram_path: Path) -> None:
        self._ram = self._kit.open_ram(ram_path)
        self._kit.standby = self

    async def activate(self, device_state: bytes) -> Guest:
        if self._ram is None or self._ended.done():
            raise GuestError("no process waits here")
        return self._kit.load(self._ram, device_state)

    async def wait(self) -> str:
        return await self._ended

    async def kill(self) -> None:
        if not self._ended.done():
            self._ended.set_result("killed")

    def die(self) -> None:
        self._process.run(lambda: None if self._ended.done() else self._ended.set_result("it died"), ())


@dataclass(frozen=True, slots=True)
class Twins:
    """Of a pair that does COLO: how its machines part, and who is told of each VM that is made, and of each load of one."""

    divergence: float
    on_vm: Callable[[SimVm], None]
    on_loaded: Callable[[SimVm], None]


class SimKit:
    """Implements service.guest_kit.ColoKit for one process. `on_machine` is told of each machine that it makes for a
    primary."""

    name = "vm"
    nic_count = 1
    has_agent = False

    def __init__(
        self,
        process: Process,
        workload: Workload,
        faults: MachineFaults,
        *,
        next_lineage: Callable[[], int],
        on_machine: Callable[[SimGuest, bool], None],
        twins: Twins | None = None,
    ) -> None:
        self._process = process
        self._workload = workload
        self._faults = faults
        self._next_lineage = next_lineage
        self._on_machine = on_machine
        self._twins = twins
        self._layout = GuestLayout.flat(workload.pages)
        self._rams: deque[GuestRam] = deque()
        self.standby: SimStandby | None = None

    @property
    def identity(self) -> GuestIdentity:
        pages = self._workload.pages
        return GuestIdentity(
            self.name, "", pages * PAGE_SIZE, tuple(self._layout.segments), "simulated", (), (MAC,)
        )

    async def identify(self, run_dir: Path) -> GuestIdentity:
        return self.identity

    async def start(self, ram_path: Path, run_dir: Path) -> Guest:
        fd = os.memfd_create("sim-guest")
        try:
            os.ftruncate(fd, self._workload.pages * PAGE_SIZE)
            ram = self._keep(GuestRam(fd, self._layout))
        finally:
            os.close(fd)
        state = MachineState(self._next_lineage(), 0, 0, 0)
        guest = self._make(ram, state)
        guest.machine.power_on()
        self._on_machine(guest, False)
        await guest.resume()
        return guest

    async def give_back(self, guest: Guest) -> None:
        await guest.kill()

    def make_standby(self, run_dir: Path) -> Standby:
        return SimStandby(self._process, self)

    def nics(self, run_dir: Path) -> tuple[NicEndpoint, ...]:
        return NICS

    def make_vm_starter(self, ram_path: Path, run_dir: Path) -> VmStarter:
        return DirectStarter(partial(self.start_secondary_vm, ram_path, run_dir))

    async def start_secondary_vm(self, ram_path: Path, run_dir: Path, device_state: bytes) -> SecondaryVm:
        twins = self._twins
        if twins is None:
            raise GuestError("a simulated guest of a pair that does Remus is alone")
        ram, state = self.open_ram(ram_path), MachineState.unpack(device_state)
        machine = TwinMachine(self._process.world, ram, self._workload, state, twins.divergence)
        vm = SimVm(self._process, machine, self.identity, self._faults, twins.on_loaded)
        twins.on_vm(vm)
        try:
            await vm.reload(device_state)
        except GuestError:
            await vm.kill()
            raise
        return vm

    def open_ram(self, path: Path) -> GuestRam:
        return self._keep(GuestRam(path, self._layout))

    def load(self, ram: GuestRam, device_state: bytes) -> SimGuest:
        state = MachineState.unpack(device_state)
        guest = self._make(ram, state)
        guest.machine.load(state)
        self._on_machine(guest, True)
        return guest

    def _make(self, ram: GuestRam, state: MachineState) -> SimGuest:
        world, workload, twins = self._process.world, self._workload, self._twins
        machine = (
            TwinMachine(world, ram, workload, state, twins.divergence)
            if twins is not None
            else Machine(world, ram, workload, state)
        )
        return SimGuest(self._process, machine, self.identity, self._faults)

    def _keep(self, ram: GuestRam) -> GuestRam:
        self._rams.append(ram)
        return ram

    def close(self) -> None:
        """At the end of the run."""
        while self._rams:
            self._rams.pop().close()
