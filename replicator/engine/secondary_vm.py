"""COLO at the secondary: the VM that runs beside the primary's, and what that makes of the replica.

    NONE --epoch that runs it committed--> LOADING --VmLoaded--> LOADED --VmResumed--> RUNNING --suspended--> SUSPENDED
    SUSPENDED --another such epoch--> LOADING      SUSPENDED --an epoch that does not run it--> PARKED --such one--> LOADING

From LOADING on the replica's RAM is the VM's: it equals no epoch any more, and what a take-over goes on with is the VM.
All that the primary let out since the epoch, this VM has said as well. Parked, its RAM is one whole epoch again.

Rules: 1. Nothing is written into the replica while the VM runs. 2. What the VM has written is told, from the last
commit on, as often as the primary asks, so an epoch that is given up loses none of it. 3. A VM that fails takes a
replica that was its own with it. This file does not know how a VM is loaded, nor who may take over.
"""

from __future__ import annotations

from enum import Enum

from replicator.engine import effects as fx
from replicator.engine.effects import Effect
from replicator.units import Epoch


class Vm(Enum):
    NONE = "none"
    LOADING = "loading"
    LOADED = "loaded"
    RUNNING = "running"
    SUSPENDED = "suspended"
    PARKED = "parked"


class VmKeeper:
    """Each method returns the effects of one thing that has happened."""

    def __init__(self) -> None:
        self.state = Vm.NONE

    @property
    def owns_replica(self) -> bool:
        """The replica's RAM is what the VM made of it."""
        return self.state not in (Vm.NONE, Vm.PARKED)

    def stand_still(self) -> list[Effect]:
        """Before anything is written into the replica."""
        if self.state is not Vm.RUNNING:
            return []
        self.state = Vm.SUSPENDED
        return [fx.SuspendVm()]

    def ordered(self, session: bytes, epoch: Epoch) -> list[Effect]:
        """The primary makes `epoch`."""
        return [*self.stand_still(), fx.TellVmSuspended(session, epoch)]

    def committed(self, epoch: Epoch, *, runs: bool) -> list[Effect]:
        """The replica is this epoch, from which the VM is to run or not."""
        if runs:
            self.state = Vm.LOADING
            return [fx.LoadVm(epoch)]
        if self.state is not Vm.NONE:
            self.state = Vm.PARKED
        return []

    def loaded(self, session: bytes, epoch: Epoch) -> list[Effect]:
        if self.state is not Vm.LOADING:
            return []
        self.state = Vm.LOADED
        # The word is for those who watch: the VM does not wait for it.
        return [fx.RunVm(epoch), fx.TellVmState(session, epoch, runs=False)]

    def resumed(self, session: bytes, epoch: Epoch) -> list[Effect]:
        if self.state is not Vm.LOADED:
            return []
        self.state = Vm.RUNNING
        return [fx.TellVmState(session, epoch, runs=True)]

    def end(self) -> list[Effect]:
        """Its replica is given up, or is run by another process."""
        if self.state is Vm.NONE:
            return []
        self.state = Vm.NONE
        return [fx.EndVm()]
