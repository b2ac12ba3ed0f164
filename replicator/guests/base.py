"""What the service may ask of a guest, whatever runs it.

A `Guest` is a machine that exists: running or paused, with its RAM in a file that both it and we map. A `Standby`
is a machine that waits beside its RAM file and becomes a `Guest` once. A `SecondaryVm` is a guest that runs beside
another one and is made equal to it at each checkpoint; a `VmStarter` starts it. Rules every adapter keeps:

1. Between the return of `pause` and the call of `resume` the guest writes no page and sends no frame, so the dirty
   bitmap, the pages and the device state belong to one instant.
2. `scan_dirty` reports every page written since the previous scan, at least once; the first scan reports all pages.
   A page reported though unchanged costs time, a page left out costs the guest.
3. `activate` leaves the guest loaded and paused. The caller checks its lease and only then calls `resume`.
4. `pause`, `resume`, `save_device_state` and `reload` are called one at a time; the caller waits for each.
   `save_device_state(runs_on=True)` is the first half of a resume: nothing but `resume` may follow it.
5. Nothing here decides anything: errors are `GuestError`, what happens to the guest by itself is a `GuestEvent`.

This layer does not know about epochs, leases or the link.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from replicator.memory.bitmap import DirtyBitmap
from replicator.memory.pages import GuestRam, Segment


@dataclass(frozen=True, slots=True)
class GuestIdentity:
    """What both sides must agree on before a replica of this guest makes sense. Compared whole at hello."""

    name: str
    uuid: str
    ram_bytes: int
    #: Where guest frames lie in the RAM file, ascending, without overlap.
    layout: tuple[Segment, ...]
    #: Names the virtual hardware: two guests with equal fingerprints can load each other's device state.
    machine: str
    #: (name, fingerprint of the content) of each read-only disk.
    disks: tuple[tuple[str, str], ...] = ()
    #: One MAC a NIC, lower case, in the order of `Guest.nics`.
    macs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NicEndpoint:
    """A NIC as two unix datagram sockets, one Ethernet frame a datagram (QEMU's `-netdev dgram`)."""

    name: str
    mac: str
    #: Bound by the guest's process; the relay sends frames for the guest here.
    guest_path: Path
    #: Bound by the relay; the guest sends its frames here.
    relay_path: Path


@dataclass(frozen=True, slots=True)
class PoweredOff:
    """The guest shut itself down, or did so on request. Ends the pair; nobody resurrects it."""


@dataclass(frozen=True, slots=True)
class Panicked:
    """The guest's own system crashed."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class Reset:
    """The guest rebooted. Its process and RAM file stay the same."""


@dataclass(frozen=True, slots=True)
class Died:
    """The process behind the guest ended without being asked to."""

    reason: str


GuestEvent = PoweredOff | Panicked | Reset | Died


class GuestAgent(Protocol):
    """A program inside the guest that does what is asked of it, while the guest runs.

    It may be slow, deaf or not there: each method returns or raises GuestError within seconds. One call at a time.
    """

    async def sync(self) -> None:
        """Begin a conversation; what is left of earlier ones is dropped."""
        ...

    async def read_time(self) -> int:
        """The guest's wall clock at some instant of the call: nanoseconds since 1970, UTC."""
        ...

    async def set_time(self, time_ns: int) -> None:
        """Set the guest's wall clock. When this fails it may be set all the same, and even later."""
        ...


class Guest(Protocol):
    """A machine that runs or is paused. Each method raises GuestError when the machine cannot do what is asked."""

    @property
    def identity(self) -> GuestIdentity: ...

    @property
    def ram(self) -> GuestRam:
        """The guest's RAM, mapped into our process; valid until `kill`."""
        ...

    @property
    def nics(self) -> tuple[NicEndpoint, ...]: ...

    @property
    def agent(self) -> GuestAgent | None:
        """The way to the guest's agent; None when this machine has no channel for one."""
        ...

    @property
    def pid(self) -> int:
        """Process id of the machine, for trackers and for the operator."""
        ...

    async def pause(self) -> None: ...

    async def resume(self) -> None: ...

    async def save_device_state(self, *, runs_on: bool = False) -> bytes:
        """All state outside the RAM. The guest must be paused.

        With `runs_on` the guest may go on as soon as the state is saved, also when that fails; the caller has what it
        needs of the pause, and calls `resume` in any case."""
        ...

    def read_clock(self, device_state: bytes) -> int | None:
        """The guest's running time at the instant of the state: nanoseconds that count only while it runs, and never go
        back in a guest that goes on from the state. None when the state does not tell."""
        ...

    def scan_dirty(self, bitmap: DirtyBitmap) -> int:
        """Add the pages written since the previous scan to `bitmap` (guest pfns); return how many were reported."""
        ...

    def activity(self) -> int | None:
        """A number that stays the same while none of its vCPUs does anything. None while one does, or would if it had a
        processor, and where that is not known. Takes some microseconds."""
        ...

    def events(self) -> AsyncIterator[GuestEvent]:
        """Events in order, each once, to one consumer. Ends after PoweredOff or Died."""
        ...

    async def shutdown(self) -> None:
        """Ask the guest to power off; PoweredOff follows when it obeys."""
        ...

    async def kill(self) -> None:
        """End the process at once and wait for its end. May be repeated; not reported as Died."""
        ...


class SecondaryVm(Guest, Protocol):
    """A guest that is made equal to another one again and again, and runs between two such reloads.

    Of `Guest` all holds but the first scan: dirty tracking begins before the guest runs for the first time and never
    ends, so each scan, the first one too, reports only what the guest or a load of its state wrote since the scan
    before. What the caller writes into the RAM file need not be reported. A guest that goes on as a primary is the same
    object, with no further step.
    """

    async def reload(self, device_state: bytes, written: DirtyBitmap | None = None) -> None:
        """Make the paused guest equal to the one that `device_state` was saved from. The RAM holds already what belongs
        to the state: `written` has all pages that the caller has written since the last load, None: any page.

        Afterwards the guest is paused. Pages that it, or the load itself, writes are reported by the next scan. The
        NICs' paths stay, but another process may be behind them, under another `pid`: the relay connects to them anew
        before `resume`. After a GuestError, and after PoweredOff or Died, the guest can only be killed."""
        ...


class VmStarter(Protocol):
    """Starts secondary's VMs on one RAM file, one at a time: the next one once the last was killed."""

    def prepare(self) -> None:
        """A VM will be wanted: what can be done without its state may begin, in the background. May be repeated."""
        ...

    async def start(self, device_state: bytes) -> SecondaryVm:
        """A VM whose RAM belongs to the state already; it stands still. GuestError when it does not take the state."""
        ...

    async def close(self) -> None:
        """End what was prepared and not used. May be repeated; VMs are their owner's."""
        ...


class DirectStarter:
    """Implements VmStarter for VMs that are started quickly."""

    def __init__(self, start: Callable[[bytes], Awaitable[SecondaryVm]]) -> None:
        self._start = start

    def prepare(self) -> None:
        """There is nothing to prepare."""

    async def start(self, device_state: bytes) -> SecondaryVm:
        return await self._start(device_state)

    async def close(self) -> None:
        """Nothing was prepared."""


class Standby(Protocol):
    """A machine that waits, paused and empty, for the state of another."""

    async def start(self, ram_path: Path) -> None:
        """Start the process on the replica's RAM file. It changes no page until `activate`."""
        ...

    async def activate(self, device_state: bytes) -> Guest:
        """Load `device_state`, which must belong to the RAM file's present content. Once only.

        The guest returned is paused.
        """
        ...

    async def wait(self) -> str:
        """Wait for the end of the process that waits here; returns how it ended. Before `activate` only."""
        ...

    async def kill(self) -> None:
        """End the process, if it was started and not activated."""
        ...
