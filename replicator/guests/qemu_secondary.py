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

from replicator.errors import GuestError, NativeError, require
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
        #: The look of the tracker's audit that is under way.
        self._look: asyncio.Task[None] | None = None
        self._audit_failed = ""
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

    async def reload(self, device_state: bytes, written: DirtyBitmap | None = None) -> None:
        require(not self._running, "a guest is paused when it is made equal to another one")
        if self._is_over or self._killed:
            raise GuestError("the guest has ended: no state can be loaded into it")
        if written is None:
            written = self._ram.layout.new_bitmap()
            self._ram.layout.mark_all(written)
        self._tracker.absorb(written)
        process = await self._way.load(self._process, device_state)
        if process is not self._process:
            await self._replace(process)
        self._way.prepare_next()

    async def pause(self) -> None:
        # It is paused to be made equal to another one: its own state is rarely wanted.
        await self._guest.pause(will_save=False)
        self._running = False
        self._tracker.allow_looks(False)
        self._way.prime()

    async def resume(self) -> None:
        # Before the answer: it may run already when the answer is lost.
        self._running = True
        await self._guest.resume()
        self._tracker.allow_looks(True)
        if self._tracker.is_audited and (self._look is None or self._look.done()):
            self._look = self._begin(self._audit())

    async def save_device_state(self, *, runs_on: bool = False) -> bytes:
        self._running = self._running or runs_on
        return await self._guest.save_device_state(runs_on=runs_on)

    def read_clock(self, device_state: bytes) -> int | None:
        return self._guest.read_clock(device_state)

    def scan_dirty(self, bitmap: DirtyBitmap) -> int:
        """See guests.base.SecondaryVm."""
        if self._process.has_ended:
            raise GuestError(f"QEMU process {self.pid} is gone")
        if self._audit_failed:
            raise GuestError(f"the dirty tracking cannot be audited: {self._audit_failed}")
        return self._tracker.scan(bitmap)

    def activity(self) -> int | None:
        return self._guest.activity()

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

    async def _audit(self) -> None:
        """One look of the audit, or what is left of it, or as much as this run has time for."""
        try:
            while await asyncio.to_thread(self._tracker.look_on):
                if not self._running:
                    return
            self._tracker.end_look()
        except (GuestError, NativeError) as error:
            self._audit_failed = str(error)

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

    def _begin(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def _end(guest: QemuGuest, process: SecondaryProcess) -> None:
    await guest.kill()
    await process.end()


class QemuVmStarter:
    """Implements guests.base.VmStarter. The caller's thread must live as long as its VMs. Where the first way of loading
    fails, a pool of processes is taken from then on."""

    def __init__(
        self,
        config: QemuGuestConfig,
        ram_path: Path,
        run_dir: Path,
        *,
        first_way: FirstWay = prove_snapshot_load,
    ) -> None:
        self._config = config
        self._ram_path = ram_path
        self._run_dir = run_dir
        self._first_way = first_way
        #: Why VMs are loaded by the pool; empty for the first way.
        self._why_pool = ""
        #: Made when it is first needed: what is left of an earlier run ends then.
        self._pool: SparePool | None = None

    def prepare(self) -> None:
        self._make_pool().fill(1)

    async def start(self, device_state: bytes) -> QemuSecondaryVm:
        check_ram_file(self._config, self._ram_path)
        nics = nic_endpoints(self._config, self._run_dir)
        pool = self._make_pool()
        async with contextlib.AsyncExitStack() as undo:
            undo.push_async_callback(pool.close)
            process = await pool.take()
            undo.push_async_callback(process.end)
            ram = GuestRam(self._ram_path, GuestLayout(process.machine.identity.layout))
            undo.callback(ram.close)
            tracker = SecondaryTracker(ram)
            undo.callback(tracker.close)
            tracker.follow(process.give_tracker())
            await load_incoming(process.machine, device_state)
            is_new = not self._why_pool
            way = await self._find_way(process, pool)
            if way.reason and is_new:
                # The first way has failed in it, just now.
                spoiled, process = process, await way.load(process, device_state)
                undo.push_async_callback(process.end)
                tracker.follow(process.give_tracker())
                await spoiled.end()
                if written := tracker.count_written():
                    # The load that failed may have left them like that. The next start does not try it.
                    raise GuestError(
                        f"{written} pages of the RAM may have been written by a load that failed"
                    )
            vm = QemuSecondaryVm(process, nics, ram, tracker, way)
            undo.pop_all()
        way.prepare_next()
        return vm

    async def _find_way(self, process: SecondaryProcess, pool: SparePool) -> ReloadWay:
        """The first way is tried once in this object's life; a process in which it fails is good for nothing."""
        if not self._why_pool:
            try:
                return await self._first_way(process)
            except GuestError as error:
                log.warning("each checkpoint will take a new QEMU process: %s", error)
                self._why_pool = str(error)
        return StandbyPool(pool, self._why_pool)

    async def close(self) -> None:
        if self._pool is not None:
            await self._pool.close()

    def _make_pool(self) -> SparePool:
        if self._pool is None:
            starter = ProcessStarter(self._config, self._ram_path, self._run_dir)
            self._pool = SparePool(starter.start)
        return self._pool
