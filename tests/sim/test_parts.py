"""The simulator's own parts keep the contracts of what they stand for."""

from __future__ import annotations

import asyncio
from array import array
from collections import Counter

import pytest

from replicator.link.sealing import BulkKeys
from replicator.sim.clocks import HostClock
from replicator.sim.faults import OF_COLO, Kind, draw_plan
from replicator.sim.network import flip_anywhere, flip_payload
from replicator.sim.process import Process
from replicator.sim.sealing import SealingAudit
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


def test_damage_to_a_sealed_message_is_one_bit_anywhere() -> None:
    world, hit = World(3), Counter[int]()
    for _ in range(100):
        frames = [bytes(20), bytes(30)]
        damaged = flip_anywhere(world, frames)
        bits = [int.from_bytes(one).bit_count() for one in damaged]
        assert sum(bits) == 1 and list(map(len, damaged)) == [20, 30]
        hit[bits.index(1)] += 1
    assert min(hit[0], hit[1]) > 20


def test_the_audit_sees_what_is_sealed_twice_and_what_is_opened_again() -> None:
    keys, other = BulkKeys(bytes(32), b"12345678"), BulkKeys(b"x" * 32, b"12345678")
    found: list[str] = []
    audit = SealingAudit(lambda promise, what: found.append(promise))
    frames = [[keys.key_id + number.to_bytes(8, "big")] for number in range(4)]
    for number in (0, 1, 2):
        audit.note_sealed(keys, frames[number])
        audit.note_opened(keys, frames[number])
    audit.note_sealed(other, frames[1])
    audit.note_opened(other, frames[1])
    assert not found
    audit.note_sealed(keys, frames[2])
    audit.note_opened(keys, frames[1])
    assert found == ["N1", "N2"]


def test_a_share_is_drawn_apart_from_chance() -> None:
    one, two = World(3), World(3)
    shares = [one.draw_secret(32) for _ in range(2)]
    assert len(set(shares)) == 2 and two.draw_secret(32) == shares[0]
    assert one.between(0, 1 << 60) == World(3).between(0, 1 << 60)


def test_plans_have_faults_enough_and_use_every_kind() -> None:
    plans = [draw_plan(seed) for seed in range(200)]
    assert all(len(plan) >= 5 for plan in plans)
    assert {fault.kind for plan in plans for fault in plan} == set(Kind) - OF_COLO
    assert plans[3] == draw_plan(3)
    assert {fault.kind for seed in range(200) for fault in draw_plan(seed, is_colo=True)} == set(Kind)
