"""What each kind of fault does to a pair when it begins, and what ends it. When a fault comes is the plan's (faults.py)."""

from __future__ import annotations

from collections.abc import Callable

from replicator.sim.conditions import Conditions
from replicator.sim.faults import Fault, Kind
from replicator.sim.network import CALM_LATENCY_NS
from replicator.sim.pair import Pair
from replicator.units import NS_PER_MS

Deed = Callable[[Pair, Fault], None]

#: A fault that strikes between two steps does so within so many steps of the event loop.
STEPS_MAX = 200


def begin(fault: Fault, pair: Pair) -> None:
    _BEGIN[fault.kind](pair, fault)


def end(fault: Fault, pair: Pair) -> None:
    if (undo := _END.get(fault.kind)) is not None:
        undo(pair, fault)


def _put(target: object, **values: object) -> None:
    for name, value in values.items():
        setattr(target, name, value)


def _at(pair: Pair, fault: Fault) -> Conditions:
    return pair.hosts[fault.host].conditions


# The replication network.


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


def _calm(pair: Pair, fault: Fault) -> None:
    for weather in pair.stage.network.weather.values():
        weather.echo = False


def _delay(pair: Pair, fault: Fault) -> None:
    pair.weather(fault.host).latency_ns = (1_000_000, 1_000_000 + int(fault.amount * 80 * NS_PER_MS))


# Deaths.


def _kill_later(pair: Pair, fault: Fault) -> None:
    host = pair.hosts[fault.host]
    if host.process is not None:
        host.process.strike_after(_steps(fault), lambda: pair.kill(fault.host, silently=False))


def _steps(fault: Fault) -> int:
    return 1 + int(fault.amount * STEPS_MAX)


def _kill_both(pair: Pair, fault: Fault) -> None:
    pair.kill("a", silently=True)
    pair.kill("b", silently=True)


def _kill_guest(pair: Pair, fault: Fault) -> None:
    for host in pair.hosts.values():
        if host.alive and host.guest is not None:
            host.guest.die()


def _kill_vm(pair: Pair, fault: Fault) -> None:
    for host in pair.hosts.values():
        if host.alive and host.vm is not None:
            host.vm.die()


def _kill_standby(pair: Pair, fault: Fault) -> None:
    for host in pair.hosts.values():
        if host.alive and host.standby is not None:
            host.standby.die()


# Frozen and hung processes.


def _freeze_later(pair: Pair, fault: Fault) -> None:
    host = pair.hosts[fault.host]
    process = host.process
    if process is None or not process.alive:
        return

    def strike() -> None:
        process.freeze()
        if fault.kind is Kind.FREEZE_HOST:
            for guest in host.machines:
                guest.machine.suspended = True

    process.strike_after(_steps(fault), strike)


def _thaw(pair: Pair, fault: Fault) -> None:
    host = pair.hosts[fault.host]
    for guest in host.machines:
        guest.machine.suspended = False
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


# The arbiter.


def _arbiter_up(pair: Pair, fault: Fault) -> None:
    pair.stage.server.down = False
    pair.stage.server.restart()


