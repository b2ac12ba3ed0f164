"""The virtual machine of a simulated host, and the adapters through which a daemon sees it.

While it runs it writes pages, reads its inputs and sends numbered frames. All that it is, is known: its RAM is a real
file, its device state has the count of frames it has sent, and page 0 says the same count, so that a RAM and a state
that do not belong together are found when they are loaded.
"""

from __future__ import annotations

import asyncio
import os
import struct
from array import array
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from replicator.errors import GuestError, require
from replicator.guests.base import Died, Guest, GuestEvent, GuestIdentity, NicEndpoint, PoweredOff, Standby
from replicator.memory.bitmap import DirtyBitmap
from replicator.memory.pages import GuestLayout, GuestRam
from replicator.output.memory import MemoryPort
from replicator.sim.process import Process
from replicator.sim.world import World
from replicator.units import NS_PER_MS, PAGE_SIZE

MAC = "52:54:00:51:4d:01"
_MAC_BYTES = bytes.fromhex(MAC.replace(":", ""))
ETHERTYPE = b"\x88\xb5"
FRAME = struct.Struct("<QQ")
_STATE = struct.Struct("<QQQQ")
_PAGE = struct.Struct("<QQQ")
_FILLER = bytes(PAGE_SIZE - _PAGE.size)
#: What the socket between a guest and a relay that does not read holds.
SOCKET_FRAMES = 64
COMMAND_NS = (60_000, 900_000)
#: A command that is not answered is given up after this, as QMP's are.
ANSWER_TIMEOUT_NS = 2_000 * NS_PER_MS


class MachineState(NamedTuple):
    """What is outside the RAM."""

    #: Which power-on this guest descends from.
    lineage: int
    #: Frames it has sent.
    sent: int
    inputs: int
    writes: int

    def pack(self) -> bytes:
        return _STATE.pack(*self)

    @classmethod
    def unpack(cls, data: bytes) -> MachineState:
        if len(data) != _STATE.size:
            raise GuestError(f"a device state of {len(data)} bytes instead of {_STATE.size}")
        return cls(*_STATE.unpack(data))


@dataclass(frozen=True, slots=True)
class Workload:
    """How active a guest is."""

    pages: int = 48
    burst_ns: tuple[int, int] = (1_000_000, 6_000_000)
    pages_a_burst: int = 4
    frames_a_burst: int = 1
    #: A burst that writes most of the RAM.
    storm: float = 0.005


@dataclass(slots=True)
class MachineFaults:
    """What goes wrong at the machines of one host at present."""

    #: Commands fail with this probability.
    error: float = 0.0
    #: Pauses are carried out and never answered.
    pause_hangs: bool = False


class Frame(NamedTuple):
    """A frame of the guest as it is on the wire: its number, and a nonce that nobody could invent."""

    number: int
    nonce: int

    def pack(self) -> bytes:
        return b"\xff" * 6 + _MAC_BYTES + ETHERTYPE + FRAME.pack(*self)

    @classmethod
    def unpack(cls, data: bytes) -> Frame | None:
        """None for a frame that is not of the guest's kind (an announcement)."""
        if data[12:14] != ETHERTYPE or len(data) != 14 + FRAME.size:
            return None
        return cls(*FRAME.unpack_from(data, 14))


