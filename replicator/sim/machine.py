"""The virtual machine of a simulated host: a guest's process, which goes on when its daemon is frozen.

While it runs it writes pages, reads its inputs and sends numbered frames. All that it is, is known: its RAM is a real
file, its device state has the count of frames it has sent, and page 0 says the same count, so that a RAM and a state
that do not belong together are found when they are loaded. It knows neither a daemon nor epochs.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from replicator.errors import GuestError
from replicator.memory.pages import GuestRam
from replicator.output.memory import MemoryPort
from replicator.sim.world import World
from replicator.units import PAGE_SIZE

MAC = "52:54:00:51:4d:01"
_MAC_BYTES = bytes.fromhex(MAC.replace(":", ""))
ETHERTYPE = b"\x88\xb5"
FRAME = struct.Struct("<QQ")
_STATE = struct.Struct("<QQQQ")
_NOISE = struct.Struct("<Q")
_PAGE = struct.Struct("<QQQ")
FILLER = bytes(PAGE_SIZE - _PAGE.size)
#: What the socket between a guest and a relay that does not read holds.
SOCKET_FRAMES = 64


class MachineState(NamedTuple):
    """What is outside the RAM."""

    #: Which power-on this guest descends from.
    lineage: int
    #: Frames it has sent.
    sent: int
    inputs: int
    writes: int
    #: The newest word of entropy that it took in, 0 for none (twin.py).
    noise: int = 0

    def pack(self) -> bytes:
        return _STATE.pack(*self[:4]) + (_NOISE.pack(self.noise) if self.noise else b"")

    @classmethod
    def unpack(cls, data: bytes) -> MachineState:
        if len(data) not in (_STATE.size, _STATE.size + _NOISE.size):
            raise GuestError(f"a device state of {len(data)} bytes instead of {_STATE.size}")
        noise = _NOISE.unpack_from(data, _STATE.size) if len(data) > _STATE.size else ()
        return cls(*_STATE.unpack_from(data), *noise)


@dataclass(frozen=True, slots=True)
class Workload:
    """How active a guest is."""

    pages: int = 48
    burst_ns: tuple[int, int] = (1_000_000, 6_000_000)
    pages_a_burst: int = 4
    frames_a_burst: int = 1
    #: A burst that writes most of the RAM.
    storm: float = 0.005


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


def version_in(page: bytes | bytearray) -> int:
    """Number of the write that filled this page, 0 for none."""
    return int(_PAGE.unpack_from(page)[2])


class Machine:
    """The guest's own process: it goes on while its daemon is frozen and ends when its daemon dies."""

    def __init__(self, world: World, ram: GuestRam, workload: Workload, state: MachineState) -> None:
        self.world = world
        self.ram = ram
        self.noise = 0
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
        #: How often it had something to do.
        self.bursts = 0
        self._workload = workload
        self._generation = 0
        #: What fills a page behind its numbers.
        self._filler = FILLER

    @property
    def state(self) -> MachineState:
        return MachineState(self.lineage, self.sent, self._inputs, self._writes, self.noise)

    @state.setter
    def state(self, state: MachineState) -> None:
        self.lineage, self.sent, self._inputs, self._writes, self.noise = state

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
        self.bursts += 1
        world, load = self.world, self._workload
        inputs = self._read_inputs()
        frames = inputs + world.between(0, load.frames_a_burst)
        self._inputs += inputs
        for _ in range(frames):
            self._send()
        count = load.pages - 1 if world.chance(load.storm) else world.between(0, load.pages_a_burst)
        pfns = {world.between(1, load.pages - 1) for _ in range(count)}
        self._write(*pfns, 0)

    def _read_inputs(self) -> int:
        port = self.port
        if port is None or not port.unread:
            return 0
        taken = len(port.unread)
        port.unread.clear()
        self.on_port()
        return taken

    def _send(self) -> None:
        self.sent += 1
        frame = Frame(self.sent, self._draw_nonce())
        self.on_sent(self, frame)
        port = self.port
        if port is not None and len(port.from_guest) < SOCKET_FRAMES:
            port.from_guest.append(frame.pack())
            self.on_port()

    def _draw_nonce(self) -> int:
        return self.world.between(1, 1 << 62)

    def _write(self, *pfns: int) -> None:
        """One write a page, in this order."""
        pieces = []
        for pfn in pfns:
            self._writes += 1
            self.versions[pfn] = self._writes
            pieces += [_PAGE.pack(self.lineage, self.sent, self._writes), self._filler]
        self.ram.scatter(array("Q", pfns), b"".join(pieces))
        self.dirty.update(pfns)

    def power_on(self) -> None:
        """Give a new RAM its page 0, which belongs to the state."""
        self._write(0)

    def load(self, state: MachineState) -> None:
        """GuestError unless the RAM belongs to the state."""
        lineage, sent, writes = _PAGE.unpack_from(self.ram.read_page(0))
        if (lineage, sent) != (state.lineage, state.sent) or writes > state.writes:
            raise GuestError(f"RAM of frame {sent}, write {writes} with a state of {state}")
        self.state = state
