"""The processes of a secondary's VM: each lives in a folder of its own, below the VM's run directory.

The relay knows the VM by one path a NIC. A process binds its NICs in its own folder, tracked and ready long before its
turn, and takes the paths over by renaming the sockets onto them: the relay sees another socket at the path, as with any
guest that comes again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from replicator.errors import GuestError
from replicator.guests.base import GuestIdentity, NicEndpoint
from replicator.guests.qemu_config import QemuGuestConfig
from replicator.guests.qemu_launch import Machine, launch
from replicator.guests.qemu_process import end_leftover, prepare_run_dir
from replicator.guests.qemu_secondary_tracking import arm_tracker
from replicator.memory import UffdTracker

log = logging.getLogger(__name__)

#: Processes that wait for their turn. Starting one takes 40 to 60 ms, so with two the next is rarely waited for.
SPARES = 2
#: Spares found dead, one after the other, before it is called an error.
DEAD_SPARES_MAX = SPARES + 1
#: How often a guest announces itself after each load, which the primary's guest does not. None at all would be right,
#: but then QEMU 7.2 dies at the next reset of the NIC.
ANNOUNCE_ROUNDS = 1
_FOLDER = "vm"


class Folders:
    """Folders below `run_dir`, one a process. A name is used again once its process is gone: socket paths are short."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._taken: set[int] = set()

    def clear(self) -> None:
        """End and remove what an earlier run left. GuestError when a process does not end."""
        for folder in self._run_dir.glob(f"{_FOLDER}[0-9]*"):
            end_leftover(folder)
            shutil.rmtree(folder, ignore_errors=True)

    def take(self) -> Path:
        number = next(n for n in range(len(self._taken) + 1) if n not in self._taken)
        self._taken.add(number)
        return self._run_dir / f"{_FOLDER}{number}"

    def give_back(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        self._taken.discard(int(folder.name.removeprefix(_FOLDER)))


@dataclass(slots=True)
class SecondaryProcess:
    """A QEMU that waits for its first state, or that is the VM."""

    machine: Machine
    #: Armed; None when the kernel cannot track it. Whoever takes it clears the field, and closes it.
    tracker: UffdTracker | None
    folder: Path
    _folders: Folders
    _is_ended: bool = False

    @property
    def has_ended(self) -> bool:
        return self.machine.process.has_ended()

    def give_tracker(self) -> UffdTracker | None:
        tracker, self.tracker = self.tracker, None
        return tracker

    def take_paths(self, nics: tuple[NicEndpoint, ...]) -> None:
        """Put this process behind the VM's paths. GuestError when a NIC's socket is not there."""
        for own, public in zip(self.machine.nics, nics, strict=True):
            try:
                os.rename(own.guest_path, public.guest_path)
            except OSError as error:
                raise GuestError(f"cannot take over {public.guest_path}: {error.strerror}") from error

    async def end(self) -> None:
        """End the process and remove its folder. May be repeated; by one at a time."""
        if self.tracker is not None:
            self.tracker.close()
            self.tracker = None
        await self.machine.kill()
        if not self._is_ended:
            self._is_ended = True
            self._folders.give_back(self.folder)


class ProcessStarter:
    """Starts the processes of one VM, in folders below `run_dir`."""

    def __init__(self, config: QemuGuestConfig, ram_path: Path, run_dir: Path) -> None:
        self._config = config
        self._ram_path = ram_path
        self._run_dir = run_dir
        self._folders = prepare_place(run_dir)
        self._identity: GuestIdentity | None = None

    async def start(self) -> SecondaryProcess:
        """A tracked process that waits for its first state. It changes no page until then."""
        folder = self._folders.take()
        async with contextlib.AsyncExitStack() as undo:
            undo.callback(self._folders.give_back, folder)
            machine = await launch(
                self._config,
                self._ram_path,
                folder,
                incoming=True,
                relay_dir=self._run_dir,
                identity=self._identity,
            )
            undo.push_async_callback(machine.kill)
            await machine.session.execute("migrate-set-parameters", announce_rounds=ANNOUNCE_ROUNDS)
            pid, uffd = machine.process.pid, machine.tracker.give_uffd()
            tracker = await asyncio.to_thread(arm_tracker, pid, uffd, machine.ram)
            undo.pop_all()
        self._identity = machine.identity
        return SecondaryProcess(machine, tracker, folder, self._folders)


class SparePool:
    """Processes that wait for their turn, or are being started."""

    def __init__(self, start: Callable[[], Awaitable[SecondaryProcess]], *, size: int = SPARES) -> None:
        self._start = start
        self._size = size
        self._spares: deque[asyncio.Task[SecondaryProcess]] = deque()

    def fill(self, size: int | None = None) -> None:
        """Start as many as are missing, in the background; `size`: no more than so many."""
        while len(self._spares) < (self._size if size is None else size):
            self._spares.append(asyncio.create_task(self._begin()))

    async def take(self) -> SecondaryProcess:
        """The spare that is ready first, from now on the caller's. GuestError when none can be had."""
        for _ in range(DEAD_SPARES_MAX + 1):
            if not self._spares:
                self._spares.append(asyncio.create_task(self._begin()))
            spare = await self._spares.popleft()
            if not spare.has_ended:
                return spare
            log.warning("a QEMU that waited for its turn ended: %s", spare.machine.process.log_tail())
            await spare.end()
        raise GuestError("the processes that wait for their turn end by themselves")

    async def close(self) -> None:
        """End all that wait. May be repeated. One that is being started is waited for: half a start is not undone."""
        while self._spares:
            with contextlib.suppress(GuestError):
                spare = await self._spares.popleft()
                await spare.end()

    async def _begin(self) -> SecondaryProcess:
        return await self._start()


def prepare_place(run_dir: Path) -> Folders:
    """The folders of a VM in `run_dir`, after what an earlier daemon left there was ended."""
    prepare_run_dir(run_dir)
    end_leftover(run_dir)
    folders = Folders(run_dir)
    folders.clear()
    return folders
