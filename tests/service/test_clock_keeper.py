"""A guest's clocks seen from outside, with a synthetic guest whose clocks really stand still while it is paused."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from replicator.clock import SYSTEM_CLOCK
from replicator.engine import effects as fx
from replicator.engine import events as ev
from replicator.engine.guest_clock import ClockPolicy, ClockSettings
from replicator.errors import ConfigError
from replicator.guests import qemu_agent
from replicator.guests.qemu_agent import AgentChannel
from replicator.guests.synthetic import SyntheticConfig, SyntheticGuest, SyntheticStandby
from replicator.service import clock_keeper
from replicator.service.clock_keeper import ClockKeeper
from replicator.service.inherited_clock import InheritedClock
from replicator.units import NS_PER_MS, NS_PER_S, Epoch

CONFIG = SyntheticConfig(ram_bytes=1 << 20, steps_per_ms=0, agent=True)
CATCH_UP = ClockSettings(ClockPolicy.CATCH_UP, 100 * NS_PER_MS)
PATIENCE_S = 20.0
#: More than a busy machine can be late by.
MINUTE_NS = 60 * NS_PER_S


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock_keeper, "LOOK_S", 0.005)


def run(body: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(body(), PATIENCE_S)

    asyncio.run(bounded())


@asynccontextmanager
async def started(config: SyntheticConfig = CONFIG) -> AsyncIterator[SyntheticGuest]:
    guest = await SyntheticGuest.start(config)
    try:
        yield guest
    finally:
        await guest.kill()


async def hold(guest: SyntheticGuest, keeper: ClockKeeper, seconds: float) -> bytes:
    """One pause as an epoch makes it; returns the device state."""
    keeper.stop(time.monotonic_ns())
    await guest.pause()
    state = await guest.save_device_state()
    keeper.measure(state)
    await asyncio.sleep(seconds)
    started_ns = time.monotonic_ns()
    await guest.resume()
    keeper.start(started_ns)
    return state


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.002)


async def find_behind_ns(guest: SyntheticGuest) -> int:
    """How late the guest's wall clock is, at most."""
    assert guest.agent is not None
    told_ns = await guest.agent.read_time()
    return time.time_ns() - told_ns


def test_what_is_shown_is_what_the_guest_has_lost() -> None:
    async def body() -> None:
        async with started() as guest:
            began_behind_ns = await find_behind_ns(guest)
            keeper = ClockKeeper(guest, ClockSettings(), SYSTEM_CLOCK)
            for _ in range(20):
                await hold(guest, keeper, 0.01)
            shown, lost_ns = keeper.show(), await find_behind_ns(guest) - began_behind_ns
            assert shown.behind_ms >= 190
            # The order of the first pause counts as part of it.
            assert shown.behind_ms <= lost_ns / NS_PER_MS + 100
            assert shown.drift_ppm > 0 and shown.policy == "continue" and shown.steps == 0

    run(body)


def test_a_guest_that_goes_on_elsewhere_brings_its_clocks_along() -> None:
    async def body() -> None:
        path = Path(f"/dev/shm/clock-{time.monotonic_ns()}")
        try:
            first = await SyntheticGuest.start(CONFIG, path)
            keeper = ClockKeeper(first, ClockSettings(), SYSTEM_CLOCK)
            state = await hold(first, keeper, 0)
            await first.pause()
            state = await first.save_device_state()
            await first.kill()
            standby = SyntheticStandby(CONFIG)
            await standby.start(path)
            second = await standby.activate(state)
            assert second.read_clock(await second.save_device_state()) == first.read_clock(state)
            await second.resume()
            assert second.agent is not None
            assert await second.agent.read_time() < time.time_ns()
            await second.kill()
        finally:
            path.unlink(missing_ok=True)

    run(body)


def test_continue_leaves_the_wall_clock_alone() -> None:
    async def body() -> None:
        async with started() as guest:
            keeper = ClockKeeper(guest, ClockSettings(), SYSTEM_CLOCK, was_set_back=True)
            keeper.begin()
            await hold(guest, keeper, 0.2)
            assert await find_behind_ns(guest) >= 200 * NS_PER_MS
            await keeper.end()
            assert keeper.show().steps == 0

    run(body)


