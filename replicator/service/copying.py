"""A real copy of one committed epoch, RAM and device state, made by a secondary while it goes on protecting.

Rounds of copying (store/copy.py) run in a thread of low priority until few pages are left. The rest and the device
state follow while the role stands still between two epochs, so that both are of one epoch; acks wait for that long
and no longer.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from replicator.clock import Clock
from replicator.engine.secondary import Life
from replicator.errors import FenceError
from replicator.memory.bitmap import DirtyBitmap
from replicator.service.commit_log import CommitLog
from replicator.service.secondary_role import SecondaryRole
from replicator.store import files
from replicator.store.copy import RamCopy, check_room

RAM_FILE, STATE_FILE = "ram", "device-state"
#: Pages that may be left for the last round: 4 MiB, some two milliseconds.
REST_PAGES_MAX = 1024
#: Above that the last round leaves the event loop free: an epoch more than what may be left.
LAST_PAGES_MAX = 4 * REST_PAGES_MAX
#: After so many rounds the role stands still however much is left.
ROUNDS_MAX = 12
#: Of the process that is to run on the copy, beside the guest's RAM.
PROCESS_BYTES = 192 << 20
COPY_NICENESS = 10


@dataclass(slots=True)
class CopyResult:
    """What was copied, and what it cost. Times are nanoseconds, `began_ns` and `ended_ns` CLOCK_MONOTONIC."""

    ram: str
    state: str
    ram_bytes: int
    began_ns: int
    term: int = 0
    epoch: int = 0
    session: str = ""
    digest: str = ""
    ended_ns: int = 0
    #: How long the role stood still.
    held_up_ns: int = 0
    rounds: int = 0
    bytes_copied: int = 0
    #: IPv4 addresses of the guest, a list a NIC, as far as mirrored inputs tell.
    addresses: list[list[str]] = field(default_factory=list)

    def to_map(self) -> dict[str, Any]:
        return asdict(self)


async def copy_replica(
    role: SecondaryRole, commits: CommitLog, directory: Path, clock: Clock
) -> dict[str, Any]:
    """Make `ram` and `device-state` in `directory`, which exists. FenceError when there is no whole replica, or none
    any more before the end; StoreError when there is no room. Nothing is left behind by a copy that failed."""
    _check_whole(role)
    ram = role.parts.store.ram
    ram_bytes = os.fstat(ram.fd).st_size
    check_room(directory, ram_bytes, PROCESS_BYTES)
    result = CopyResult(
        str(directory / RAM_FILE), str(directory / STATE_FILE), ram_bytes, clock.monotonic_ns()
    )
    async with _copier(RamCopy(ram, directory / RAM_FILE), directory) as copier:
        await _Copying(role, commits, copier, result, clock).run()
    result.addresses = [[str(address) for address in book.known().ipv4] for book in role.books]
    return result.to_map()


def _check_whole(role: SecondaryRole) -> None:
    machine = role.machine
    if not machine.committed:
        why = machine.trouble or "no epoch was committed yet"
        raise FenceError(f"there is no whole replica to copy: {why}", hint="wait until the pair is protected")
    if machine.barred:
        raise FenceError(
            f"this replica may not be promoted: {machine.trouble}", hint="wait until the pair is protected"
        )
    if machine.life is not Life.FOLLOWING:
        raise FenceError(
            f"this side does not follow a primary: it is {machine.life.value}",
            hint="a drill is for a pair that is protected; see `replicator status`",
        )


class _Copier:
    """The copy's own thread."""

    def __init__(self, copy: RamCopy) -> None:
        self.copy = copy
        self._pool = ThreadPoolExecutor(1, "copy", initializer=_give_way)

    async def run(self, pages: DirtyBitmap) -> int:
        return await asyncio.get_running_loop().run_in_executor(self._pool, partial(self.copy.copy, pages))

    def close(self) -> None:
        self.copy.close()
        self._pool.shutdown()
        self.copy.close_file()


def _give_way() -> None:
    """Priorities belong to threads: only this one is lowered."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), COPY_NICENESS)


@contextlib.asynccontextmanager
async def _copier(copy: RamCopy, directory: Path) -> AsyncIterator[_Copier]:
    copier = _Copier(copy)
    try:
        yield copier
    except BaseException:
        copier.close()
        for name in (RAM_FILE, STATE_FILE):
            (directory / name).unlink(missing_ok=True)
        raise
    copier.close()


class _Copying:
    """One copy from the first round to the last."""

    def __init__(
        self, role: SecondaryRole, commits: CommitLog, copier: _Copier, result: CopyResult, clock: Clock
    ) -> None:
        self._role, self._commits, self._copier = role, commits, copier
        self._result, self._clock = result, clock
        self._left = copier.copy.take()

    async def run(self) -> None:
        while True:
            if self._result.rounds < ROUNDS_MAX and self._left.count() > REST_PAGES_MAX:
                await self._copy_left()
            elif await self._finish():
                return
            else:
                # An epoch is half applied.
                await self._commits.next_change()
            _check_whole(self._role)
            self._left.merge(self._copier.copy.take())

    async def _copy_left(self) -> None:
        self._result.rounds += 1
        self._result.bytes_copied += await self._copier.run(self._left)
        self._left.clear_all()

    async def _copy_last(self) -> None:
        """A rest that is small is copied right here: the thread of low priority would let the acks wait for a CPU."""
        if self._left.count() > LAST_PAGES_MAX:
            await self._copy_left()
            return
        self._result.rounds += 1
        self._result.bytes_copied += self._copier.copy.copy(self._left)

    async def _finish(self) -> bool:
        """The last round, with nothing else handled meanwhile; False when the replica is no whole epoch just now."""
        store = self._role.parts.store
        async with self._role.lock:
            began_ns = self._clock.monotonic_ns()
            _check_whole(self._role)
            committed = store.committed
            if committed is None or not store.promotable.ready:
                return False
            self._left.merge(self._copier.copy.take())
            await self._copy_last()
            _write_private(Path(self._result.state), store.device_state())
            result = self._result
            result.ended_ns = self._clock.monotonic_ns()
            result.held_up_ns = result.ended_ns - began_ns
            result.term, result.epoch = committed.term, committed.epoch
            result.digest, result.session = committed.digest.hex(), store.session.hex()
        return True


def _write_private(path: Path, data: bytes) -> None:
    fd = files.open_private(path)
    try:
        os.ftruncate(fd, 0)
        files.write_at(fd, path, data, 0)
    finally:
        os.close(fd)
