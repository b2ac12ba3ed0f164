"""What stands for COLO's second machine in a simulation, and what the judge makes of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from replicator.errors import TransportError
from replicator.memory.pages import GuestLayout, GuestRam
from replicator.sim.clocks import HostClock
from replicator.sim.frame_line import FrameEnd, FrameExchange
from replicator.sim.machine import Frame, Machine, MachineState, Workload
from replicator.sim.network import Network
from replicator.sim.process import Process
from replicator.sim.sealing import SealingAudit
from replicator.sim.twin import TwinMachine
from replicator.sim.twins import Twins
from replicator.sim.world import World
from replicator.units import PAGE_SIZE
from replicator.wire.frames import InputsLogged

MS = 1_000_000
PAGES = 8
WORKLOAD = Workload(pages=PAGES, storm=0.0)


@pytest.fixture
def rams() -> Iterator[list[GuestRam]]:
    made = []
    for _ in range(2):
        fd = os.memfd_create("twin")
        os.ftruncate(fd, PAGES * PAGE_SIZE)
        made.append(GuestRam(fd, GuestLayout.flat(PAGES)))
        os.close(fd)
    yield made
    for ram in made:
        ram.close()


def run_twins(rams: list[GuestRam], divergence: float) -> tuple[list[Frame], list[Frame], list[TwinMachine]]:
    """Two machines that began equal, for a second."""
    world, said = World(3), ([], [])
    machines = []
    for ram, frames in zip(rams, said, strict=True):
        machine = TwinMachine(world, ram, WORKLOAD, MachineState(1, 0, 0, 0), divergence)
        machine.power_on()
        machine.on_sent = lambda _, frame, frames=frames: frames.append(frame)
        machine.resume()
        machines.append(machine)
    while world.now_ns < 1000 * MS:
        world.step()
    return *said, machines


def test_twins_say_the_same_in_their_own_time_and_write_what_only_they_write(rams: list[GuestRam]) -> None:
    one, two, machines = run_twins(rams, 0.0)
    both = min(len(one), len(two))
    assert both > 50 and one[:both] == two[:both]
    assert machines[0].written == machines[1].written == set(range(PAGES))
    assert all(rams[0].read_page(page) != rams[1].read_page(page) for page in range(PAGES))


def test_twins_that_take_in_entropy_part_for_good(rams: list[GuestRam]) -> None:
    one, two, machines = run_twins(rams, 0.05)
    different = [mine.nonce != other.nonce for mine, other in zip(one, two, strict=False)]
    first = different.index(True)
    assert all(different[first:])
    assert MachineState.unpack(machines[0].state.pack()) == machines[0].state


class Ends:
    """The two ends of a channel between hosts a and b."""

    def __init__(self) -> None:
        self.world = World(5)
        audit = SealingAudit(lambda *_: None)
        self.network = Network(self.world, ("a", "b"), audit, sealed=False)
        self.exchange = FrameExchange(self.network)
        processes = [
            Process(self.world, host, HostClock(self.world, offset_ns=0, drift_ppm=0)) for host in "ab"
        ]
        self.dialler = FrameEnd(processes[0], "a", bytes(16), is_primary=True)
        self.listener = FrameEnd(processes[1], "b", bytes(16), is_primary=False)

    def run(self, ms: int) -> None:
        until_ns = self.world.now_ns + ms * MS
        self.world.at(until_ns, lambda: None)
        while self.world.now_ns < until_ns:
            self.world.step()

    def serve(self) -> list[Any]:
        """What has come in at the dialler, once both were looked at."""
        self.run(2)
        while self.listener.receive():
            pass
        self.run(2)
        return list(iter(self.dialler.receive, None))

    def open(self) -> None:
        self.exchange.dial(self.dialler, "b")
        self.run(10)
        self.exchange.listen(self.listener)
        self.run(80)
        self.serve()
        assert self.dialler.is_open and self.listener.is_open


def test_a_channel_opens_once_somebody_listens_and_carries_messages_in_order() -> None:
    ends = Ends()
    ends.open()
    for number in range(1, 6):
        ends.listener.send(InputsLogged(number))
    assert ends.serve() == [InputsLogged(number) for number in range(1, 6)]


def test_a_cut_lets_messages_wait_until_it_ends() -> None:
    ends = Ends()
    ends.open()
    ends.exchange.cut(True)
    ends.listener.send(InputsLogged(1))
    assert ends.serve() == []
    ends.exchange.cut(False)
    assert ends.serve() == [InputsLogged(1)]


@pytest.mark.parametrize("harm", ["cut", "drop", "reset", "close", "host"])
def test_who_dialled_learns_that_a_channel_broke(harm: str) -> None:
    ends = Ends()
    ends.open()
    if harm == "cut":
        ends.exchange.cut(True)
    elif harm == "drop":
        ends.network.weather["b", "a"].drop = 1.0
    elif harm == "reset":
        ends.exchange.break_all()
    elif harm == "close":
        ends.listener.close()
    else:
        ends.network.drop_host("b", silently=True)
    if harm in ("cut", "drop"):
        ends.listener.send(InputsLogged(1))
    ends.run(1000)
    with pytest.raises(TransportError):
        ends.dialler.receive()


class Bench:
    """A judge of twins, with a primary's machine at a and a VM at b that was loaded with epoch 1."""

    def __init__(self, ram: GuestRam) -> None:
        self.found: list[str] = []
        self.twins = Twins(lambda promise, _: self.found.append(promise))
        world, state = World(1), MachineState(1, 0, 0, 0)
        self.primary = Machine(world, ram, WORKLOAD, state)
        self.vm = TwinMachine(world, ram, WORKLOAD, state, 0.0)
        self.vm.running = False
        self.store: Any = SimpleNamespace(
            committed=SimpleNamespace(term=1, epoch=1),
            base=None,
            pfns=set(),
            promotable=SimpleNamespace(ready=False),
        )
        self.twins.on_barrier(self.primary, (1, 1))
        self.twins.on_store("b", self.store, "committed")
        self.twins.on_loaded("b", self.vm, state, is_memory=True)


