"""Watches a simulated pair from outside and says which promise was broken first.

    C1  no output leaves but what a committed epoch contains, or under the arbiter's grant to go alone, or in COLO what
        the other side's VM has said as well (twins.py has the rest of COLO)
    C2  at no instant can two sides speak; a term has one holder
    C3  the memory and state of a promotable replica are those of one whole epoch
    C4  whoever takes over has sent (in its own memory) all that ever left
    C5  each page that was written in an epoch is in that epoch's set
    C6  output leaves in order, none twice, none invented
    C7  once faults stop the pair is protected again, in bounded time (asked by the runner)
    C8  a status never claims more protection than there is
    N1  no nonce is used twice under a key, N2  no sealed message is opened twice or out of order: see sealing.py

It knows the truth from the machines' memory and the arbiter's record, never from what a daemon believes.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from itertools import compress
from mmap import PROT_READ, mmap
from operator import ne
from typing import NamedTuple

import xxhash

from replicator.arbiter.base import ArbiterRecord
from replicator.arbiter.keeper import LeaseDeadline
from replicator.errors import require
from replicator.memory.pages import GuestRam
from replicator.sim.arbiter import ArbiterServer
from replicator.sim.disk import SimStore
from replicator.sim.machine import Frame, Machine, MachineState, version_in
from replicator.sim.process import Process
from replicator.sim.twin import TwinMachine
from replicator.sim.twins import Twins
from replicator.sim.world import World
from replicator.store import Committed
from replicator.units import PAGE_SIZE, Epoch

#: Barriers that are remembered.
BARRIERS_KEPT = 64


class Snapshot(NamedTuple):
    """A guest as it stood still at a barrier."""

    state: MachineState
    versions: tuple[int, ...]
    #: Of its pages, in the order of frames.
    digest: bytes


@dataclass(frozen=True, slots=True)
class Violation:
    promise: str
    what: str

    def __str__(self) -> str:
        return f"{self.promise}: {self.what}"


@dataclass(slots=True)
class Side:
    """What is known of a host's present process."""

    process: Process
    deadline: LeaseDeadline
    #: Term of the newest lease that the arbiter granted to this process.
    term: int = 0
    machine: Machine | None = None

    @property
    def may_speak(self) -> bool:
        """By its own clock, also while it is frozen: it may wake up at any moment."""
        process = self.process
        return process.alive and process.clock.boottime_ns() < self.deadline.deadline_ns


