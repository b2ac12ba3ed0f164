"""A machine without a hypervisor, whose whole state can be computed: RAM is a function of (seed, step).

Step k writes one page: `page_of(k)` walks a working set in a seeded order, and the page's content follows from
(seed, k). So the last step that wrote any page is known without a history, and `check_ram` can tell a whole state
from a torn one at any step. Page 0 holds the registers; they are also the device state, and a machine that loads
device state and RAM of different instants refuses to run.

    page 0            the registers: magic, then the fields of `Registers` in their order
    pages 1..n        working set, page_content(seed, last step that wrote it), zero before the first
    pages n+1..       zero for ever

The clocks are in the device state only, behind the registers: they stand still while the machine does.

A machine may diverge: with a given probability it takes in a word of its host's entropy before it speaks. Equal
machines then hold different registers and have written different pages, each still a whole state of its own. Without
that only steps depend on time, and nothing that a request changes depends on them.

Pages here are pages of the RAM file; where they lie in guest frames is the adapter's business. No I/O, no clock.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass

from replicator.errors import GuestError, InvariantError, require
from replicator.units import PAGE_SIZE

_WORD_MASK = (1 << 64) - 1
_REGISTERS = struct.Struct("<8s10Q")
_CLOCKS = struct.Struct("<QQ")
_MAGIC = b"RPLSYNT2"
_ZERO_PAGE = bytes(PAGE_SIZE)
_ENTROPY_END = 1 << 64
#: A machine that diverges does so many steps at most.
DIVERGENT_STEPS_MAX = 16


def mix(seed: int, number: int) -> int:
    """A 64-bit value that depends on both arguments (the finaliser of splitmix64)."""
    word = (seed + number * 0x9E3779B97F4A7C15) & _WORD_MASK
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _WORD_MASK
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _WORD_MASK
    return word ^ (word >> 31)


def page_content(seed: int, step: int) -> bytes:
    """What step `step` writes into its page."""
    return mix(seed, step).to_bytes(8, "little") * (PAGE_SIZE // 8)


class Walk:
    """The order in which steps visit the working set: page = 1 + (step * stride + start) mod pages."""

    def __init__(self, seed: int, pages: int) -> None:
        require(pages >= 1, "the working set needs a page")
        self.pages = pages
        self._start = mix(seed, 1 << 62) % pages
        self._stride = 1 + mix(seed, 1 << 63) % pages
        while math.gcd(self._stride, pages) != 1:
            self._stride += 1
        self._inverse = pow(self._stride, -1, pages) if pages > 1 else 0

    def page_of(self, step: int) -> int:
        return 1 + (step * self._stride + self._start) % self.pages

    def last_step(self, page: int, step: int) -> int:
        """Newest step <= `step` that wrote `page`; 0 when none did."""
        first = ((page - 1 - self._start) * self._inverse) % self.pages
        if first > step:
            return 0
        return first + (step - first) // self.pages * self.pages


@dataclass(slots=True)
class Registers:
    """State that is both in page 0 and in the device state."""

    seed: int
    #: Steps done since the last reset.
    step: int = 0
    #: Requests served since the last reset.
    counter: int = 0
    frames_in: int = 0
    boots: int = 1
    #: Number of the newest request that was to be served once only.
    newest_once: int = 0
    #: Steps that were done because requests asked for them; they are part of `step`.
    work: int = 0
    #: Frames said unasked since power-on, through all boots.
    beacons: int = 0
    #: How often a word of entropy was taken in, and the newest one.
    draws: int = 0
    noise: int = 0

    def pack(self) -> bytes:
        return _REGISTERS.pack(_MAGIC, *astuple(self))

    @classmethod
    def unpack(cls, data: bytes | memoryview) -> Registers:
        """Raises GuestError for anything that `pack` did not write."""
        if len(data) < _REGISTERS.size:
            raise GuestError("the synthetic machine's state is too short")
        magic, *fields = _REGISTERS.unpack_from(data)
        if magic != _MAGIC:
            raise GuestError("not the state of a synthetic machine")
        return cls(*fields)


@dataclass(slots=True)
class Clocks:
    """In nanoseconds. The wall clock is `wall_offset_ns` + `running_ns`."""

    #: How long the machine has run.
    running_ns: int = 0
    wall_offset_ns: int = 0

    def pack(self) -> bytes:
        return _CLOCKS.pack(self.running_ns, self.wall_offset_ns)

    @classmethod
    def unpack(cls, state: bytes | memoryview) -> Clocks:
        """Those in a device state. Raises GuestError when it has none."""
        if len(state) < _REGISTERS.size + _CLOCKS.size:
            raise GuestError("the synthetic machine's state is too short")
        return cls(*_CLOCKS.unpack_from(state, _REGISTERS.size))


def no_entropy() -> int:
    """Of a machine that never diverges."""
    raise InvariantError("a machine without entropy is to diverge")


class SyntheticMachine:
    """The machine on its RAM. `dirty` has one byte a page, set to 1 after (never before) the page was written.

    `entropy` gives whole numbers below 2**64, uniformly distributed, that no other machine gets; with a `divergence` of
    0 it is not asked."""

    def __init__(
        self,
        ram: memoryview,
        dirty: memoryview,
        seed: int,
        working_pages: int,
        *,
        divergence: float = 0.0,
        entropy: Callable[[], int] = no_entropy,
    ) -> None:
        require(len(ram) == len(dirty) * PAGE_SIZE, "one dirty byte a page")
        require(working_pages < len(dirty), "page 0 is not part of the working set")
        require(0 <= divergence <= 1, "the divergence is a probability")
        self._ram = ram
        self._dirty = dirty
        self._walk = Walk(seed, working_pages)
        #: An entropy below this makes the machine diverge.
        self._diverges_below = int(divergence * _ENTROPY_END)
        self._entropy = entropy
        self.registers = Registers(seed)
        self.clocks = Clocks()

    @property
    def pages(self) -> int:
        """Of the working set."""
        return self._walk.pages

    def power_on(self) -> None:
        """Start from zeroed RAM."""
        self._write_registers()

    def advance(self, steps: int) -> None:
        """Do `steps` steps."""
        registers, walk, ram, dirty = self.registers, self._walk, self._ram, self._dirty
        for step in range(registers.step + 1, registers.step + steps + 1):
            page = walk.page_of(step)
            ram[page * PAGE_SIZE : (page + 1) * PAGE_SIZE] = page_content(registers.seed, step)
            dirty[page] = 1
        registers.step += steps
        self._write_registers()

    def serve_request(self) -> int:
        """Count one request; return the counter's new value."""
        self.registers.counter += 1
        self._write_registers()
        return self.registers.counter

    def serve_once(self, number: int) -> int:
        """Count the request unless one of this number or a later one was; return the counter's value."""
        if number <= self.registers.newest_once:
            return self.registers.counter
        self.registers.newest_once = number
        return self.serve_request()

    def do_work(self, steps: int) -> None:
        """Do the steps that a request asks for."""
        # Once over the working set changes every page: more work would change no more.
        steps = min(steps, self.pages)
        self.registers.work += steps
        self.advance(steps)

    def count_beacon(self) -> int:
        """The number of the next frame said unasked, from 1 on."""
        self.registers.beacons += 1
        self._write_registers()
        return self.registers.beacons

    def maybe_diverge(self) -> None:
        """Before anything is said: with the given probability take in entropy, and write pages that depend on it."""
        if not self._diverges_below or self._entropy() >= self._diverges_below:
            return
        self.registers.draws += 1
        self.registers.noise = self._entropy()
        self.advance(1 + self.registers.noise % DIVERGENT_STEPS_MAX)

    def count_frame(self) -> None:
        self.registers.frames_in += 1
        self._write_registers()

    def reset(self) -> None:
        """Reboot: RAM is zeroed, everything but the numbers of boots and beacons starts anew."""
        for page in range(1, self._walk.pages + 1):
            self._ram[page * PAGE_SIZE : (page + 1) * PAGE_SIZE] = _ZERO_PAGE
            self._dirty[page] = 1
        old = self.registers
        self.registers = Registers(old.seed, boots=old.boots + 1, beacons=old.beacons)
        self._write_registers()

    def save(self, state_bytes: int) -> bytes:
        """Device state, padded to at least `state_bytes` as a real machine's is long."""
        return (self.registers.pack() + self.clocks.pack()).ljust(state_bytes, b"\x5a")

    def load(self, state: bytes) -> None:
        """Take over `state`. Raises GuestError when it does not belong to what the RAM holds."""
        loaded = Registers.unpack(state)
        if loaded.seed != self.registers.seed:
            raise GuestError("the device state is that of a machine with another seed")
        in_ram = Registers.unpack(self._ram[:PAGE_SIZE])
        if in_ram != loaded:
            raise GuestError(
                f"RAM is at step {in_ram.step}, the device state at step {loaded.step}: torn replica"
            )
        self.registers = loaded
        self.clocks = Clocks.unpack(state)

    def _write_registers(self) -> None:
        data = self.registers.pack()
        self._ram[: len(data)] = data
        self._dirty[0] = 1


def find_wrong_pages(ram: memoryview, seed: int, working_pages: int, step: int) -> Iterator[int]:
    """File pages (but page 0) that do not hold what they must hold after `step` steps."""
    walk = Walk(seed, working_pages)
    for page in range(1, len(ram) // PAGE_SIZE):
        last = walk.last_step(page, step) if page <= working_pages else 0
        expected = page_content(seed, last) if last else _ZERO_PAGE
        if ram[page * PAGE_SIZE : (page + 1) * PAGE_SIZE] != expected:
            yield page


def check_ram(ram: memoryview, seed: int, working_pages: int) -> Registers:
    """Prove that `ram` is the machine's state at one step; return its registers. Raises GuestError."""
    registers = Registers.unpack(ram[:PAGE_SIZE])
    if registers.seed != seed:
        raise GuestError(f"the RAM is that of seed {registers.seed}, not {seed}")
    wrong = next(find_wrong_pages(ram, seed, working_pages, registers.step), None)
    if wrong is not None:
        raise GuestError(f"page {wrong} does not hold what it must after step {registers.step}: torn RAM")
    return registers
