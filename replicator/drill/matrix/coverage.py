"""Which cells meet each state of the machines: whoever adds a state says here which phase or fault tries it.

The tests compare this with the machines' own enumerations, so that a state cannot come without a cell. Faults of a
simulated pair are listed in the same way (SIMULATED), each with its counterpart on real parts or why there is none.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from replicator.drill.matrix.faults import Fault
from replicator.drill.matrix.phases import Phase
from replicator.engine import primary, secondary
from replicator.engine.colo import ColoState
from replicator.engine.pipeline import Step
from replicator.engine.secondary_vm import Vm


@dataclass(frozen=True, slots=True)
class Covered:
    """By these phases or faults, or by none for a reason."""

    by: tuple[Phase | Fault, ...] = ()
    reason: str = ""


_MOVE = "the operator moves the guest: the simulator does so under faults, tests/live/test_switchover.py on real parts"
_PACED = "the drill's pairs never give comparing up: the simulator has pairs that do"
COVERED_BY: dict[Enum, Covered] = {
    Step.IDLE: Covered((Fault.KILL_SECONDARY, Fault.CUT)),
    Step.WAITING: Covered((Phase.RUNNING, Phase.AWAITING, Phase.RELEASING)),
    Step.EARLY: Covered(
        reason="only an epoch of thousands of pages has it; the simulator's are small enough"
    ),
    Step.STANDING: Covered(reason=_MOVE),
    Step.LIVE: Covered((Fault.KILL_SECONDARY, Fault.DISK_FULL)),
    Step.PAUSING: Covered((Phase.RUNNING,)),
    Step.JOINING: Covered((Phase.JOINING,)),
    Step.COPYING: Covered((Phase.PAUSED, Phase.COPYING)),
    Step.SAVING: Covered((Phase.SAVING,)),
    Step.RESUMING: Covered((Phase.RESUMING,)),
    primary.Link.DOWN: Covered((Fault.KILL_SECONDARY, Fault.CUT, Fault.REJECT)),
    primary.Link.GREETING: Covered((Fault.CUT_OUT, Fault.CUT_BACK)),
    primary.Link.READY: Covered(tuple(Phase)),
    primary.Bar.BARRED: Covered((Fault.KILL_SECONDARY, Fault.CUT)),
    primary.Bar.LIFTING: Covered((Fault.KILL_HOST, Fault.ETCD_KILL_HOST)),
    primary.Bar.LIFTED: Covered(tuple(Phase)),
    primary.Bar.BARRING: Covered((Fault.CUT, Fault.FREEZE_SECONDARY)),
    primary.Life.RUNNING: Covered(tuple(Phase)),
    primary.Life.FROZEN: Covered((Fault.ARBITER_LOST, Fault.ARBITER_LOST_PRIMARY, Fault.ETCD_FROZEN)),
    primary.Life.HANDING_OVER: Covered(reason=_MOVE),
    primary.Life.MOVED: Covered(reason=_MOVE),
    primary.Life.UNPROTECTED: Covered(reason="the operator ends the protection: no fault leads here"),
    primary.Life.STOPPING: Covered(
        reason="the operator or the guest itself ends the pair: no fault leads here"
    ),
    primary.Life.FENCED: Covered((Fault.FREEZE_LONG,)),
    primary.Life.ENDED: Covered((Fault.KILL_GUEST,)),
    secondary.Replica.EMPTY: Covered((Fault.KILL_HOST, Fault.KILL_SECONDARY)),
    secondary.Replica.WHOLE: Covered(tuple(Phase)),
    secondary.Life.FOLLOWING: Covered(tuple(Phase)),
    secondary.Life.ASKING: Covered((Fault.KILL_HOST, Fault.CUT)),
    secondary.Life.PROMOTING: Covered((Fault.KILL_HOST, Fault.KILL_GUEST)),
    secondary.Life.PROMOTED: Covered((Fault.KILL_HOST, Fault.KILL_DAEMON)),
    secondary.Life.STOOD_DOWN: Covered(reason="the pair ends in order: no fault leads here"),
    secondary.Life.FAILED: Covered(
        reason="only a replica or a QEMU that cannot be used leads here: see tests/store"
    ),
    ColoState.COMPARED: Covered((Phase.COMPARING, Phase.RUNNING)),
    ColoState.PACED: Covered(reason=_PACED),
    Vm.NONE: Covered((Fault.KILL_VM, Fault.KILL_SECONDARY)),
    Vm.LOADING: Covered((Phase.VM_LOADING,)),
    Vm.LOADED: Covered((Phase.VM_STARTING,)),
    Vm.RUNNING: Covered((Phase.COMPARING, Phase.RUNNING)),
    Vm.SUSPENDED: Covered((Phase.VM_SUSPENDED, Phase.RECEIVING, Phase.STAGED)),
    Vm.PARKED: Covered(reason=_PACED),
}
#: The machines' enumerations that COVERED_BY must name whole.
STATES: tuple[type[Enum], ...] = (
    Step,
    primary.Link,
    primary.Bar,
    primary.Life,
    secondary.Replica,
    secondary.Life,
    ColoState,
    Vm,
)
_CLOCK = "a real host's clock is not the drill's to change"
_INSIDE = "real parts cannot be made to fail just there; the simulated ones can"
#: Name of a simulated fault's kind (sim/faults.py) -> its counterpart here.
SIMULATED: dict[str, Covered] = {
    "CUT": Covered((Fault.CUT,)),
    "CUT_ONE_WAY": Covered((Fault.CUT_OUT, Fault.CUT_BACK, Fault.REJECT_OUT, Fault.REJECT_BACK)),
    "DROP": Covered(reason="TCP sends again what is lost: it looks as the slow link does"),
    "DELAY": Covered((Fault.SLOW,)),
    "SLOW": Covered((Fault.SLOW,)),
    "RESET": Covered((Fault.REJECT, Fault.TRUNCATE)),
    "FLIP": Covered((Fault.FLIP,)),
    "KILL": Covered((Fault.KILL_DAEMON, Fault.KILL_SECONDARY)),
    "HOST_DEATH": Covered((Fault.KILL_HOST,)),
    "BOTH_DEATHS": Covered((Fault.KILL_BOTH,)),
    "GUEST_DEATH": Covered((Fault.KILL_GUEST,)),
    "STANDBY_DEATH": Covered((Fault.KILL_STANDBY,)),
    "FREEZE": Covered((Fault.FREEZE_LONG, Fault.FREEZE_SHORT, Fault.FREEZE_SECONDARY)),
    "FREEZE_HOST": Covered(reason="a guest that sleeps with its daemon does less harm than one that goes on"),
    "HANG": Covered(reason="the renewals stop for the same reason as in a freeze, which is tried"),
    "ARBITER_CUT": Covered((Fault.ARBITER_LOST_PRIMARY, Fault.ARBITER_LOST_SECONDARY)),
    "ARBITER_DOWN": Covered((Fault.ARBITER_LOST, Fault.ETCD_KILLED)),
    "ARBITER_ANSWERS": Covered((Fault.ETCD_FROZEN,)),
    "ARBITER_SLOW": Covered((Fault.ETCD_FROZEN,)),
    "DRIFT": Covered(reason=_CLOCK),
    "JUMP": Covered(reason=_CLOCK),
    "GUEST_ERROR": Covered(reason=_INSIDE),
    "PAUSE_HANGS": Covered(reason=_INSIDE),
    "DISK_FULL": Covered((Fault.DISK_FULL,)),
    "DISK_DEATH": Covered((Fault.KILL_BOTH,)),
    "VM_DEATH": Covered((Fault.KILL_VM,)),
    "VM_LOAD": Covered((Fault.KILL_VM,)),
    "FRAMES_CUT": Covered((Fault.FRAMES_CUT,)),
    "FRAMES_RESET": Covered((Fault.FRAMES_RESET,)),
    "FULL_HOLD": Covered(
        reason="a full hold closes the epoch early: no fault, and its own live test tries it"
    ),
}
