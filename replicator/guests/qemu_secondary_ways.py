"""The two ways to make a QEMU equal to another one again and again.

"snapshot-load": one process for good, into which each state is loaded anew. "standby-pool", where QEMU does not do
that: the state goes into a process that was started for it, the only load of its life, and the one before is ended.
Which of them works is found out at the start, with the VM's first state.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from replicator.guests.qemu_secondary_load import StateLoader, prove
from replicator.guests.qemu_secondary_process import SecondaryProcess, SparePool
from replicator.guests.qemu_standby import load_incoming

SNAPSHOT_LOAD = "snapshot-load"
STANDBY_POOL = "standby-pool"


class ReloadWay(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def reason(self) -> str:
        """Why it is not the first way; empty for the first."""
        ...

    def prime(self) -> None:
        """The guest stands still: in general a load comes next. What QEMU has to read for it may be sent."""
        ...

    async def load(self, current: SecondaryProcess, device_state: bytes) -> SecondaryProcess:
        """The process that has the state now, paused: the current one or another, which is then the caller's to end."""
        ...

    def prepare_next(self) -> None:
        """The next load can be prepared in the background."""
        ...

    async def close(self) -> None: ...


class SnapshotLoad:
    """Implements ReloadWay with the process that is there."""

    name = SNAPSHOT_LOAD
    reason = ""

    def __init__(self, loader: StateLoader) -> None:
        self._loader = loader

    def prime(self) -> None:
        self._loader.prime()

    async def load(self, current: SecondaryProcess, device_state: bytes) -> SecondaryProcess:
        await self._loader.load(device_state)
        return current

    def prepare_next(self) -> None:
        """There is nothing to prepare."""

    async def close(self) -> None:
        self._loader.close()


class StandbyPool:
    """Implements ReloadWay with a new process each time."""

    name = STANDBY_POOL

    def __init__(self, pool: SparePool, reason: str) -> None:
        self._pool = pool
        self.reason = reason

    def prime(self) -> None:
        """Its processes are sent other commands."""

    async def load(self, current: SecondaryProcess, device_state: bytes) -> SecondaryProcess:
        process = await self._pool.take()
        try:
            await load_incoming(process.machine, device_state)
        except BaseException:
            await process.end()
            raise
        return process

    def prepare_next(self) -> None:
        self._pool.fill()

    async def close(self) -> None:
        await self._pool.close()


#: Makes the first way of a process that has a state. After a GuestError the process is good for nothing.
FirstWay = Callable[[SecondaryProcess], Awaitable[ReloadWay]]


async def prove_snapshot_load(process: SecondaryProcess) -> ReloadWay:
    """A FirstWay: what the process saves after a load must be what was loaded."""
    loader = StateLoader(process.machine)
    try:
        state = await process.machine.control.save()
        await loader.open(len(state))
        await prove(state, loader.load, process.machine.control.save)
    except BaseException:
        loader.close()
        raise
    return SnapshotLoad(loader)
