"""What the judge knows of COLO's second machine: from which epoch it runs, what it has said and written since.

    C1  what left before its commit the VM had said too, in the same execution: from the same epoch on
    C3  after each load the VM's memory and state are the primary's at that epoch; while it runs its replica is not
        promotable and nothing is written into it
    C4  a VM that takes over has said, itself, all that left since its epoch
    C5  pages that it has written are in the next epoch's set

It knows the truth from the machines; what the relays compare is not known here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from replicator.sim.disk import SimStore
from replicator.sim.machine import Frame, Machine, MachineState
from replicator.sim.twin import TwinMachine

#: Term and epoch.
Origin = tuple[int, int]
Accuse = Callable[[str, str], None]


@dataclass(slots=True)
class Execution:
    """Of one VM, from one load to the next."""

    machine: TwinMachine
    origin: Origin
    #: When it began.
    state: MachineState
    said: set[Frame] = field(default_factory=set)


class Twins:
    """Of both hosts."""

    def __init__(self, accuse: Accuse) -> None:
        self._accuse = accuse
        #: Host -> the newest execution of a VM there, also of one that has ended.
        self._executions: dict[str, Execution] = {}
        #: Host -> what was committed there last.
        self._committed: dict[str, Origin] = {}
        #: Machines of primaries -> the barrier since which they run.
        self._since: dict[Machine, Origin] = {}
        #: What those have said, and since which barrier.
        self._origins: dict[Frame, Origin] = {}
        #: Lineage -> all that left, by number.
        self._left: dict[int, dict[int, Frame]] = {}
        self.loads = 0
        #: Frames that left before their commit.
        self.matched = 0
        #: By a VM that ran beside the primary's.
        self.take_overs = 0

    def forget(self) -> None:
        self._executions.clear()
        self._since.clear()
        self._origins.clear()
        self._left.clear()

    # The primary's machine.

    def on_barrier(self, machine: Machine, origin: Origin) -> None:
        self._since[machine] = origin

    def on_sent(self, machine: Machine, frame: Frame) -> None:
        if (origin := self._since.get(machine)) is not None:
            self._origins[frame] = origin

    def on_left(self, lineage: int, frame: Frame) -> None:
        self._left.setdefault(lineage, {})[frame.number] = frame

    def has_said(self, host: str, frame: Frame) -> bool:
        """Whether the VM there has said what the primary's machine has, both since the same epoch."""
        execution, origin = self._executions.get(host), self._origins.get(frame)
        if execution is None or origin != execution.origin or frame not in execution.said:
            return False
        self.matched += 1
        return True

    # The VM.

    def on_loaded(self, host: str, machine: TwinMachine, truth: MachineState, *, is_memory: bool) -> None:
        """`truth`: of the primary's machine at the epoch that was committed here last; `is_memory`: so is the VM's."""
        self.loads += 1
        origin = self._committed[host]
        if not is_memory:
            self._accuse("C3", f"{host}: the VM's memory is not that of epoch {origin}")
        elif machine.state != truth:
            self._accuse(
                "C3", f"{host}: the VM's state {machine.state} is not that of epoch {origin}: {truth}"
            )
        self._executions[host] = Execution(machine, origin, machine.state)
        machine.on_sent = self._on_vm_sent

    def _on_vm_sent(self, machine: Machine, frame: Frame) -> None:
        for execution in self._executions.values():
            if execution.machine is machine:
                execution.said.add(frame)

    def origin_at(self, host: str) -> Origin | None:
        return self._committed.get(host)

    def on_voice(self, host: str, machine: Machine) -> set[Frame]:
        """It is the guest from now on. What it has said so far."""
        self.take_overs += 1
        execution = self._executions.pop(host, None)
        if execution is None or execution.machine is not machine:
            self._accuse("C4", f"{host}: a VM that was never loaded takes over")
            return set()
        left = self._left.get(machine.lineage, {})
        for number in sorted(left):
            if number > execution.state.sent and left[number] not in execution.said:
                self._accuse("C4", f"{host}: the VM takes over, {left[number]} has left and it never said so")
                break
        return execution.said

    # The replica that it runs on.

    def on_store(self, host: str, store: SimStore, what: str) -> None:
        execution = self._executions.get(host)
        if what == "committed" and store.committed is not None:
            self._committed[host] = (store.committed.term, store.committed.epoch)
            self._check_union(host, store, execution)
        if execution is None or not execution.machine.running:
            return
        if what in ("begun", "part", "committed"):
            self._accuse("C3", f"{host}: the replica is written to ({what}) while a VM runs on it")
        self.check_promotable(host, store)

    def check_promotable(self, host: str, store: SimStore) -> None:
        execution = self._executions.get(host)
        if execution is not None and execution.machine.running and store.promotable.ready:
            self._accuse("C3", f"{host}: the replica is promotable as an epoch while a VM runs on it")

    def _check_union(self, host: str, store: SimStore, execution: Execution | None) -> None:
        """The epoch builds upon the one that the VM was loaded from."""
        base = store.base
        if base is None or execution is None or execution.origin != (base.term, base.epoch):
            return
        missing = execution.machine.written - store.pfns
        if missing:
            self._accuse(
                "C5", f"{host}: the VM wrote pages {sorted(missing)}, which are not in the epoch's set"
            )