def test_catch_up_sets_the_wall_clock_once_the_guest_is_too_late() -> None:
    async def body() -> None:
        async with started() as guest:
            assert guest.agent is not None
            await guest.agent.set_time(time.time_ns() - MINUTE_NS)
            keeper = ClockKeeper(guest, CATCH_UP, SYSTEM_CLOCK)
            keeper.begin()
            await hold(guest, keeper, 0.3)
            await until(lambda: keeper.show().steps == 1)
            assert await find_behind_ns(guest) < MINUTE_NS // 2
            assert keeper.show().last_step_ms > MINUTE_NS // 2 / NS_PER_MS
            await until(lambda: keeper.show().behind_ms < MINUTE_NS // 2 / NS_PER_MS)
            await keeper.end()

    run(body)


def test_a_clock_that_is_early_is_never_set_back() -> None:
    async def body() -> None:
        async with started() as guest:
            assert guest.agent is not None
            await guest.agent.set_time(time.time_ns() + MINUTE_NS)
            keeper = ClockKeeper(guest, CATCH_UP, SYSTEM_CLOCK, was_set_back=True)
            keeper.begin()
            await until(lambda: keeper.show().behind_ms < -MINUTE_NS // 2 / NS_PER_MS)
            assert await find_behind_ns(guest) < -MINUTE_NS // 2
            assert keeper.show().steps == 0
            await keeper.end()

    run(body)


def test_after_a_take_over_the_clock_is_looked_at_whatever_is_known() -> None:
    async def body() -> None:
        async with started() as guest:
            assert guest.agent is not None
            await guest.agent.set_time(time.time_ns() - MINUTE_NS)
            keeper = ClockKeeper(guest, CATCH_UP, SYSTEM_CLOCK, was_set_back=True)
            keeper.begin()
            await until(lambda: keeper.show().steps == 1)
            assert await find_behind_ns(guest) < MINUTE_NS // 2
            await keeper.end()

    run(body)


class DeafGuest:
    """A guest with a channel, at whose other end nobody is."""

    def __init__(self, guest: SyntheticGuest) -> None:
        ours, self._theirs = socket.socketpair()
        self.agent = AgentChannel(ours)
        self.read_clock = guest.read_clock

    def close(self) -> None:
        self.agent.close()
        self._theirs.close()


def test_an_agent_that_does_not_answer_is_told_and_holds_up_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu_agent, "ANSWER_TIMEOUT_S", 0.3)

    async def body() -> None:
        async with started() as guest:
            deaf = DeafGuest(guest)
            keeper = ClockKeeper(deaf, CATCH_UP, SYSTEM_CLOCK, was_set_back=True)
            keeper.begin()
            pauses = 0
            while not keeper.show().trouble:
                await hold(guest, keeper, 0)
                pauses += 1
            assert pauses > 1
            assert "does not answer" in keeper.show().trouble
            assert "does not answer" in keeper.show().describe()
            await keeper.end()
            deaf.close()

    run(body)


def test_the_policy_can_change_while_the_guest_runs() -> None:
    async def body() -> None:
        async with started() as guest:
            keeper = ClockKeeper(guest, ClockSettings(max_behind_ns=100 * NS_PER_MS), SYSTEM_CLOCK)
            keeper.begin()
            await hold(guest, keeper, 0.2)
            keeper.set_policy(ClockPolicy.CATCH_UP)
            await until(lambda: keeper.show().steps == 1)
            await keeper.end()

    run(body)


def test_catch_up_without_an_agent_is_refused() -> None:
    async def body() -> None:
        async with started(SyntheticConfig(ram_bytes=1 << 20)) as guest:
            keeper = ClockKeeper(guest, ClockSettings(), SYSTEM_CLOCK)
            with pytest.raises(ConfigError, match="needs the guest agent") as caught:
                keeper.set_policy(ClockPolicy.CATCH_UP)
            assert "[agent]" in caught.value.hint
            assert keeper.show().policy == "continue"

    run(body)


class HandClock:
    """Stands where it is put."""

    now_ns = 0

    def monotonic_ns(self) -> int:
        return self.now_ns

    def boottime_ns(self) -> int:
        return self.now_ns


def test_a_failover_adds_the_time_since_the_checkpoint() -> None:
    clock = HandClock()
    inherited = InheritedClock(clock)
    assert inherited.behind_ns() == 0
    inherited.note_beat(70)
    clock.now_ns = 1_000
    inherited.watch(fx.CommitEpoch(Epoch(1), 1, 1, b""))
    clock.now_ns = 1_200
    inherited.watch(ev.EpochCommitted(Epoch(1), b""))
    clock.now_ns = 5_000
    inherited.watch(fx.CommitEpoch(Epoch(2), 1, 1, b""))
    assert inherited.behind_ns() == 4_070