_BEGIN: dict[Kind, Deed] = {
    Kind.CUT: lambda pair, _: _both_ways(pair, True),
    Kind.CUT_ONE_WAY: lambda pair, fault: _one_way(pair, fault, True),
    Kind.DROP: lambda pair, fault: _put(pair.weather(fault.host), drop=0.02 + 0.3 * fault.amount),
    Kind.DELAY: _delay,
    Kind.SLOW: lambda pair, fault: _put(
        pair.weather(fault.host), bytes_per_s=200_000 + int(fault.amount * 5_000_000)
    ),
    Kind.RESET: _reset,
    Kind.FLIP: lambda pair, fault: _put(pair.weather(fault.host), flip=0.05 + 0.3 * fault.amount),
    Kind.KILL: _kill_later,
    Kind.HOST_DEATH: lambda pair, fault: pair.kill(fault.host, silently=True),
    Kind.BOTH_DEATHS: _kill_both,
    Kind.GUEST_DEATH: _kill_guest,
    Kind.STANDBY_DEATH: _kill_standby,
    Kind.FREEZE: _freeze_later,
    Kind.FREEZE_HOST: _freeze_later,
    Kind.HANG: _hang,
    Kind.ARBITER_CUT: lambda pair, fault: _put(_at(pair, fault).route, cut=True),
    Kind.ARBITER_DOWN: lambda pair, _: _put(pair.stage.server, down=True),
    Kind.ARBITER_ANSWERS: lambda pair, fault: _put(
        _at(pair, fault).route, answer_lost=0.2 + 0.8 * fault.amount
    ),
    Kind.ARBITER_SLOW: lambda pair, fault: _put(
        _at(pair, fault), pool_extra_ns=int(fault.amount * 250 * NS_PER_MS)
    ),
    Kind.DRIFT: lambda pair, fault: _at(pair, fault).clock.drift(int((fault.amount - 0.5) * 40_000)),
    Kind.JUMP: lambda pair, fault: _at(pair, fault).clock.jump(int(fault.amount * 2_000 * NS_PER_MS)),
    Kind.GUEST_ERROR: lambda pair, fault: _put(_at(pair, fault).machine, error=0.02 + 0.2 * fault.amount),
    Kind.PAUSE_HANGS: lambda pair, fault: _put(_at(pair, fault).machine, pause_hangs=True),
    Kind.DISK_FULL: lambda pair, fault: _put(_at(pair, fault).disk, full=True),
    Kind.DISK_DEATH: lambda pair, fault: _put(_at(pair, fault).disk, die_at_write=1 + int(fault.amount * 40)),
    Kind.FULL_HOLD: lambda pair, fault: _put(pair, frames_a_request=1 + int(fault.amount * 12)),
    Kind.VM_DEATH: _kill_vm,
    Kind.VM_LOAD: lambda pair, fault: _put(_at(pair, fault).machine, load_fails=True),
    Kind.FRAMES_CUT: lambda pair, _: pair.stage.frames.cut(True),
    Kind.FRAMES_RESET: lambda pair, _: pair.stage.frames.break_all(),
}

_END: dict[Kind, Deed] = {
    Kind.CUT: lambda pair, _: _both_ways(pair, False),
    Kind.CUT_ONE_WAY: lambda pair, fault: _one_way(pair, fault, False),
    Kind.DROP: lambda pair, fault: _put(pair.weather(fault.host), drop=0.0),
    Kind.DELAY: lambda pair, fault: _put(pair.weather(fault.host), latency_ns=CALM_LATENCY_NS),
    Kind.SLOW: lambda pair, fault: _put(pair.weather(fault.host), bytes_per_s=0),
    Kind.RESET: _calm,
    Kind.FLIP: lambda pair, fault: _put(pair.weather(fault.host), flip=0.0),
    Kind.FREEZE: _thaw,
    Kind.FREEZE_HOST: _thaw,
    Kind.HANG: _recover,
    Kind.ARBITER_CUT: lambda pair, fault: _put(_at(pair, fault).route, cut=False),
    Kind.ARBITER_DOWN: _arbiter_up,
    Kind.ARBITER_ANSWERS: lambda pair, fault: _put(_at(pair, fault).route, answer_lost=0.0),
    Kind.ARBITER_SLOW: lambda pair, fault: _put(_at(pair, fault), pool_extra_ns=0),
    Kind.GUEST_ERROR: lambda pair, fault: _put(_at(pair, fault).machine, error=0.0),
    Kind.PAUSE_HANGS: lambda pair, fault: _put(_at(pair, fault).machine, pause_hangs=False),
    Kind.DISK_FULL: lambda pair, fault: _put(_at(pair, fault).disk, full=False),
    Kind.DISK_DEATH: lambda pair, fault: _put(_at(pair, fault).disk, die_at_write=0),
    Kind.FULL_HOLD: lambda pair, _: _put(pair, frames_a_request=1),
    Kind.VM_LOAD: lambda pair, fault: _put(_at(pair, fault).machine, load_fails=False),
    Kind.FRAMES_CUT: lambda pair, _: pair.stage.frames.cut(False),
}
