"""The course of one run: the pair is switched on, faults come and go as planned, and there is a verdict.

It brings the parts together; what a fault does (deeds.py), what the operator does and what is a broken promise is theirs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from replicator.engine.colo import Colo
from replicator.engine.effects import HandOver
from replicator.engine.events import Event, LeaseTaken
from replicator.engine.primary import PrimaryMachine
from replicator.engine.secondary import SecondaryMachine
from replicator.engine.secondary_vm import Vm
from replicator.service.views import Role
from replicator.sim import deeds
from replicator.sim.clients import Clients
from replicator.sim.faults import Fault
from replicator.sim.judge import Violation
from replicator.sim.mover import Mover
from replicator.sim.operator import Operator
from replicator.sim.pair import Pair
from replicator.sim.settings import Settings
from replicator.sim.witness import Witness
from replicator.units import NS_PER_MS

#: Which machine it is, and what states its parts are in.
State = tuple[Any, ...]

#: C7: within this time after the last fault the pair is protected again.
SETTLE_NS = 12_000 * NS_PER_MS
#: And within this one it has committed the epochs of a run: where each epoch of a small staging needs several passes,
#: and a hung guest has cost seconds, that takes longer.
EPOCHS_NS = 3 * SETTLE_NS


@dataclass(frozen=True, slots=True)
class Result:
    """Of one run. `epochs` were committed; `coverage` counts (state, event)."""

    seed: int
    plan: tuple[Fault, ...]
    violation: Violation | None
    epochs: int
    frames: int
    virtual_ns: int
    take_overs: int
    #: In COLO: loads of the second VM, and frames that left because both had said them.
    loads: int = 0
    matched: int = 0
    vm_take_overs: int = 0
    trace: tuple[str, ...] = ()
    coverage: Counter[tuple[str, str]] = field(default_factory=Counter)


class Simulation:
    """`run` once."""

    def __init__(self, seed: int, plan: Sequence[Fault], settings: Settings) -> None:
        self._seed = seed
        self._plan = tuple(plan)
        self._pair = Pair(seed, settings)
        self._world, self._judge = self._pair.world, self._pair.stage.judge
        self._faults_over_ns = max((fault.at_ms + fault.for_ms for fault in plan), default=0) * NS_PER_MS + 1
        self._operator = Operator(self._pair, patient_until_ns=self._faults_over_ns)
        self._mover = Mover(self._pair, settings.switchovers)
        self._witness = Witness(self._pair)
        self._clients = Clients(self._pair)
        #: (the state's parts, the event's type): turned into text only at the end.
        self._met: Counter[tuple[State, type[Event]]] = Counter()
        for name, host in self._pair.hosts.items():
            host.watcher = partial(self._watch, name)

    def run(self) -> Result:
        try:
            self._begin_everything()
            self._go_on()
            return self._sum_up()
        finally:
            self._pair.bury()

    def _begin_everything(self) -> None:
        self._operator.switch_on()
        for fault in self._plan:
            self._world.at(fault.at_ms * NS_PER_MS, self._begin, fault)
            self._world.at((fault.at_ms + fault.for_ms) * NS_PER_MS, self._end, fault)
        self._witness.start()
        self._operator.start()
        self._mover.start()
        self._clients.start()

    def _go_on(self) -> None:
        """Until a promise is broken, or the pair has come to rest after the last fault."""
        judge, world, witness = self._judge, self._world, self._witness
        has_settled = witness.has_settled
        faults_over_ns = self._faults_over_ns
        deadline_ns = faults_over_ns + SETTLE_NS
        while judge.violation is None:
            world.step()
            if world.now_ns <= faults_over_ns:
                continue
            if has_settled():
                break
            if world.now_ns <= deadline_ns:
                continue
            if witness.is_calm() and world.now_ns <= faults_over_ns + EPOCHS_NS:
                deadline_ns = world.now_ns + SETTLE_NS // 12
                continue
            passed_ms = (world.now_ns - faults_over_ns) // NS_PER_MS
            judge.accuse("C7", f"not protected {passed_ms} ms after the faults: {witness.words()}")

    def _sum_up(self) -> Result:
        judge, world = self._judge, self._world
        for host in self._pair.hosts.values():
            if host.process is not None:
                judge.note_errors(host.process)
        violation = judge.violation
        return Result(
            self._seed,
            self._plan,
            violation,
            judge.commits,
            judge.frames_left,
            world.now_ns,
            judge.take_overs,
            judge.twins.loads,
            judge.twins.matched,
            judge.twins.take_overs,
            tuple(world.read_trace()) if violation else (),
            self._describe_coverage(),
        )

    def _begin(self, fault: Fault) -> None:
        self._world.note("fault", f"begins: {fault}")
        deeds.begin(fault, self._pair)

    def _end(self, fault: Fault) -> None:
        deeds.end(fault, self._pair)
        if fault.for_ms:
            self._world.note("fault", f"is over: {fault.kind.name} {fault.host}")

    def _watch(self, host: str, role: Role, happening: object) -> None:
        world = self._world
        world.trace.append((world.now_ns, host, happening))
        if isinstance(happening, Event):
            self._met[state_of(role.machine), type(happening)] += 1
            if type(happening) is LeaseTaken and happening.is_by_bug:
                self._judge.accuse("crash", f"{host}: {happening.reason}")
        elif type(happening) is HandOver:
            self._witness.check_emptied(host)

    def _describe_coverage(self) -> Counter[tuple[str, str]]:
        return Counter(
            {(describe_state(state), event.__name__): n for (state, event), n in self._met.items()}
        )


def state_of(machine: PrimaryMachine | SecondaryMachine) -> State:
    """The part of a machine's state that decides what an event leads to, by the values of enums: members are slow to hash."""
    if isinstance(machine, PrimaryMachine):
        step = machine.pipeline.step
        state = "primary", machine.life._value_, machine.link._value_, machine.bar._value_, step._value_
        return state if machine.colo is None else (*state, _state_of_colo(machine.colo))
    replica, receives = machine.replica._value_, machine.receiving is not None
    if machine.vm.state is Vm.NONE:
        return "secondary", machine.life._value_, replica, receives
    return "secondary", machine.life._value_, replica, f"vm {machine.vm.state._value_}", receives


def _state_of_colo(colo: Colo) -> str:
    return "comparing" if colo.compared_from is not None else colo.state._value_


def describe_state(state: State) -> str:
    side, *parts = state
    if side == "secondary" and parts.pop():
        parts[-1] += ", receiving"
    return f"{side} {', '.join(parts)}"
