"""A guest without QEMU: a process of ours with shared RAM, a workload that can be checked, and a real NIC socket.

For tests, benchmarks and the simulator of two hosts on one. It keeps the contract of guests.base, with the dirty
pages told by the guest itself (one byte a page, set after the write, cleared before the copy), so that they can be
compared with what a tracker finds. What the machine does is in synthetic_machine.py, its process's loop in
synthetic_main.py, our end of that process in synthetic_process.py.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from replicator.errors import GuestError, require
from replicator.guests.activity import ThreadActivity
from replicator.guests.base import GuestEvent, GuestIdentity, NicEndpoint
from replicator.guests.synthetic_config import SyntheticConfig, open_ram
from replicator.guests.synthetic_machine import Clocks, Registers, check_ram
from replicator.guests.synthetic_process import SyntheticProcess
from replicator.memory.bitmap import DirtyBitmap
from replicator.memory.pages import GuestLayout, GuestRam

__all__ = ["SyntheticConfig", "SyntheticGuest", "SyntheticStandby", "check_ram_file"]


class SyntheticGuest:
    """A synthetic guest that exists. Implements guests.base.Guest, and SecondaryVm when `start_secondary` made it."""

    def __init__(self, config: SyntheticConfig, process: SyntheticProcess, ram: GuestRam) -> None:
        self._config = config
        self._process = process
        self._ram = ram
        # All that it does it does in its main thread.
        self._activity = ThreadActivity(process.pid, (process.pid,))

    @classmethod
    async def start(
        cls, config: SyntheticConfig, ram_path: Path | None = None, *, paused: bool = False
    ) -> SyntheticGuest:
        """Power a guest on, from zeroed RAM, and let it run unless `paused`."""
        if ram_path is not None:
            ram_path.unlink(missing_ok=True)
        guest = await _start(config, ram_path, incoming=False)
        if not paused:
            await guest.resume()
        return guest

    @classmethod
    async def start_secondary(
        cls, config: SyntheticConfig, ram_path: Path, device_state: bytes
    ) -> SyntheticGuest:
        """A paused guest on a RAM file that holds what belongs to `device_state`. Its first scan, too, reports only
        what it wrote."""
        guest = await _start(config, ram_path, incoming=True)
        try:
            guest._process.forget_dirty()  # before anything was written
            await guest.load(device_state)
        except BaseException:
            await guest.kill()
            raise
        return guest

    @property
    def identity(self) -> GuestIdentity:
        return self._config.identity

    @property
    def ram(self) -> GuestRam:
        return self._ram

    @property
    def nics(self) -> tuple[NicEndpoint, ...]:
        return self._config.nics

    @property
    def agent(self) -> SyntheticAgent | None:
        return SyntheticAgent(self._process) if self._config.agent else None

    @property
    def pid(self) -> int:
        return self._process.pid

    async def pause(self) -> None:
        await self._process.command("pause")

    async def resume(self) -> None:
        await self._process.command("resume")

    async def save_device_state(self, *, runs_on: bool = False) -> bytes:
        state = (await self._process.command("save"))["state"]
        require(isinstance(state, bytes), "the process answers save with bytes")
        if runs_on:
            await self._process.command("resume")
        return bytes(state)

    def read_clock(self, device_state: bytes) -> int | None:
        return Clocks.unpack(device_state).running_ns

    def scan_dirty(self, bitmap: DirtyBitmap) -> int:
        """See guests.base.Guest. The byte is cleared before the caller copies the page: a write after it counts."""
        dirty, reported = self._process.dirty, 0
        for part in self._config.segments:
            end = part.file_page + part.pages
            start = dirty.find(b"\1", part.file_page, end)
            while start >= 0:
                stop = dirty.find(b"\0", start, end)
                stop = end if stop < 0 else stop
                dirty[start:stop] = bytes(stop - start)
                bitmap.set_range(part.first_pfn + start - part.file_page, stop - start)
                reported += stop - start
                start = dirty.find(b"\1", stop, end)
        return reported

    def activity(self) -> int | None:
        return self._activity.read()

    async def events(self) -> AsyncIterator[GuestEvent]:
        while (event := await self._process.events.get()) is not None:
            yield event

    async def shutdown(self) -> None:
        await self._process.command("shutdown")

    async def kill(self) -> None:
        self._activity.close()
        await self._process.kill()
        self._process.close_files()
        self._ram.close()

    async def load(self, device_state: bytes) -> None:
        """Take over `device_state`; for a machine that was started as a standby."""
        await self._process.command("load", state=device_state)

    async def reload(self, device_state: bytes, written: DirtyBitmap | None = None) -> None:
        """See guests.base.SecondaryVm. Loading writes no page. Frames for the guest that wait in its NIC's socket are
        taken when it runs again."""
        await self._process.command("reload", state=device_state)

    async def wait_end(self) -> str:
        """Wait for the end of the process; returns why."""
        return await self._process.wait_end()

    # Beyond the contract: what tests ask of a guest that has no operating system.

    async def step(self, steps: int) -> Registers:
        """Do `steps` steps now, paused or not; return the registers after them."""
        return self._registers(await self._process.command("step", steps=steps))

    async def registers(self) -> Registers:
        return self._registers(await self._process.command("query"))

    async def frames_lost(self) -> int:
        """Frames that found no room, or no relay."""
        return int((await self._process.command("query"))["frames_lost"])

    async def reset(self) -> None:
        await self._process.command("reset")

    async def panic(self, reason: str) -> None:
        await self._process.command("panic", reason=reason)

    def _registers(self, answer: dict[str, Any]) -> Registers:
        return Registers(
            self._config.seed, answer["step"], answer["counter"], answer["frames_in"], answer["boots"]
        )


class SyntheticAgent:
    """Implements guests.base.GuestAgent. Unlike a program in a guest it answers while the guest is paused, too."""

    def __init__(self, process: SyntheticProcess) -> None:
        self._process = process

    async def sync(self) -> None:
        await self.read_time()

    async def read_time(self) -> int:
        return int((await self._process.command("read_time"))["time_ns"])

    async def set_time(self, time_ns: int) -> None:
        await self._process.command("set_time", time_ns=time_ns)


class SyntheticStandby:
    """A synthetic machine that waits for a state. Implements guests.base.Standby."""

    def __init__(self, config: SyntheticConfig) -> None:
        self._config = config
        self._guest: SyntheticGuest | None = None
        self._activated = False

    async def start(self, ram_path: Path) -> None:
        require(self._guest is None, "a standby is started once")
        self._guest = await _start(self._config, ram_path, incoming=True)

    async def activate(self, device_state: bytes) -> SyntheticGuest:
        guest = self._guest
        if guest is None or self._activated:
            raise GuestError("the standby was not started, or was activated before")
        await guest.load(device_state)
        self._activated = True
        return guest

    async def wait(self) -> str:
        if self._guest is None:
            raise GuestError("the standby was not started")
        return await self._guest.wait_end()

    async def kill(self) -> None:
        if self._guest is not None and not self._activated:
            await self._guest.kill()


async def _start(config: SyntheticConfig, ram_path: Path | None, *, incoming: bool) -> SyntheticGuest:
    ram_fd = open_ram(config, ram_path)
    process = SyntheticProcess(config, ram_fd, incoming=incoming)
    try:
        ram = GuestRam(ram_fd, GuestLayout(config.segments))
        try:
            await process.start()
        except BaseException:
            ram.close()
            raise
    except BaseException:
        process.close_files()
        raise
    return SyntheticGuest(config, process, ram)


def check_ram_file(config: SyntheticConfig, ram: int | Path) -> Registers:
    """Prove that a RAM file or descriptor holds one whole state of this guest. Raises GuestError."""
    fd = os.dup(ram) if isinstance(ram, int) else os.open(ram, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with mmap.mmap(fd, config.ram_bytes, prot=mmap.PROT_READ) as mapping, memoryview(mapping) as view:
            return check_ram(view, config.seed, config.working_set)
    finally:
        os.close(fd)
