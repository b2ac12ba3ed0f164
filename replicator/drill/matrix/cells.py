"""The cells of the matrix: every fault in every phase, or why not; and the few that a quick run tries. Pure."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

from replicator.drill.matrix.faults import NATURES, Fault, Setting
from replicator.drill.matrix.phases import Phase
from replicator.errors import ConfigError
from replicator.service.config import Mode


@dataclass(frozen=True, slots=True)
class Cell:
    """One fault in one phase. `reason` is not empty for a cell that is not run."""

    fault: Fault
    phase: Phase
    reason: str = ""

    @property
    def name(self) -> str:
        return f"{self.fault.value} @ {self.phase.value}"

    @property
    def setting(self) -> Setting:
        return NATURES[self.fault].setting


#: Each fault once, each phase at least once; the longest faults in phases that others have, too.
QUICK: tuple[tuple[Fault, Phase], ...] = (
    (Fault.KILL_HOST, Phase.RELEASING),
    (Fault.KILL_DAEMON, Phase.PAUSED),
    (Fault.KILL_GUEST, Phase.COPYING),
    (Fault.KILL_SECONDARY, Phase.STAGED),
    (Fault.KILL_STANDBY, Phase.APPLYING),
    (Fault.KILL_BOTH, Phase.COMMITTED),
    (Fault.FREEZE_LONG, Phase.RESUMING),
    (Fault.FREEZE_SHORT, Phase.SAVING),
    (Fault.FREEZE_SECONDARY, Phase.ACKED),
    (Fault.CUT, Phase.AWAITING),
    (Fault.CUT_OUT, Phase.SENDING),
    (Fault.CUT_BACK, Phase.COMMITTED),
    (Fault.REJECT, Phase.RUNNING),
    (Fault.REJECT_OUT, Phase.SENDING),
    (Fault.REJECT_BACK, Phase.APPLYING),
    (Fault.SLOW, Phase.SENDING),
    (Fault.FLIP, Phase.SENDING),
    (Fault.TRUNCATE, Phase.RECEIVING),
    (Fault.ARBITER_LOST, Phase.RUNNING),
    (Fault.ARBITER_LOST_PRIMARY, Phase.AWAITING),
    (Fault.ARBITER_LOST_SECONDARY, Phase.RUNNING),
    (Fault.ETCD_FROZEN, Phase.RUNNING),
    (Fault.ETCD_KILLED, Phase.AWAITING),
    (Fault.ETCD_KILL_HOST, Phase.RUNNING),
    (Fault.DISK_FULL, Phase.RECEIVING),
)
#: Of COLO, in the place of those of the same faults: its own phases are tried, too.
_QUICK_COLO: dict[Fault, Phase] = {
    Fault.KILL_VM: Phase.VM_LOADING,
    Fault.FRAMES_CUT: Phase.RUNNING,
    Fault.FRAMES_RESET: Phase.COMPARING,
    Fault.CUT_BACK: Phase.VM_SUSPENDED,
    Fault.REJECT: Phase.COMPARING,
    Fault.REJECT_OUT: Phase.JOINING,
    Fault.REJECT_BACK: Phase.VM_STARTING,
}


def quick_cells(mode: Mode) -> list[tuple[Fault, Phase]]:
    """Each fault of the mode once, each of its phases at least once."""
    if mode is Mode.REMUS:
        return list(QUICK)
    return list({**dict(QUICK), **_QUICK_COLO}.items())


def phases_of(mode: Mode) -> list[Phase]:
    """Those that an epoch passes through."""
    return [phase for phase in Phase if mode is Mode.COLO or not phase.is_colo]


def all_cells(mode: Mode = Mode.REMUS) -> list[Cell]:
    """Every pair of fault and phase of the mode, in the order of both."""
    faults = [fault for fault in Fault if mode is Mode.COLO or not NATURES[fault].is_colo]
    return [Cell(fault, phase, _why_not(fault, phase, mode)) for fault in faults for phase in phases_of(mode)]


def _why_not(fault: Fault, phase: Phase, mode: Mode) -> str:
    nature = NATURES[fault]
    if mode is Mode.COLO and nature.colo_phases is not None:
        return "" if phase in nature.colo_phases else nature.colo_otherwise
    return "" if phase in nature.phases else nature.otherwise


def choose_cells(
    *,
    mode: Mode = Mode.REMUS,
    quick: bool = False,
    faults: Iterable[str] = (),
    phases: Iterable[str] = (),
) -> list[Cell]:
    """The cells of a run, those with a reason not to be run among them. ConfigError for an unknown name."""
    wanted_faults = _named(Fault, faults, "fault")
    wanted_phases = _named(Phase, phases, "phase")
    cells = [cell for cell in all_cells(mode) if cell.fault in wanted_faults and cell.phase in wanted_phases]
    if quick:
        few = quick_cells(mode)
        cells = [cell for cell in cells if (cell.fault, cell.phase) in few]
    if not any(not cell.reason for cell in cells):
        raise ConfigError("no cell is left to run", hint="name other --faults or --phases")
    return cells


def _named(kind: type[Fault] | type[Phase], names: Iterable[str], what: str) -> set[Fault | Phase]:
    known = {member.value: member for member in kind}
    by_word = {value.replace(" ", "-"): member for value, member in known.items()}
    chosen = list(names)
    unknown = [name for name in chosen if name.replace(" ", "-") not in by_word]
    if unknown:
        raise ConfigError(f"{unknown[0]!r} is no {what}", hint=f"known are {', '.join(sorted(by_word))}")
    return {by_word[name.replace(" ", "-")] for name in chosen} or set(known.values())


def order_cells(cells: Iterable[Cell], seed: int) -> list[Cell]:
    """Those to be run: setting by setting, for a pair is started once for each, and in an order of the seed's."""
    rng = random.Random(seed)
    runnable = [cell for cell in cells if not cell.reason]
    rng.shuffle(runnable)
    settings = list(Setting)
    return sorted(runnable, key=lambda cell: settings.index(cell.setting))
