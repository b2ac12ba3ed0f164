"""The synthetic machine's promise: its RAM is a function of (seed, step), and anything else is noticed."""

from __future__ import annotations

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import GuestError, InvariantError
from replicator.guests.synthetic_machine import Registers, SyntheticMachine, Walk, check_ram, page_content
from replicator.units import PAGE_SIZE

PAGES = 9
WORKING = 6
SEED = 77


class Bench:
    """A machine on plain bytes."""

    def __init__(self) -> None:
        self.ram = bytearray(PAGES * PAGE_SIZE)
        self.dirty = bytearray(PAGES)
        self.machine = SyntheticMachine(memoryview(self.ram), memoryview(self.dirty), SEED, WORKING)
        self.machine.power_on()

    def check(self) -> Registers:
        return check_ram(memoryview(self.ram), SEED, WORKING)


@given(st.integers(0, 1 << 64), st.integers(1, 40), st.integers(0, 200))
def test_a_walk_knows_the_last_step_of_each_page(seed: int, pages: int, step: int) -> None:
    walk = Walk(seed, pages)
    last = {walk.page_of(k): k for k in range(1, step + 1)}
    assert all(walk.last_step(page, step) == last.get(page, 0) for page in range(1, pages + 1))
    assert {walk.page_of(k) for k in range(1, pages + 1)} == set(range(1, pages + 1))


@given(st.lists(st.integers(0, 15), max_size=6))
def test_ram_is_whole_after_any_run(runs: list[int]) -> None:
    bench = Bench()
    for steps in runs:
        bench.machine.advance(steps)
        assert bench.check().step == bench.machine.registers.step
    assert bench.check().step == sum(runs)


def test_each_step_dirties_its_page_and_the_registers() -> None:
    bench = Bench()
    bench.dirty[:] = bytes(PAGES)
    bench.machine.advance(2)
    walk = Walk(SEED, WORKING)
    assert {page for page in range(PAGES) if bench.dirty[page]} == {0, walk.page_of(1), walk.page_of(2)}


@pytest.mark.parametrize("page", range(1, PAGES))
def test_one_changed_page_is_torn_ram(page: int) -> None:
    bench = Bench()
    bench.machine.advance(2 * WORKING)
    bench.ram[page * PAGE_SIZE + 100] ^= 1
    with pytest.raises(GuestError, match=f"page {page} "):
        bench.check()


def test_a_page_one_round_behind_is_torn_ram() -> None:
    bench = Bench()
    bench.machine.advance(2 * WORKING)
    page = Walk(SEED, WORKING).page_of(2 * WORKING)
    bench.ram[page * PAGE_SIZE : (page + 1) * PAGE_SIZE] = page_content(SEED, WORKING)
    with pytest.raises(GuestError, match="torn"):
        bench.check()


def test_reset_zeroes_and_counts_the_boot() -> None:
    bench = Bench()
    bench.machine.advance(4)
    bench.machine.serve_request()
    bench.machine.count_beacon()
    bench.machine.reset()
    assert bench.check() == Registers(SEED, boots=2, beacons=1)


def test_saved_state_loads_where_the_ram_belongs_to_it() -> None:
    bench = Bench()
    bench.machine.advance(5)
    state = bench.machine.save(4096)
    assert len(state) == 4096
    other = SyntheticMachine(memoryview(bench.ram), memoryview(bench.dirty), SEED, WORKING)
    other.load(state)
    assert other.registers == bench.machine.registers


def test_state_of_another_instant_is_refused() -> None:
    bench = Bench()
    state = bench.machine.save(0)
    bench.machine.advance(1)
    with pytest.raises(GuestError, match="RAM is at step 1, the device state at step 0"):
        bench.machine.load(state)


@pytest.mark.parametrize("state", [b"", b"RPLSYNT1", bytes(64), b"x" * 4096])
def test_anything_else_is_no_state(state: bytes) -> None:
    with pytest.raises(GuestError):
        Bench().machine.load(state)


def test_state_of_another_seed_is_refused() -> None:
    with pytest.raises(GuestError, match="another seed"):
        Bench().machine.load(Registers(SEED + 1).pack())
    with pytest.raises(GuestError, match="not 5"):
        check_ram(memoryview(Bench().ram), 5, WORKING)


def test_the_working_set_fits_behind_page_0() -> None:
    ram, dirty = memoryview(bytearray(2 * PAGE_SIZE)), memoryview(bytearray(2))
    with pytest.raises(InvariantError):
        SyntheticMachine(ram, dirty, SEED, 2)


def test_a_request_that_comes_twice_is_served_once() -> None:
    bench = Bench()
    numbers = (10, 11, 11, 10, 12)
    assert [bench.machine.serve_once(number) for number in numbers] == [1, 2, 2, 2, 3]
    state = bench.machine.save(0)
    other = SyntheticMachine(memoryview(bench.ram), memoryview(bench.dirty), SEED, WORKING)
    other.load(state)
    assert other.serve_once(12) == 3, "what was served is part of the state"
    assert other.serve_once(13) == 4


@given(st.lists(st.integers(0, 4 * WORKING), max_size=5))
def test_work_is_told_apart_from_steps_that_time_brought(asked: list[int]) -> None:
    bench = Bench()
    for steps in asked:
        bench.machine.advance(3)
        bench.machine.do_work(steps)
    assert bench.check().work == sum(min(steps, WORKING) for steps in asked)
    assert bench.check().step == bench.check().work + 3 * len(asked)


def test_the_state_says_everything() -> None:
    registers = Registers(*range(1, 11))
    assert Registers.unpack(registers.pack()) == registers
    assert len(fields(Registers)) == 10
