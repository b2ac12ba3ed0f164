"""What can go wrong, each kind with a beginning and an end, and the drawing of a plan of faults from a seed."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from replicator.units import NS_PER_MS

if TYPE_CHECKING:
    from replicator.sim.pair import Pair


class Kind(Enum):
    """`host` in a fault is where it happens; for the network, the side that speaks."""

    CUT = "both ways of the replication network are cut"
    CUT_ONE_WAY = "one way of the replication network is cut"
    DROP = "messages are lost one by one"
    DELAY = "messages travel slowly"
    SLOW = "the replication network has little bandwidth"
    RESET = "connections break, and what was under way arrives late and twice"
    FLIP = "payloads are damaged on the way"
    KILL = "a daemon and its guest are killed between two steps"
    HOST_DEATH = "a host disappears without a word"
    BOTH_DEATHS = "both hosts disappear"
    GUEST_DEATH = "the guest's process ends"
    STANDBY_DEATH = "the process that waits for the guest ends"
    FREEZE = "a daemon is frozen between two steps and wakes up later; its guest goes on"
    FREEZE_HOST = "a daemon and its guest are frozen and wake up later"
    HANG = "an event loop hangs while its threads go on"
    ARBITER_CUT = "a host cannot reach the arbiter"
    ARBITER_DOWN = "the arbiter is gone for a while and starts again"
    ARBITER_ANSWERS = "the arbiter's answers are lost"
    ARBITER_SLOW = "requests wait before they are sent"
    DRIFT = "a clock runs at another speed"
    JUMP = "a host's boot clock jumps forward, as after a suspend"
    GUEST_ERROR = "the guest's commands fail now and then"
    PAUSE_HANGS = "a pause is carried out and never answered"
    DISK_FULL = "the replica's disk is full"
    DISK_DEATH = "the host disappears in the middle of a write of its replica"
    FULL_HOLD = "so much output that the hold fills up"


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of a plan. `amount` means what its kind makes of it, in 0..1."""

    kind: Kind
    at_ms: int
    host: str = "a"
    for_ms: int = 0
    amount: float = 0.0

    def __str__(self) -> str:
        return f"{self.at_ms} ms {self.kind.name} {self.host} for {self.for_ms} ms ({self.amount:.3f})"

    def begin(self, pair: Pair) -> None:
        _BEGIN[self.kind](pair, self)

    def end(self, pair: Pair) -> None:
        if (undo := _END.get(self.kind)) is not None:
            undo(pair, self)


FAULTS_MIN, FAULTS_MAX = 5, 9
FIRST_MS, LAST_MS = 250, 1_900
#: The kinds that need more than a moment and how long they may last.
_LONG_MS = {Kind.FREEZE: (20, 700), Kind.FREEZE_HOST: (20, 700), Kind.HANG: (20, 700)}


def draw_plan(seed: int) -> list[Fault]:
    """The faults of a seed, in the order of time."""
    rng = random.Random(f"faults {seed}")
    kinds = list(Kind)
    plan = []
    for _ in range(rng.randint(FAULTS_MIN, FAULTS_MAX)):
        kind = rng.choice(kinds)
        low, high = _LONG_MS.get(kind, (10, 500))
        plan.append(
            Fault(
                kind, rng.randint(FIRST_MS, LAST_MS), rng.choice("ab"), rng.randint(low, high), rng.random()
            )
        )
    return sorted(plan, key=lambda fault: fault.at_ms)


# What each kind does.


def _both_ways(pair: Pair, cut: bool) -> None:
    for weather in pair.stage.network.weather.values():
        weather.cut = cut
    pair.stage.network.settle()


def _one_way(pair: Pair, fault: Fault, cut: bool) -> None:
    pair.weather(fault.host).cut = cut
    pair.stage.network.settle()


def _reset(pair: Pair, fault: Fault) -> None:
    for weather in pair.stage.network.weather.values():
        weather.echo = True
    pair.stage.network.break_connections()


def _calm(pair: Pair) -> None:
    for weather in pair.stage.network.weather.values():
        weather.echo = False


def _kill_later(pair: Pair, fault: Fault) -> None:
    host = pair.hosts[fault.host]
    if host.process is not None:
        host.process.strike_after(1 + int(fault.amount * 200), lambda: pair.kill(fault.host, silently=False))


def _kill_both(pair: Pair, fault: Fault) -> None:
    pair.kill("a", silently=True)
    pair.kill("b", silently=True)


def _kill_guest(pair: Pair, fault: Fault) -> None:
    for host in pair.hosts.values():
        if host.alive and host.guest is not None:
            host.guest.die()


def _kill_standby(pair: Pair, fault: Fault) -> None:
    for host in pair.hosts.values():
        if host.alive and host.kit is not None and host.kit.standby is not None:
            host.kit.standby.die()


def _freeze_later(pair: Pair, fault: Fault) -> None:
    host = pair.hosts[fault.host]
    process = host.process
    if process is None or not process.alive:
        return

    def strike() -> None:
        process.freeze()
        if fault.kind is Kind.FREEZE_HOST and host.guest is not None:
            host.guest.machine.suspended = True

    process.strike_after(1 + int(fault.amount * 200), strike)


def _thaw(pair: Pair, fault: Fault) -> None:
    host = pair.hosts[fault.host]
    if host.guest is not None:
        host.guest.machine.suspended = False
    if host.process is not None:
        host.process.strike_after(0, lambda: None)
        if host.process.frozen:
            host.process.thaw()


def _hang(pair: Pair, fault: Fault) -> None:
    if (process := pair.hosts[fault.host].process) is not None:
        process.hang()


