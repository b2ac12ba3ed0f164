"""The simulator's own parts keep the contracts of what they stand for."""

from __future__ import annotations

import asyncio
from array import array

import pytest

from replicator.sim.clocks import HostClock
from replicator.sim.faults import Kind, draw_plan
from replicator.sim.network import flip_payload
from replicator.sim.process import Process
from replicator.sim.world import World

MS = 1_000_000


def make_process(world: World) -> Process:
    return Process(world, "p", HostClock(world, offset_ns=5, drift_ppm=0))


def run(world: World) -> None:
    while world.step():
        pass


def test_things_happen_in_the_order_of_time() -> None:
    world, seen = World(1), []
    for at in (3, 1, 2, 1):
        world.at(at, lambda at=at: seen.append((at, world.now_ns)))
    run(world)
    assert seen == [(1, 1), (1, 1), (2, 2), (3, 3)]


def test_a_process_runs_coroutines_in_virtual_time() -> None:
    world = World(1)
    process, seen = make_process(world), []

    async def work() -> None:
        await asyncio.sleep(0.25)
        seen.append(world.now_ns)
        assert await asyncio.to_thread(lambda: 42) == 42
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 1.0)
        seen.append("done")

    process.schedule(0, lambda: process.loop.create_task(work()))
    run(world)
    assert seen == [250 * MS, "done"] and not process.loop.errors


def test_a_frozen_process_does_nothing_until_it_is_thawed() -> None:
    world = World(1)
    process, seen = make_process(world), []
    process.schedule(MS, seen.append, "thread")
    process.schedule(MS, lambda: process.loop.call_soon(seen.append, "loop"))
    process.freeze()
    world.at(5 * MS, lambda: (seen.append("thaw"), process.thaw()))
    run(world)
    assert seen == ["thaw", "thread", "loop"]


def test_a_hanging_loop_leaves_the_threads_at_work() -> None:
    world = World(1)
    process, seen = make_process(world), []
    process.hang()
    process.schedule(MS, seen.append, "thread")
    process.schedule(MS, lambda: process.loop.call_soon(seen.append, "loop"))
    world.at(5 * MS, lambda: (seen.append("recover"), process.recover()))
    run(world)
    assert seen == ["thread", "recover", "loop"]


def test_a_dead_process_cleans_nothing_up() -> None:
    world = World(1)
    process, seen = make_process(world), []

    async def work() -> None:
        try:
            await asyncio.sleep(1)
        finally:
            seen.append("cleaned up")

    process.schedule(0, lambda: process.loop.create_task(work()))
    world.at(MS, process.die)
    run(world)
    assert seen == []


def test_a_process_is_struck_between_two_steps() -> None:
    world = World(1)
    process, seen = make_process(world), []
    process.strike_after(3, process.die)
    process.schedule(0, lambda: [process.loop.call_soon(seen.append, number) for number in range(10)])
    run(world)
    assert seen == [0, 1, 2]


def test_clocks_drift_and_jump_and_never_go_back() -> None:
    world = World(1)
    clock = HostClock(world, offset_ns=100, drift_ppm=10_000)
    world.at(1000 * MS, lambda: None)
    run(world)
    assert clock.monotonic_ns() == 100 + 1010 * MS
    assert clock.world_ns(1010 * MS) == 1000 * MS
    clock.drift(-10_000)
    before = clock.boottime_ns()
    clock.jump(7 * MS)
    assert (clock.boottime_ns() - before, clock.monotonic_ns()) == (7 * MS, before)


def test_a_flip_turns_one_bit_of_the_payload() -> None:
    payload = bytes(array("B", range(64)))
    header, damaged = flip_payload(World(3), [b"header", payload])
    different = [one ^ two for one, two in zip(payload, damaged, strict=True) if one != two]
    assert header == b"header" and len(different) == 1 and bin(different[0]).count("1") == 1


def test_plans_have_faults_enough_and_use_every_kind() -> None:
    plans = [draw_plan(seed) for seed in range(200)]
    assert all(len(plan) >= 5 for plan in plans)
    assert {fault.kind for plan in plans for fault in plan} == set(Kind)
    assert plans[3] == draw_plan(3)
