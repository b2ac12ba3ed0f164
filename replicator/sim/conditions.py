"""What a host is like at present: its clock, and what goes wrong with its parts. It outlives the daemons that run there."""

from __future__ import annotations

from dataclasses import dataclass, field

from replicator.sim.arbiter import ArbiterRoute
from replicator.sim.clocks import HostClock
from replicator.sim.disk import DiskFaults
from replicator.sim.guest import MachineFaults


@dataclass(slots=True)
class Conditions:
    """Changed by faults, read by the parts."""

    clock: HostClock
    machine: MachineFaults = field(default_factory=MachineFaults)
    disk: DiskFaults = field(default_factory=DiskFaults)
    route: ArbiterRoute = field(default_factory=ArbiterRoute)
    #: Added to the time after which a thread of the pool begins.
    pool_extra_ns: int = 0
