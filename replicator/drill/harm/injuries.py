"""Which way of doing harm makes which fault."""

from __future__ import annotations

from replicator.drill.harm import deaths, ground, link
from replicator.drill.harm.injury import Injury
from replicator.drill.matrix.faults import Fault

INJURIES: dict[Fault, type[Injury]] = {
    Fault.KILL_HOST: deaths.KillHost,
    Fault.KILL_DAEMON: deaths.KillDaemon,
    Fault.KILL_GUEST: deaths.KillGuest,
    Fault.KILL_SECONDARY: deaths.KillSecondary,
    Fault.KILL_STANDBY: deaths.KillStandby,
    Fault.KILL_VM: deaths.KillVm,
    Fault.KILL_BOTH: deaths.KillBoth,
    Fault.FREEZE_LONG: deaths.FreezeLong,
    Fault.FREEZE_SHORT: deaths.FreezeShort,
    Fault.FREEZE_SECONDARY: deaths.FreezeSecondary,
    Fault.CUT: link.Cut,
    Fault.CUT_OUT: link.CutOneWay,
    Fault.CUT_BACK: link.CutBack,
    Fault.REJECT: link.Reject,
    Fault.REJECT_OUT: link.Unreachable,
    Fault.REJECT_BACK: link.UnreachableBack,
    Fault.SLOW: link.Slow,
    Fault.FRAMES_CUT: link.FramesCut,
    Fault.FRAMES_RESET: link.FramesReset,
    Fault.FLIP: link.Damage,
    Fault.TRUNCATE: link.Truncate,
    Fault.ARBITER_LOST: ground.ArbiterLost,
    Fault.ARBITER_LOST_PRIMARY: ground.ArbiterLostPrimary,
    Fault.ARBITER_LOST_SECONDARY: ground.ArbiterLostSecondary,
    Fault.ETCD_FROZEN: ground.EtcdFrozen,
    Fault.ETCD_KILLED: ground.EtcdKilled,
    Fault.ETCD_KILL_HOST: deaths.KillHost,
    Fault.DISK_FULL: ground.DiskFull,
}
