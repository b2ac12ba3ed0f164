"""A secondary's VM run by QEMU. Implements guests.base.SecondaryVm.

A `QemuGuest` does what any guest does; this file adds what lasts beyond one process: the RAM, the dirty tracking, the
NICs' paths, the events, and the way of loading a state (qemu_secondary_ways.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path

from replicator.errors import GuestError, require
from replicator.guests.base import Died, GuestEvent, GuestIdentity, NicEndpoint, PoweredOff
from replicator.guests.qemu_agent import AgentChannel
from replicator.guests.qemu_command import nic_endpoints
from replicator.guests.qemu_config import QemuGuestConfig
from replicator.guests.qemu_guest import QemuGuest
from replicator.guests.qemu_secondary_process import ProcessStarter, SecondaryProcess, SparePool
from replicator.guests.qemu_secondary_tracking import SecondaryTracker
from replicator.guests.qemu_secondary_ways import FirstWay, ReloadWay, StandbyPool, prove_snapshot_load
from replicator.guests.qemu_standby import check_ram_file, load_incoming
from replicator.memory import DirtyBitmap, GuestLayout, GuestRam

log = logging.getLogger(__name__)


class QemuSecondaryVm:
    """A QEMU machine that is made equal to another one at each checkpoint. Belongs to one event loop. It takes over the
    process, which has a state, and all that goes with it."""

    def __init__(
        self,
        process: SecondaryProcess,
        nics: tuple[NicEndpoint, ...],
        ram: GuestRam,
        tracker: SecondaryTracker,
        way: ReloadWay,
    ) -> None:
        self._nics = nics
        self._ram = ram
        self._tracker = tracker
        self._way = way
        self._running = False
        #: Powered off or died: nothing brings it back.
        self._is_over = False
        self._events: asyncio.Queue[GuestEvent | None] = asyncio.Queue()
        #: Forwarders of events, and processes that are being ended.
        self._tasks: set[asyncio.Task[None]] = set()
        self._killed = False
        self._put_in_place(process)

    @property
    def identity(self) -> GuestIdentity:
        return self._guest.identity

    @property
    def ram(self) -> GuestRam:
        return self._ram

    @property
    def nics(self) -> tuple[NicEndpoint, ...]:
        return self._nics

    @property
    def agent(self) -> AgentChannel | None:
        return self._guest.agent

    @property
    def pid(self) -> int:
        return self._guest.pid

    @property
    def tracker_name(self) -> str:
        """Which dirty tracker is at work, for the status."""
        return self._tracker.name

    @property
    def way(self) -> str:
        """How states are loaded: "snapshot-load" or "standby-pool"."""
        return self._way.name

    @property
    def way_reason(self) -> str:
        """Why it is not the first way; empty for the first."""
        return self._way.reason

    async def reload(self, device_state: bytes) -> None:
        require(not self._running, "a guest is paused when it is made equal to another one")
        if self._is_over or self._killed:
            raise GuestError("the guest has ended: no state can be loaded into it")
        if self._tracker.has_shadow:
            await asyncio.to_thread(self._tracker.absorb)
        process = await self._way.load(self._process, device_state)
        if process is not self._process:
            await self._replace(process)
        self._way.prepare_next()

    async def pause(self) -> None:
        # It is paused to be made equal to another one: its own state is rarely wanted.
        await self._guest.pause(will_save=False)
        self._running = False

    async def resume(self) -> None:
        # Before the answer: it may run already when the answer is lost.
        self._running = True
        await self._guest.resume()

    async def save_device_state(self, *, runs_on: bool = False) -> bytes:
        self._running = self._running or runs_on
        return await self._guest.save_device_state(runs_on=runs_on)

    def read_clock(self, device_state: bytes) -> int | None:
        return self._guest.read_clock(device_state)

    def scan_dirty(self, bitmap: DirtyBitmap) -> int:
        """See guests.base.SecondaryVm. Some scans of the paused guest are audited and take longer."""
        if self._process.has_ended:
            raise GuestError(f"QEMU process {self.pid} is gone")
        return self._tracker.scan(bitmap, live=self._running)

    async def events(self) -> AsyncIterator[GuestEvent]:
        while (event := await self._events.get()) is not None:
            yield event

    async def shutdown(self) -> None:
        await self._guest.shutdown()

    async def kill(self) -> None:
        self._killed = True
        self._tracker.close()
        await self._guest.kill()
        await self._way.close()
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._ram.is_open:
            self._ram.close()
            await self._process.end()
            for nic in self._nics:
                nic.guest_path.unlink(missing_ok=True)

    # Beyond the contract: for the operator and for tests.

    async def query_status(self) -> str:
        """QEMU's word for what the machine does."""
        return await self._guest.query_status()

    async def _replace(self, process: SecondaryProcess) -> None:
        if self._killed:
            await process.end()
            raise GuestError("the guest was ended while a state was being loaded")
        old_guest, old_process = self._guest, self._process
        self._tracker.follow(process.give_tracker())
        try:
            self._put_in_place(process)
        finally:
            self._begin(_end(old_guest, old_process))

    def _put_in_place(self, process: SecondaryProcess) -> None:
        self._process = process
        self._guest = QemuGuest(process.machine, running=False)
        self._begin(self._forward(self._guest))
        process.take_paths(self._nics)

    async def _forward(self, guest: QemuGuest) -> None:
        async for event in guest.events():
            if guest is self._guest:
                self._is_over = self._is_over or isinstance(event, PoweredOff | Died)
                self._events.put_nowait(event)
        if guest is self._guest:
            self._events.put_nowait(None)

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _end(guest: QemuGuest, process: SecondaryProcess) -> None:
    await guest.kill()
    await process.end()


async def start_secondary_vm(
    config: QemuGuestConfig,
    ram_path: Path,
    run_dir: Path,
    device_state: bytes,
    *,
    first_way: FirstWay = prove_snapshot_load,
) -> QemuSecondaryVm:
    """A paused VM on a RAM file that holds what belongs to `device_state`. GuestError when it does not take the state.

    Where the first way fails, the pool is taken. The caller's thread must live as long as the VM."""
    nics = nic_endpoints(config, run_dir)
    check_ram_file(config, ram_path)
    pool = SparePool(ProcessStarter(config, ram_path, run_dir).start)
    async with contextlib.AsyncExitStack() as undo:
        undo.push_async_callback(pool.close)
        process = await pool.take()
        undo.push_async_callback(process.end)
        ram = GuestRam(ram_path, GuestLayout(process.machine.identity.layout))
        undo.callback(ram.close)
        tracker = SecondaryTracker(ram)
        undo.callback(tracker.close)
        tracker.follow(process.give_tracker())
        await load_incoming(process.machine, device_state)
        way: ReloadWay
        try:
            way = await first_way(process)
        except GuestError as error:
            log.warning("each checkpoint will take a new QEMU process: %s", error)
            way = StandbyPool(pool, str(error))
            spoiled, process = process, await way.load(process, device_state)
            undo.push_async_callback(process.end)
            tracker.follow(process.give_tracker())
            await spoiled.end()
        changed = await asyncio.to_thread(tracker.look)
        if changed and way.reason:
            # The load that failed may have left it like that.
            raise GuestError(f"loading the device state changed {changed} pages of the RAM")
        vm = QemuSecondaryVm(process, nics, ram, tracker, way)
        undo.pop_all()
    way.prepare_next()
    return vm
