"""Which way of doing harm makes which fault."""

from __future__ import annotations

from replicator.drill import deaths, ground_harm, link_harm
from replicator.drill.faults import Fault
from replicator.drill.injury import Injury

INJURIES: dict[Fault, type[Injury]] = {
    Fault.KILL_HOST: deaths.KillHost,
    Fault.KILL_DAEMON: deaths.KillDaemon,
    Fault.KILL_GUEST: deaths.KillGuest,
    Fault.KILL_SECONDARY: deaths.KillSecondary,
    Fault.KILL_STANDBY: deaths.KillStandby,
    Fault.KILL_BOTH: deaths.KillBoth,
    Fault.FREEZE_LONG: deaths.FreezeLong,
    Fault.FREEZE_SHORT: deaths.FreezeShort,
    Fault.FREEZE_SECONDARY: deaths.FreezeSecondary,
    Fault.CUT: link_harm.Cut,
    Fault.CUT_OUT: link_harm.CutOneWay,
    Fault.CUT_BACK: link_harm.CutBack,
    Fault.REJECT: link_harm.Reject,
    Fault.REJECT_OUT: link_harm.Unreachable,
    Fault.REJECT_BACK: link_harm.UnreachableBack,
    Fault.SLOW: link_harm.Slow,
    Fault.FLIP: link_harm.Damage,
    Fault.TRUNCATE: link_harm.Truncate,
    Fault.ARBITER_LOST: ground_harm.ArbiterLost,
    Fault.ARBITER_LOST_PRIMARY: ground_harm.ArbiterLostPrimary,
    Fault.ARBITER_LOST_SECONDARY: ground_harm.ArbiterLostSecondary,
    Fault.ETCD_FROZEN: ground_harm.EtcdFrozen,
    Fault.ETCD_KILLED: ground_harm.EtcdKilled,
    Fault.ETCD_KILL_HOST: deaths.KillHost,
    Fault.DISK_FULL: ground_harm.DiskFull,
}