class Judge:
    """`violation` is the first broken promise."""

    def __init__(self, world: World, server: ArbiterServer) -> None:
        self.world = world
        self.violation: Violation | None = None
        self.commits = 0
        self.frames_left = 0
        #: Host -> when an epoch was last committed there.
        self.committed_ns: dict[str, int] = {}
        self.take_overs = 0
        #: Of COLO.
        self.twins = Twins(self.accuse)
        self._stores: dict[str, SimStore] = {}
        self._server = server
        server.on_change = self.on_arbiter
        self.sides: dict[str, Side] = {}
        self._barriers: OrderedDict[tuple[int, int], Snapshot] = OrderedDict()
        #: Frame -> lineage.
        self._sent: dict[Frame, int] = {}
        #: Lineage -> number of the newest frame that left, and of the newest one that a committed epoch contains.
        self._left: dict[int, int] = {}
        self._covered: dict[int, int] = {}
        self._holders: dict[int, Process] = {}
        #: A guest's RAM -> the file behind it, which has the pages in the order of frames.
        self._views: dict[GuestRam, mmap] = {}

    def forget(self) -> None:
        """The run is over: let go of the guest's memory at all those barriers."""
        self._barriers.clear()
        self._sent.clear()
        self._stores.clear()
        while self._views:
            self._views.popitem()[1].close()
        self.twins.forget()

    def accuse(self, promise: str, what: str) -> None:
        if self.violation is None:
            self.violation = Violation(promise, what)
            self.world.note("judge", self.violation)

    def note_errors(self, process: Process) -> None:
        """Errors that nobody in the process awaited are bugs too."""
        if process.loop.errors:
            self.accuse("crash", f"{process.name}: {process.loop.errors[0]}")

    # Who may speak.

    def on_process(self, host: str, process: Process, deadline: LeaseDeadline) -> None:
        self.sides[host] = Side(process, deadline)

    def on_arbiter(self, process: Process, before: ArbiterRecord | None, after: ArbiterRecord) -> None:
        if before is not None and before.term == after.term:
            self._check_given_up(process, before, after)
            return
        self.world.note("arbiter", f"term {after.term} for {process.name}")
        if after.term in self._holders:
            self.accuse("C2", f"term {after.term} was granted twice")
        self._holders[after.term] = process
        for host, side in self.sides.items():
            if side.process is process:
                side.term = after.term
            elif side.may_speak:
                self.accuse("C2", f"{host} may still speak while {process.name} gets term {after.term}")

    def _check_given_up(self, process: Process, before: ArbiterRecord, after: ArbiterRecord) -> None:
        if not before.holder or after.holder:
            return
        for host, side in self.sides.items():
            if side.process is process and side.may_speak:
                self.accuse("C2", f"{host} gives term {after.term} up and may still speak")

    def on_resume(self, machine: Machine) -> None:
        lineage, sent = machine.lineage, machine.sent
        if sent < self._left.get(lineage, 0):
            self.accuse("C4", f"a guest runs at frame {sent}, frame {self._left[lineage]} has left")
        for host, side in self.sides.items():
            other = side.machine
            if other is not None and other is not machine and other.running and side.may_speak:
                self.accuse("C2", f"a second guest runs while that of {host} may speak")

    # The guest.

    def on_machine(self, host: str, machine: Machine, *, promoted: bool) -> None:
        self.sides[host].machine = machine
        machine.on_sent, machine.on_resume = self._on_sent, self.on_resume
        lineage, sent = machine.lineage, machine.sent
        if not promoted:
            return
        self.take_overs += 1
        self.world.note(host, f"takes over at frame {sent}")
        newest = self._left.get(lineage, 0)
        if sent < newest:
            self.accuse("C4", f"{host} takes over at frame {sent}, frame {newest} has left")
        self._covered[lineage] = sent

    def on_vm(self, host: str, machine: TwinMachine) -> None:
        """It runs beside the guest and has no voice."""
        machine.on_resume = lambda _: self.twins.check_promotable(host, self._stores[host])

    def on_loaded(self, host: str, machine: TwinMachine) -> None:
        """It should be what the guest was at the epoch that was committed here last."""
        truth = self._barriers.get(self.twins.origin_at(host) or (0, 0))
        if truth is None:
            self.accuse("C3", f"{host}: a VM was loaded with what no guest ever was")
            return
        digest = xxhash.xxh3_128_digest(self._read_all(machine.ram))
        self.twins.on_loaded(host, machine, truth.state, is_memory=digest == truth.digest)

    def on_voice(self, host: str, machine: TwinMachine) -> None:
        """The VM has taken over."""
        for frame in self.twins.on_voice(host, machine):
            self._sent[frame] = machine.lineage
        self.on_machine(host, machine, promoted=True)
        self.on_resume(machine)

    def _on_sent(self, machine: Machine, frame: Frame) -> None:
        self.twins.on_sent(machine, frame)
        self._sent[frame] = machine.lineage

    def on_barrier(self, host: str, epoch: Epoch) -> None:
        side = self.sides[host]
        machine = side.machine
        if machine is None:
            return
        if machine.running:
            self.accuse("C3", f"{host}: the guest runs at the barrier of epoch {epoch}")
        digest = xxhash.xxh3_128_digest(self._read_all(machine.ram))
        self.twins.on_barrier(machine, (side.term, epoch))
        self._barriers[side.term, epoch] = Snapshot(machine.state, tuple(machine.versions), digest)
        while len(self._barriers) > BARRIERS_KEPT:
            self._barriers.popitem(last=False)

    def _read_all(self, ram: GuestRam) -> mmap:
        """Its pages as they are, in the order of frames: through a mapping of our own, so that nothing is copied."""
        view = self._views.get(ram)
        if view is None:
            layout = ram.layout
            require(len(layout.segments) == 1, "a simulated guest has no hole in its RAM")
            view = self._views[ram] = mmap(ram.fd, layout.file_bytes, prot=PROT_READ)
        return view

    # The replica.

    def on_store(self, host: str, store: SimStore, what: str) -> None:
        self._stores[host] = store
        self.twins.on_store(host, store, what)
        committed = store.committed
        if what not in ("part", "begun"):
            self.world.note(host, f"store {what} {committed}")
        if not store.promotable.ready:
            return
        if committed is None:
            self.accuse("C3", f"{host}: a replica without an epoch is promotable")
            return
        truth = self._barriers.get((committed.term, committed.epoch))
        if truth is None:
            return
        self._check_memory(host, store, truth, committed)
        lineage = truth.state.lineage
        self._covered[lineage] = max(self._covered.get(lineage, 0), truth.state.sent)
        if what == "committed":
            self.commits += 1
            self.committed_ns[host] = self.world.now_ns
            self._check_set(host, store, truth)

    def _check_memory(self, host: str, store: SimStore, truth: Snapshot, committed: Committed) -> None:
        ram = self._read_all(store.ram)
        epoch = (committed.term, committed.epoch)
        if xxhash.xxh3_128_digest(ram) != truth.digest:
            starts = range(0, len(ram), PAGE_SIZE)
            found = [version_in(ram[start : start + PAGE_SIZE]) for start in starts]
            pairs = enumerate(zip(found, truth.versions, strict=True))
            wrong = {page: versions for page, versions in pairs if versions[0] != versions[1]}
            self.accuse(
                "C3",
                f"{host}: the memory of term and epoch {epoch} is not what the guest had, by versions: {wrong}",
            )
        elif store.device_state() != truth.state.pack():
            self.accuse("C3", f"{host}: the device state of term and epoch {epoch} is not what the guest had")

    def _check_set(self, host: str, store: SimStore, truth: Snapshot) -> None:
        base = store.base
        if base is None:
            missing = set(range(len(truth.versions))) - store.pfns
        else:
            before = self._barriers.get((base.term, base.epoch))
            if before is None or before.state.lineage != truth.state.lineage:
                return
            written = map(ne, before.versions, truth.versions)
            missing = set(compress(range(len(truth.versions)), written)) - store.pfns
        if missing:
            self.accuse("C5", f"{host}: pages {sorted(missing)} were written and are not in the epoch's set")

    # Output.

    def on_left(self, host: str, data: bytes) -> None:
        record, side = self._server.record, self.sides[host]
        frame = Frame.unpack(data)
        if record is None or (record.holder, record.term) != (host, side.term) or not record.live:
            self.accuse("C2", f"{host} (term {side.term}) speaks {frame}, the arbiter has {record}")
            return
        if frame is None:
            return
        self.frames_left += 1
        lineage = self._sent.get(frame)
        if lineage is None:
            self.accuse("C6", f"{host} says {frame}, which no guest has sent")
            return
        newest = self._left.get(lineage, 0)
        if frame.number <= newest:
            self.accuse("C6", f"{host} says frame {frame.number} after frame {newest}")
        self._left[lineage] = max(newest, frame.number)
        self.twins.on_left(lineage, frame)
        covered = self._covered.get(lineage, 0)
        if not record.barred and frame.number > covered and not self._has_twin_said(host, frame):
            self.accuse("C1", f"{host} says frame {frame.number}, committed epochs contain {covered}")

    def _has_twin_said(self, host: str, frame: Frame) -> bool:
        return any(self.twins.has_said(other, frame) for other in self.sides if other != host)
