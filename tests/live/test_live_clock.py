"""A protected guest's clocks, read in the guest itself: late without the agent, in time with it, and monotonic always."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import pytest
from pair_lab import PATIENCE_S, Pair, Udp, open_pair
from test_attach_pair import Operator

from replicator.demo.guest_scripts import CLOCK_PORT
from replicator.demo.stage import Sections
from replicator.units import NS_PER_MS, NS_PER_S

pytestmark = pytest.mark.live

MAX_BEHIND_MS = 100
PROTECTED_S = 5
CATCH_UP: Sections = {"clock": {"policy": "catch-up", "max_behind_ms": MAX_BEHIND_MS}}
CONTINUE: Sections = MappingProxyType({})
#: What an answer of the guest may be late by on a busy machine, output held for an epoch included.
SLACK_MS = 300


@dataclass(frozen=True)
class Clocks:
    """Read at some instant between `asked_ns` and `answered_ns` of the host's wall clock."""

    wall_ns: int
    monotonic_ns: int
    asked_ns: int
    answered_ns: int

    @property
    def behind_ms(self) -> tuple[float, float]:
        """At least and at most."""
        return (self.asked_ns - self.wall_ns) / NS_PER_MS, (self.answered_ns - self.wall_ns) / NS_PER_MS


class Watch:
    """Asks the guest for its clocks, a request of its own each time."""

    def __init__(self, pair: Pair) -> None:
        self._udp = Udp(pair.lab, CLOCK_PORT)
        self._asked = 0
        self.seen: list[Clocks] = []

    def close(self) -> None:
        self._udp.close()

    def read(self) -> Clocks:
        self._asked += 1
        asked_ns = time.time_ns()
        wall_ns, monotonic_ns, _ = self._udp.ask(f"clock-{self._asked}").split()
        self.seen.append(Clocks(int(wall_ns), int(monotonic_ns), asked_ns, time.time_ns()))
        return self.seen[-1]

    def read_closely(self) -> Clocks:
        """Of several answers the one that was given soonest: it tells most exactly."""
        return min((self.read() for _ in range(12)), key=lambda clocks: clocks.answered_ns - clocks.asked_ns)

    def read_for(self, seconds: float) -> None:
        until_ns = time.monotonic_ns() + int(seconds * NS_PER_S)
        while time.monotonic_ns() < until_ns:
            self.read()


@contextmanager
def watched(settings: Sections) -> Iterator[tuple[Pair, Watch]]:
    with open_pair(agent=True, settings=settings) as pair:
        pair.protect()
        watch = Watch(pair)
        try:
            yield pair, watch
        finally:
            watch.close()


def clock_of(pair: Pair, name: str) -> dict[str, Any]:
    clock: dict[str, Any] = pair.stage.status(name)["clock"]
    return clock


def wait_clock(pair: Pair, name: str, what: str, done: Callable[[dict[str, Any]], bool]) -> None:
    pair.wait(what, lambda: done(clock_of(pair, name)), pair.daemons[name])


def assert_monotonic_never_goes_back(watch: Watch) -> None:
    times = [clocks.monotonic_ns for clocks in watch.seen]
    assert len(times) > 2 and times == sorted(times)


def test_without_the_agent_the_guest_is_as_late_as_the_status_says() -> None:
    with watched(CONTINUE) as (pair, watch):
        first, told_first = watch.read(), clock_of(pair, "a")
        watch.read_for(PROTECTED_S)
        last, told_last = watch.read(), clock_of(pair, "a")
        lost_min = last.behind_ms[0] - first.behind_ms[1]
        lost_max = last.behind_ms[1] - first.behind_ms[0]
        told = told_last["behind_ms"] - told_first["behind_ms"]
        assert told > 50 and told_last["drift_ppm"] > 1000 and told_last["steps"] == 0
        assert lost_min - SLACK_MS < told < lost_max + SLACK_MS
        assert_monotonic_never_goes_back(watch)


def test_with_the_agent_the_wall_clock_stays_within_its_bound_and_follows_a_failover() -> None:
    with watched(CATCH_UP) as (pair, watch):
        wait_clock(pair, "a", "the clock is set", lambda clock: clock["steps"] > 0)
        steps, begun = clock_of(pair, "a")["steps"], len(watch.seen)

        def is_set_twice_more(clock: dict[str, Any]) -> bool:
            watch.read()
            return bool(clock["steps"] >= steps + 2)

        wait_clock(pair, "a", "the clock is set twice more", is_set_twice_more)
        assert all(clocks.behind_ms[0] < MAX_BEHIND_MS + SLACK_MS for clocks in watch.seen[begun:])
        assert clock_of(pair, "a")["trouble"] == ""
        pair.kill_host("a")
        pair.wait_state("b", "active-alone")
        wait_clock(pair, "b", "the clock is set after the take-over", lambda clock: clock["steps"] > 0)
        assert watch.read().behind_ms[0] < MAX_BEHIND_MS + SLACK_MS
        assert_monotonic_never_goes_back(watch)


def test_a_failover_sets_the_clocks_back_and_the_status_says_how_far() -> None:
    with watched(CONTINUE) as (pair, watch):
        before = watch.read_closely()
        told_before = clock_of(pair, "a")["behind_ms"]
        pair.kill_host("a")
        pair.wait_state("b", "active-alone")
        after = watch.read_closely()
        told = clock_of(pair, "b")["behind_ms"] - told_before
        lost_min = after.behind_ms[0] - before.behind_ms[1]
        lost_max = after.behind_ms[1] - before.behind_ms[0]
        assert lost_min > 0 and told > 0
        assert lost_min - SLACK_MS < told < lost_max + SLACK_MS
        assert after.monotonic_ns > before.monotonic_ns


def test_an_attached_guests_clock_is_set_through_its_own_agent_socket() -> None:
    with open_pair(agent=True, settings=CATCH_UP) as pair:
        operator = Operator(pair)
        agent = [
            *("-device", "virtio-serial-pci,disable-modern=on,max_ports=2,ioeventfd=off"),
            *("-chardev", f"socket,id=agent0,path={operator.folder}/agent,server=on,wait=off"),
            *("-device", "virtserialport,chardev=agent0,name=org.qemu.guest_agent.0"),
        ]
        operator.start_qemu(lambda command: [*command, *agent, "-rtc", "base=2020-01-01"])
        try:
            operator.attach()
            pair.counter.ask("booted")
            pair.start("b", "secondary")
            pair.wait_protected("a")
            wait_clock(pair, "a", "the clock is set", lambda clock: clock["steps"] > 0)
            watch = Watch(pair)
            assert watch.read().behind_ms[0] < MAX_BEHIND_MS + SLACK_MS
            watch.close()
        finally:
            assert operator.qemu is not None
            operator.qemu.kill()
            operator.qemu.wait(PATIENCE_S)