class Machine:
    """The guest's own process: it goes on while its daemon is frozen and ends when its daemon dies."""

    def __init__(self, world: World, ram: GuestRam, workload: Workload, state: MachineState) -> None:
        self.world = world
        self.ram = ram
        self.state = state
        self.running = False
        self.alive = True
        self.suspended = False
        self.dirty: set[int] = set(range(workload.pages))
        #: For each page the number of the write that was its last one.
        self.versions = [0] * workload.pages
        #: Where its frames go and its inputs come from, once a relay is there.
        self.port: MemoryPort | None = None
        self.on_sent: Callable[[Machine, Frame], None] = lambda _, __: None
        self.on_port: Callable[[], None] = lambda: None
        self.on_resume: Callable[[Machine], None] = lambda _: None
        self._workload = workload
        self._generation = 0

    def resume(self) -> None:
        if self.alive and not self.running:
            self.running = True
            self.on_resume(self)
            self._generation += 1
            self._plan(self._generation)

    def pause(self) -> None:
        self.running = False

    def end(self) -> None:
        self.alive = self.running = False

    def _plan(self, generation: int) -> None:
        self.world.after(self.world.between(*self._workload.burst_ns), self._burst, generation)

    def _burst(self, generation: int) -> None:
        if not self.running or generation != self._generation:
            return
        if not self.suspended:
            self._work()
        self._plan(generation)

    def _work(self) -> None:
        world, load = self.world, self._workload
        inputs = self._read_inputs()
        frames = inputs + world.between(0, load.frames_a_burst)
        self.state = self.state._replace(inputs=self.state.inputs + inputs)
        for _ in range(frames):
            self._send()
        count = load.pages - 1 if world.chance(load.storm) else world.between(0, load.pages_a_burst)
        for pfn in {world.between(1, load.pages - 1) for _ in range(count)}:
            self._write(pfn)
        self._write(0)

    def _read_inputs(self) -> int:
        port = self.port
        if port is None or not port.unread:
            return 0
        taken = len(port.unread)
        port.unread.clear()
        self.on_port()
        return taken

    def _send(self) -> None:
        frame = Frame(self.state.sent + 1, self.world.between(1, 1 << 62))
        self.state = self.state._replace(sent=frame.number)
        self.on_sent(self, frame)
        port = self.port
        if port is not None and len(port.from_guest) < SOCKET_FRAMES:
            port.from_guest.append(frame.pack())
            self.on_port()

    def _write(self, pfn: int) -> None:
        writes = self.state.writes + 1
        self.state = self.state._replace(writes=writes)
        self.versions[pfn] = writes
        page = _PAGE.pack(self.state.lineage, self.state.sent, writes) + _FILLER
        self.ram.scatter(array("Q", [pfn]), page)
        self.dirty.add(pfn)

    def load(self, state: MachineState) -> None:
        """GuestError unless the RAM belongs to the state."""
        lineage, sent, writes = _PAGE.unpack_from(self.ram.read_page(0))
        if (lineage, sent) != (state.lineage, state.sent) or writes > state.writes:
            raise GuestError(f"RAM of frame {sent}, write {writes} with a state of {state}")
        self.state = state


class SimGuest:
    """Implements guests.base.Guest for one process."""

    def __init__(
        self, process: Process, machine: Machine, identity: GuestIdentity, faults: MachineFaults
    ) -> None:
        self.machine = machine
        self._process = process
        self._identity = identity
        self._faults = faults
        self._events: asyncio.Queue[GuestEvent | None] = asyncio.Queue()
        self._killed = False

    @property
    def identity(self) -> GuestIdentity:
        return self._identity

    @property
    def ram(self) -> GuestRam:
        return self.machine.ram

    @property
    def nics(self) -> tuple[NicEndpoint, ...]:
        return (NicEndpoint("nic0", MAC, Path("guest"), Path("relay")),)

    @property
    def pid(self) -> int:
        return 1

    async def pause(self) -> None:
        await self._command(self.machine.pause, hangs=self._faults.pause_hangs)

    async def resume(self) -> None:
        await self._command(self.machine.resume)

    async def save_device_state(self) -> bytes:
        await self._command(lambda: None)
        require(not self.machine.running, "saved while it runs")
        return self.machine.state.pack()

    def scan_dirty(self, bitmap: DirtyBitmap) -> int:
        if not self.machine.alive:
            raise GuestError("the guest's process is gone")
        if self._process.world.chance(self._faults.error):
            raise GuestError("the scan failed")
        found, self.machine.dirty = self.machine.dirty, set()
        bitmap.set_pfns(array("Q", sorted(found)))
        return len(found)

    async def events(self) -> AsyncIterator[GuestEvent]:
        while (event := await self._events.get()) is not None:
            yield event

    async def shutdown(self) -> None:
        await self._command(self.machine.end)
        self._events.put_nowait(PoweredOff())

    async def kill(self) -> None:
        self._killed = True
        self.machine.end()
        self._events.put_nowait(None)

    def die(self) -> None:
        """Its process ends for itself."""
        if self.machine.alive and not self._killed:
            self.machine.end()
            self._process.schedule(100_000, self._events.put_nowait, Died("the guest's process ended"))

    async def _command(self, carry_out: Callable[[], None], *, hangs: bool = False) -> None:
        world = self._process.world
        answer = asyncio.get_running_loop().create_future()
        fails = world.chance(self._faults.error)
        world.after(world.between(*COMMAND_NS), self._carry_out, carry_out, answer, fails, hangs)
        await answer

    def _carry_out(
        self, carry_out: Callable[[], None], answer: asyncio.Future[None], fails: bool, hangs: bool
    ) -> None:
        if not self.machine.alive:
            self._process.schedule(0, _fail, answer, "the guest's process is gone")
        elif hangs:
            carry_out()
            self._process.schedule(ANSWER_TIMEOUT_NS, _fail, answer, "the guest did not answer")
        elif fails:
            self._process.schedule(20_000, _fail, answer, "the command failed")
        else:
            carry_out()
            self._process.schedule(self._process.world.between(10_000, 200_000), _succeed, answer)


