"""A guest and the VM that is made equal to it again and again, without any daemon: of QEMU both ways, and synthetic."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import shutil
import socket
import time
from array import array
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol

from qemu_live import Wire

from replicator.demo.golden import Golden, start_from_golden
from replicator.demo.guest_scripts import COMMAND_PORT
from replicator.errors import GuestError
from replicator.guests.base import Guest, NicEndpoint, SecondaryVm
from replicator.guests.qemu_secondary import QemuVmStarter
from replicator.guests.qemu_secondary_process import SecondaryProcess
from replicator.guests.qemu_secondary_ways import (
    SNAPSHOT_LOAD,
    STANDBY_POOL,
    FirstWay,
    ReloadWay,
    prove_snapshot_load,
)
from replicator.guests.synthetic import SyntheticConfig
from replicator.guests.synthetic_frames import BEACON_SEQUENCE, decode_reply, encode_request, parse_mac
from replicator.memory import GuestRam
from replicator.service.guest_kit import SyntheticKit
from replicator.units import PAGE_SIZE

#: Requests of each side between two checkpoints; with QEMU they take some 50 ms.
REQUESTS = 15
#: RAM is read and compared in pieces of this size.
CHUNK = 1 << 20
SYNTHETIC = SyntheticConfig(ram_bytes=256 * PAGE_SIZE, steps_per_ms=5, beacon_ms=1)


async def leave_out(process: SecondaryProcess) -> ReloadWay:
    raise GuestError("the first way is left out")


FIRST_WAYS: dict[str, FirstWay] = {SNAPSHOT_LOAD: prove_snapshot_load, STANDBY_POOL: leave_out}


class Talk(Protocol):
    """Who talks to one guest. The guest runs."""

    async def ask(self, word: str, times: int) -> int:
        """Ask so often, each time wait for the answer; returns how often the guest was asked in its life."""
        ...

    def close(self) -> None: ...


class LinuxTalk:
    def __init__(self, nic: NicEndpoint) -> None:
        self._wire = Wire(nic)

    async def ask(self, word: str, times: int) -> int:
        for _ in range(times):
            total, _ = await self._wire.count(word)
        return total

    def order(self, command: str) -> None:
        """Tell the guest to do something by which it may end."""
        self._wire.send(COMMAND_PORT, command)

    def close(self) -> None:
        self._wire.__exit__()


class SyntheticTalk:
    def __init__(self, nic: NicEndpoint) -> None:
        self._nic = nic
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(nic.relay_path))
        self._socket.setblocking(False)

    async def ask(self, word: str, times: int) -> int:
        sequence = sum(word.encode())
        request = encode_request(parse_mac("52:54:00:00:00:09"), parse_mac(self._nic.mac), sequence)
        for _ in range(times):
            self._socket.sendto(request, str(self._nic.guest_path))
            counter = await self._next_counter()
        return counter

    async def _next_counter(self) -> int:
        while True:
            reply = decode_reply(await asyncio.get_running_loop().sock_recv(self._socket, 65_536))
            if reply is not None and reply.sequence != BEACON_SEQUENCE:
                return reply.counter

    def close(self) -> None:
        self._socket.close()


@dataclasses.dataclass(slots=True)
class Pair:
    """Both guests, paused between two methods."""

    primary: Guest
    secondary: SecondaryVm
    primary_talk: Talk
    secondary_talk: Talk
    #: Of the last checkpoint.
    state: bytes
    reload_ms: list[float] = dataclasses.field(default_factory=list)

    async def run_apart(self, *, times: int = REQUESTS) -> tuple[int, int]:
        """Both run and are asked different things, the secondary once more; how often each was asked in its life."""
        await asyncio.gather(self.primary.resume(), self.secondary.resume())
        totals = await asyncio.gather(
            self.primary_talk.ask("primary", times), self.secondary_talk.ask("secondary", times + 1)
        )
        await asyncio.gather(self.primary.pause(), self.secondary.pause())
        return totals[0], totals[1]

    async def checkpoint(self) -> int:
        """Make the secondary equal; returns how many pages were copied."""
        dirty = self.primary.ram.layout.new_bitmap()
        self.primary.scan_dirty(dirty)
        self.secondary.scan_dirty(dirty)
        copied = copy_pages(self.primary.ram, self.secondary.ram, dirty.pfns())
        self.state = await self.primary.save_device_state()
        began = time.perf_counter()
        await self.secondary.reload(self.state, dirty)
        self.reload_ms.append((time.perf_counter() - began) * 1e3)
        return copied

    def count_differing(self) -> int:
        """Pages of both RAM files that are not equal."""
        return len(find_differing(read_chunks(self.primary.ram), read_chunks(self.secondary.ram)))


def copy_pages(source: GuestRam, target: GuestRam, pfns: array[int]) -> int:
    pages = bytearray(len(pfns) * PAGE_SIZE)
    source.gather(pfns, pages)
    target.scatter(pfns, pages)
    return len(pfns)


def read_ram(ram: GuestRam) -> list[bytes]:
    """The RAM file, in chunks."""
    return list(read_chunks(ram))


def read_chunks(ram: GuestRam) -> Iterator[bytes]:
    """One after the other: memory that is new to this process would cost more than the reading."""
    for at in range(0, ram.layout.file_bytes, CHUNK):
        yield os.pread(ram.fd, min(CHUNK, ram.layout.file_bytes - at), at)


def find_differing(one: Iterable[bytes], other: Iterable[bytes]) -> set[int]:
    """Numbers of the pages that are not equal in two RAM files."""
    differing: set[int] = set()
    for number, (mine, its) in enumerate(zip(one, other, strict=True)):
        if mine != its:
            first = number * CHUNK // PAGE_SIZE
            differing |= {first + page for page in find_differing_pages(mine, its)}
    return differing


def find_differing_pages(one: bytes, other: bytes) -> list[int]:
    starts = range(0, len(one), PAGE_SIZE)
    return [at // PAGE_SIZE for at in starts if one[at : at + PAGE_SIZE] != other[at : at + PAGE_SIZE]]


@contextlib.asynccontextmanager
async def qemu_pair(golden: Golden, place: Path, first_way: FirstWay) -> AsyncIterator[Pair]:
    primary = await start_from_golden(golden, place / "a-ram", place / "a")
    async with contextlib.AsyncExitStack() as undo:
        undo.push_async_callback(primary.kill)
        talk = LinuxTalk(primary.nics[0])
        undo.callback(talk.close)
        await talk.ask("before", 1)
        await primary.pause()
        begin_tracking_and_copy(primary, place / "a-ram", place / "b-ram")
        device_state = await primary.save_device_state()
        starter = QemuVmStarter(golden.config, place / "b-ram", place / "b", first_way=first_way)
        undo.push_async_callback(starter.close)
        secondary = await starter.start(device_state)
        undo.push_async_callback(secondary.kill)
        other_talk = LinuxTalk(secondary.nics[0])
        undo.callback(other_talk.close)
        yield Pair(primary, secondary, talk, other_talk, device_state)


@contextlib.asynccontextmanager
async def synthetic_pair(place: Path) -> AsyncIterator[Pair]:
    (place / "a").mkdir()
    (place / "b").mkdir()
    kit = SyntheticKit(SYNTHETIC, has_nic=True)
    primary = await kit.start(place / "a-ram", place / "a")
    async with contextlib.AsyncExitStack() as undo:
        undo.push_async_callback(primary.kill)
        talk = SyntheticTalk(primary.nics[0])
        undo.callback(talk.close)
        await talk.ask("before", 1)
        await primary.pause()
        begin_tracking_and_copy(primary, place / "a-ram", place / "b-ram")
        device_state = await primary.save_device_state()
        secondary = await kit.start_secondary_vm(place / "b-ram", place / "b", device_state)
        undo.push_async_callback(secondary.kill)
        other_talk = SyntheticTalk(secondary.nics[0])
        undo.callback(other_talk.close)
        yield Pair(primary, secondary, talk, other_talk, device_state)


def begin_tracking_and_copy(primary: Guest, source: Path, target: Path) -> None:
    """What the first synchronisation does, with a primary that stands still."""
    primary.scan_dirty(primary.ram.layout.new_bitmap())
    shutil.copyfile(source, target)


OpenPair = Callable[[Path], contextlib.AbstractAsyncContextManager[Pair]]
