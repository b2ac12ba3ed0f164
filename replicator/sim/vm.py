"""The machine that runs beside a primary's in COLO, as a secondary's daemon sees it: a guest that is loaded again and again."""

from __future__ import annotations

from collections.abc import Callable

from replicator.errors import GuestError, require
from replicator.guests.base import GuestIdentity
from replicator.memory.bitmap import DirtyBitmap
from replicator.sim.guest import MachineFaults, SimGuest, fail_answer
from replicator.sim.machine import MachineState
from replicator.sim.process import Process
from replicator.sim.twin import TwinMachine


class SimVm(SimGuest):
    """Implements guests.base.SecondaryVm for one process. `on_loaded` is called when it equals the primary's again."""

    def __init__(
        self,
        process: Process,
        machine: TwinMachine,
        identity: GuestIdentity,
        faults: MachineFaults,
        on_loaded: Callable[[SimVm], None],
    ) -> None:
        super().__init__(process, machine, identity, faults)
        self.machine: TwinMachine = machine
        # It is tracked from its start: what was written before is not its own.
        machine.dirty = set()
        self._on_loaded = on_loaded

    def die(self) -> None:
        """Its daemon learns of it from the command that it waits for, too."""
        super().die()
        if self._answer is not None:
            self._process.schedule(100_000, fail_answer, self._answer, "the VM's process is gone")

    async def reload(self, device_state: bytes, written: DirtyBitmap | None = None) -> None:
        await self._command(lambda: None)
        require(not self.machine.running, "loaded while it runs")
        if self._faults.load_fails:
            raise GuestError("the device state was not taken")
        if not self.machine.alive:
            raise GuestError("the VM's process is gone")
        self.machine.load(MachineState.unpack(device_state))
        self._on_loaded(self)