def _succeed(answer: asyncio.Future[None]) -> None:
    if not answer.done():
        answer.set_result(None)


def _fail(answer: asyncio.Future[None], reason: str) -> None:
    if not answer.done():
        answer.set_exception(GuestError(reason))


class SimStandby:
    """Implements guests.base.Standby."""

    def __init__(self, process: Process, kit: SimKit) -> None:
        self._process = process
        self._kit = kit
        self._ram: GuestRam | None = None
        self._ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def start(self, ram_path: Path) -> None:
        self._ram = self._kit.open_ram(ram_path)
        self._kit.standby = self

    async def activate(self, device_state: bytes) -> Guest:
        if self._ram is None or self._ended.done():
            raise GuestError("no process waits here")
        return self._kit.load(self._ram, device_state)

    async def wait(self) -> str:
        return await self._ended

    async def kill(self) -> None:
        if not self._ended.done():
            self._ended.set_result("killed")

    def die(self) -> None:
        self._process.run(lambda: None if self._ended.done() else self._ended.set_result("it died"))


class SimKit:
    """Implements service.guest_kit.GuestKit for one process. `on_machine` is told of each machine that it makes."""

    name = "vm"
    nic_count = 1

    def __init__(
        self,
        process: Process,
        workload: Workload,
        faults: MachineFaults,
        *,
        next_lineage: Callable[[], int],
        on_machine: Callable[[SimGuest, bool], None],
    ) -> None:
        self._process = process
        self._workload = workload
        self._faults = faults
        self._next_lineage = next_lineage
        self._on_machine = on_machine
        self._layout = GuestLayout.flat(workload.pages)
        self._rams: deque[GuestRam] = deque()
        self.standby: SimStandby | None = None

    @property
    def identity(self) -> GuestIdentity:
        pages = self._workload.pages
        return GuestIdentity(
            self.name, "", pages * PAGE_SIZE, tuple(self._layout.segments), "simulated", (), (MAC,)
        )

    async def identify(self, run_dir: Path) -> GuestIdentity:
        return self.identity

    async def start(self, ram_path: Path, run_dir: Path) -> Guest:
        fd = os.memfd_create("sim-guest")
        try:
            os.ftruncate(fd, self._workload.pages * PAGE_SIZE)
            ram = self._keep(GuestRam(fd, self._layout))
        finally:
            os.close(fd)
        state = MachineState(self._next_lineage(), 0, 0, 0)
        guest = self._make(ram, state)
        guest.machine._write(0)
        self._on_machine(guest, False)
        await guest.resume()
        return guest

    async def give_back(self, guest: Guest) -> None:
        await guest.kill()

    def make_standby(self, run_dir: Path) -> Standby:
        return SimStandby(self._process, self)

    def open_ram(self, path: Path) -> GuestRam:
        return self._keep(GuestRam(path, self._layout))

    def load(self, ram: GuestRam, device_state: bytes) -> SimGuest:
        state = MachineState.unpack(device_state)
        guest = self._make(ram, state)
        guest.machine.load(state)
        self._on_machine(guest, True)
        return guest

    def _make(self, ram: GuestRam, state: MachineState) -> SimGuest:
        machine = Machine(self._process.world, ram, self._workload, state)
        return SimGuest(self._process, machine, self.identity, self._faults)

    def _keep(self, ram: GuestRam) -> GuestRam:
        self._rams.append(ram)
        return ram

    def close(self) -> None:
        """At the end of the run."""
        while self._rams:
            self._rams.pop().close()