def _recover(pair: Pair, fault: Fault) -> None:
    if (process := pair.hosts[fault.host].process) is not None:
        process.recover()


def _arbiter_up(pair: Pair) -> None:
    pair.stage.server.down = False
    pair.stage.server.restart()


def _set(pair: Pair, fault: Fault, what: str, name: str, value: float | bool) -> None:
    setattr(getattr(pair.hosts[fault.host], what), name, value)


def _die_at_write(pair: Pair, fault: Fault) -> None:
    pair.hosts[fault.host].disk_faults.die_at_write = 1 + int(fault.amount * 40)


def _storm(pair: Pair, frames: int) -> None:
    pair.frames_a_request = frames


Deed = Callable[["Pair", Fault], None]

_BEGIN: dict[Kind, Deed] = {
    Kind.CUT: lambda pair, _: _both_ways(pair, True),
    Kind.CUT_ONE_WAY: lambda pair, fault: _one_way(pair, fault, True),
    Kind.DROP: lambda pair, fault: setattr(pair.weather(fault.host), "drop", 0.02 + 0.3 * fault.amount),
    Kind.DELAY: lambda pair, fault: setattr(
        pair.weather(fault.host), "latency_ns", (1_000_000, 1_000_000 + int(fault.amount * 80 * NS_PER_MS))
    ),
    Kind.SLOW: lambda pair, fault: setattr(
        pair.weather(fault.host), "bytes_per_s", 200_000 + int(fault.amount * 5_000_000)
    ),
    Kind.RESET: _reset,
    Kind.FLIP: lambda pair, fault: setattr(pair.weather(fault.host), "flip", 0.05 + 0.3 * fault.amount),
    Kind.KILL: _kill_later,
    Kind.HOST_DEATH: lambda pair, fault: pair.kill(fault.host, silently=True),
    Kind.BOTH_DEATHS: _kill_both,
    Kind.GUEST_DEATH: _kill_guest,
    Kind.STANDBY_DEATH: _kill_standby,
    Kind.FREEZE: _freeze_later,
    Kind.FREEZE_HOST: _freeze_later,
    Kind.HANG: _hang,
    Kind.ARBITER_CUT: lambda pair, fault: _set(pair, fault, "route", "cut", True),
    Kind.ARBITER_DOWN: lambda pair, _: setattr(pair.stage.server, "down", True),
    Kind.ARBITER_ANSWERS: lambda pair, fault: _set(
        pair, fault, "route", "answer_lost", 0.2 + 0.8 * fault.amount
    ),
    Kind.ARBITER_SLOW: lambda pair, fault: setattr(
        pair.hosts[fault.host], "pool_extra_ns", int(fault.amount * 250 * NS_PER_MS)
    ),
    Kind.DRIFT: lambda pair, fault: pair.hosts[fault.host].clock.drift(int((fault.amount - 0.5) * 40_000)),
    Kind.JUMP: lambda pair, fault: pair.hosts[fault.host].clock.jump(int(fault.amount * 2_000 * NS_PER_MS)),
    Kind.GUEST_ERROR: lambda pair, fault: _set(
        pair, fault, "machine_faults", "error", 0.02 + 0.2 * fault.amount
    ),
    Kind.PAUSE_HANGS: lambda pair, fault: _set(pair, fault, "machine_faults", "pause_hangs", True),
    Kind.DISK_FULL: lambda pair, fault: _set(pair, fault, "disk_faults", "full", True),
    Kind.DISK_DEATH: _die_at_write,
    Kind.FULL_HOLD: lambda pair, fault: _storm(pair, 1 + int(fault.amount * 12)),
}

_END: dict[Kind, Deed] = {
    Kind.CUT: lambda pair, _: _both_ways(pair, False),
    Kind.CUT_ONE_WAY: lambda pair, fault: _one_way(pair, fault, False),
    Kind.DROP: lambda pair, fault: setattr(pair.weather(fault.host), "drop", 0.0),
    Kind.DELAY: lambda pair, fault: setattr(pair.weather(fault.host), "latency_ns", (50_000, 300_000)),
    Kind.SLOW: lambda pair, fault: setattr(pair.weather(fault.host), "bytes_per_s", 0),
    Kind.RESET: lambda pair, _: _calm(pair),
    Kind.FLIP: lambda pair, fault: setattr(pair.weather(fault.host), "flip", 0.0),
    Kind.FREEZE: _thaw,
    Kind.FREEZE_HOST: _thaw,
    Kind.HANG: _recover,
    Kind.ARBITER_CUT: lambda pair, fault: _set(pair, fault, "route", "cut", False),
    Kind.ARBITER_DOWN: lambda pair, _: _arbiter_up(pair),
    Kind.ARBITER_ANSWERS: lambda pair, fault: _set(pair, fault, "route", "answer_lost", 0.0),
    Kind.ARBITER_SLOW: lambda pair, fault: setattr(pair.hosts[fault.host], "pool_extra_ns", 0),
    Kind.GUEST_ERROR: lambda pair, fault: _set(pair, fault, "machine_faults", "error", 0.0),
    Kind.PAUSE_HANGS: lambda pair, fault: _set(pair, fault, "machine_faults", "pause_hangs", False),
    Kind.DISK_FULL: lambda pair, fault: _set(pair, fault, "disk_faults", "full", False),
    Kind.DISK_DEATH: lambda pair, fault: _set(pair, fault, "disk_faults", "die_at_write", 0),
    Kind.FULL_HOLD: lambda pair, _: _storm(pair, 1),
}