@pytest.fixture
def bench(rams: list[GuestRam]) -> Bench:
    return Bench(rams[0])


def test_what_both_have_said_since_one_epoch_may_leave_and_nothing_else(bench: Bench) -> None:
    twins, frames = bench.twins, [Frame(number, 7) for number in range(1, 4)]
    twins.on_sent(bench.primary, frames[0])
    bench.vm.on_sent(bench.vm, frames[0])
    twins.on_sent(bench.primary, frames[1])
    bench.vm.on_sent(bench.vm, frames[2])
    assert [twins.has_said("b", frame) for frame in frames] == [True, False, False]
    twins.on_barrier(bench.primary, (1, 2))
    twins.on_sent(bench.primary, frames[2])
    assert not twins.has_said("b", frames[2]), "the VM said it in another execution"


def test_a_vm_that_takes_over_has_said_all_that_left(bench: Bench) -> None:
    bench.vm.on_sent(bench.vm, Frame(1, 7))
    bench.twins.on_left(1, Frame(1, 7))
    assert bench.twins.on_voice("b", bench.vm) == {Frame(1, 7)} and not bench.found


def test_a_vm_that_never_said_what_left_is_found(bench: Bench) -> None:
    bench.vm.on_sent(bench.vm, Frame(1, 8))
    bench.twins.on_left(1, Frame(1, 7))
    bench.twins.on_voice("b", bench.vm)
    assert bench.found == ["C4"]


def test_a_replica_is_neither_written_nor_promotable_while_its_vm_runs(bench: Bench) -> None:
    bench.vm.running = True
    bench.twins.on_store("b", bench.store, "begun")
    bench.store.promotable.ready = True
    bench.twins.on_store("b", bench.store, "recovered")
    assert bench.found == ["C3", "C3"]


def test_what_the_vm_has_written_belongs_to_the_next_epoch(bench: Bench) -> None:
    bench.vm.written = {3, 4}
    bench.store.base, bench.store.committed = bench.store.committed, SimpleNamespace(term=1, epoch=2)
    bench.store.pfns = {3}
    bench.twins.on_store("b", bench.store, "committed")
    assert bench.found == ["C5"]


def test_a_vm_that_is_not_what_it_was_loaded_with_is_found(bench: Bench) -> None:
    bench.twins.on_loaded("b", bench.vm, bench.vm.state, is_memory=False)
    bench.twins.on_loaded("b", bench.vm, MachineState(1, 5, 0, 0), is_memory=True)
    assert bench.found == ["C3", "C3"]
