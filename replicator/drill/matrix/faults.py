"""What can go wrong: each class of fault, what it must lead to, and in which phases of an epoch it makes sense.

Pure description; how a fault is made and undone is in injuries.py, under the same names.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from replicator.drill.matrix.phases import OF_PRIMARY, OF_SECONDARY, Phase


class Outcome(Enum):
    """What the pair must do about a fault. In every case nothing is lost or repeated and one side speaks."""

    #: The other side goes on with the guest.
    TAKE_OVER = "take-over"
    #: The primary keeps the guest and goes on alone, until the fault is over.
    ALONE = "alone"
    #: The primary keeps the guest and falls silent, until the fault is over.
    FROZEN = "frozen"
    #: The primary keeps the guest; the pair notices, and needs no help.
    SHAKEN = "shaken"
    #: The primary keeps the guest; there is nothing that must be noticed.
    QUIET = "quiet"


class Setting(Enum):
    """How the pair is set up; faults of one setting share a pair."""

    PLAIN = "plain"
    #: A relay of the drill stands between the daemons.
    RELAYED = "relayed"
    #: The arbiter is a real etcd.
    ETCD = "etcd"


class Fault(Enum):
    """The classes of faults; the value is the name that the command line and the reports use."""

    KILL_HOST = "kill-host"
    KILL_DAEMON = "kill-daemon"
    KILL_GUEST = "kill-guest"
    KILL_SECONDARY = "kill-secondary"
    KILL_STANDBY = "kill-standby"
    KILL_VM = "kill-vm"
    KILL_BOTH = "kill-both"
    FREEZE_LONG = "freeze-long"
    FREEZE_SHORT = "freeze-short"
    FREEZE_SECONDARY = "freeze-secondary"
    CUT = "cut"
    CUT_OUT = "cut-out"
    CUT_BACK = "cut-back"
    REJECT = "reject"
    REJECT_OUT = "reject-out"
    REJECT_BACK = "reject-back"
    SLOW = "slow"
    FRAMES_CUT = "frames-cut"
    FRAMES_RESET = "frames-reset"
    FLIP = "flip"
    TRUNCATE = "truncate"
    ARBITER_LOST = "arbiter-lost"
    ARBITER_LOST_PRIMARY = "arbiter-lost-primary"
    ARBITER_LOST_SECONDARY = "arbiter-lost-secondary"
    ETCD_FROZEN = "etcd-frozen"
    ETCD_KILLED = "etcd-killed"
    ETCD_KILL_HOST = "etcd-kill-host"
    DISK_FULL = "disk-full"


@dataclass(frozen=True, slots=True)
class Nature:
    """`phases` are those in which the fault is tried; `otherwise` says why it is not in the others."""

    what: str
    outcome: Outcome
    phases: tuple[Phase, ...] = tuple(Phase)
    otherwise: str = ""
    setting: Setting = Setting.PLAIN
    #: There is nothing of the kind in Remus.
    is_colo: bool = False
    #: In COLO, where they are others.
    colo_phases: tuple[Phase, ...] | None = None
    colo_otherwise: str = ""
    #: From the fault to the guest's run on the other side, at most; and a client's longest gap.
    bounds_ms: tuple[int, int] = field(default=(2_000, 4_000))


_LASTS = "it lasts for many epochs and so meets this phase as well"
_OTHER_SIDE = "it stops one side only, and that side is not in this phase"
_FRAMES = "damage is done to bytes under way, and none are in this phase"
_STORE = "the store writes nothing in this phase"
_SLOW_ARBITER = (
    "the same code runs in this phase as with the file arbiter, which kill-host and arbiter-lost try"
)
_VM_ONLY = "the secondary's state is its running VM: with both hosts nothing is left that may be promoted"
_LATENT = "the standby takes no part in an epoch; it is tried once on either side"
_SOME = (Phase.RUNNING, Phase.RESUMING, Phase.AWAITING, Phase.COMMITTED)
_ETCD_BOUNDS = (5_000, 8_000)

NATURES: dict[Fault, Nature] = {
    Fault.KILL_HOST: Nature("SIGKILL of the primary's daemon and of its guest", Outcome.TAKE_OVER),
    Fault.KILL_DAEMON: Nature("SIGKILL of the primary's daemon alone", Outcome.TAKE_OVER),
    Fault.KILL_GUEST: Nature("SIGKILL of the primary's guest alone", Outcome.TAKE_OVER),
    Fault.KILL_SECONDARY: Nature("SIGKILL of the secondary's daemon and its standby", Outcome.ALONE),
    Fault.KILL_STANDBY: Nature(
        "SIGKILL of the process that waits for the guest",
        Outcome.QUIET,
        (Phase.RUNNING, Phase.APPLYING),
        _LATENT,
    ),
    Fault.KILL_VM: Nature(
        "SIGKILL of the VM that runs beside the primary's, alone", Outcome.QUIET, is_colo=True
    ),
    Fault.KILL_BOTH: Nature(
        "SIGKILL of everything on both hosts; then the secondary's daemon is started again",
        Outcome.TAKE_OVER,
        colo_phases=(Phase.APPLYING, Phase.COMMITTED, Phase.ACKED, Phase.VM_LOADING),
        colo_otherwise=_VM_ONLY,
        bounds_ms=(8_000, 10_000),
    ),
    Fault.FREEZE_LONG: Nature(
        "SIGSTOP of the primary's daemon until the other side has the guest, then SIGCONT",
        Outcome.TAKE_OVER,
        OF_PRIMARY,
        _OTHER_SIDE,
    ),
    Fault.FREEZE_SHORT: Nature(
        "SIGSTOP of the primary's daemon for less than its lease", Outcome.QUIET, OF_PRIMARY, _OTHER_SIDE
    ),
    Fault.FREEZE_SECONDARY: Nature(
        "SIGSTOP of the secondary's daemon until it is given up, then SIGCONT",
        Outcome.ALONE,
        OF_SECONDARY,
        _OTHER_SIDE,
    ),
    Fault.CUT: Nature("the replication link drops every frame, both ways", Outcome.ALONE),
    Fault.CUT_OUT: Nature("what the primary sends is dropped", Outcome.ALONE),
    Fault.CUT_BACK: Nature("what the secondary sends is dropped", Outcome.ALONE),
    Fault.REJECT: Nature(
        "connections are reset, new ones refused (RST)", Outcome.ALONE, setting=Setting.RELAYED
    ),
    Fault.REJECT_OUT: Nature("the secondary is unreachable for the primary (EHOSTUNREACH)", Outcome.ALONE),
    Fault.REJECT_BACK: Nature("the primary is unreachable for the secondary (EHOSTUNREACH)", Outcome.ALONE),
    Fault.SLOW: Nature(
        "the link has 20 ms of delay and 8 MB/s for some time",
        Outcome.QUIET,
        (Phase.SENDING,),
        _LASTS,
        Setting.RELAYED,
    ),
    Fault.FRAMES_CUT: Nature(
        "the channel of the guests' frames carries nothing for some time, the link goes on",
        Outcome.QUIET,
        setting=Setting.RELAYED,
        is_colo=True,
    ),
    Fault.FRAMES_RESET: Nature(
        "the connection of the guests' frames is reset", Outcome.SHAKEN, setting=Setting.RELAYED, is_colo=True
    ),
    Fault.FLIP: Nature(
        "one byte of an epoch is changed under way",
        Outcome.SHAKEN,
        (Phase.RESUMING, Phase.SENDING, Phase.RECEIVING),
        _FRAMES,
        Setting.RELAYED,
    ),
    Fault.TRUNCATE: Nature(
        "the connection ends in the middle of an epoch's frame",
        Outcome.SHAKEN,
        (Phase.RESUMING, Phase.SENDING, Phase.RECEIVING),
        _FRAMES,
        Setting.RELAYED,
    ),
    Fault.ARBITER_LOST: Nature("neither side reaches the arbiter", Outcome.FROZEN, _SOME, _LASTS),
    Fault.ARBITER_LOST_PRIMARY: Nature(
        "the primary does not reach the arbiter", Outcome.FROZEN, _SOME, _LASTS
    ),
    Fault.ARBITER_LOST_SECONDARY: Nature(
        "the secondary does not reach the arbiter", Outcome.QUIET, (Phase.RUNNING,), _LASTS
    ),
    Fault.ETCD_FROZEN: Nature(
        "SIGSTOP of etcd until the primary is frozen",
        Outcome.FROZEN,
        (Phase.RUNNING, Phase.AWAITING),
        _LASTS,
        Setting.ETCD,
        bounds_ms=_ETCD_BOUNDS,
    ),
    Fault.ETCD_KILLED: Nature(
        "SIGKILL of etcd, and a new one on its data once the primary is frozen",
        Outcome.FROZEN,
        (Phase.RUNNING, Phase.AWAITING),
        _LASTS,
        Setting.ETCD,
        bounds_ms=_ETCD_BOUNDS,
    ),
    Fault.ETCD_KILL_HOST: Nature(
        "as kill-host, with etcd as the arbiter",
        Outcome.TAKE_OVER,
        (Phase.RUNNING, Phase.COMMITTED),
        _SLOW_ARBITER,
        Setting.ETCD,
        bounds_ms=_ETCD_BOUNDS,
    ),
    Fault.DISK_FULL: Nature(
        "no space on the secondary while an epoch outgrows staging",
        Outcome.ALONE,
        (Phase.RECEIVING, Phase.COMMITTED),
        _STORE,
    ),
}
