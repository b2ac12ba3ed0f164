"""The monitor of a real QEMU, of a machine that has nothing."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
from collections.abc import AsyncIterator

import pytest
from qemu.qmp import Message

from replicator.guests.qemu_command import QEMU
from replicator.guests.qemu_qmp import QmpSession

pytestmark = pytest.mark.live

EPOCHS = 100
TIMEOUT_S = 20.0


@contextlib.asynccontextmanager
async def monitor() -> AsyncIterator[QmpSession]:
    ours, theirs = socket.socketpair()
    fd = theirs.fileno()
    process = await asyncio.create_subprocess_exec(
        *(QEMU, "-machine", "none", "-nodefaults", "-display", "none", "-S"),
        *("-chardev", f"socket,id=qmp,fd={fd}", "-mon", "chardev=qmp,mode=control"),
        pass_fds=[fd],
    )
    theirs.close()
    session = QmpSession("test")
    try:
        await session.open(ours)
        yield session
    finally:
        await session.close()
        process.kill()
        await process.wait()


def count_messages() -> int:
    gc.collect()
    return sum(isinstance(thing, Message) for thing in gc.get_objects())


def test_events_that_nobody_awaits_are_not_kept() -> None:
    """A guest stops and runs in each epoch. All of these events were kept: some 3 MiB a minute."""

    async def run() -> None:
        async with monitor() as session:
            before = count_messages()
            for _ in range(EPOCHS):
                await session.execute("cont")
                await session.execute("stop")
            assert count_messages() - before < EPOCHS // 10

    asyncio.run(run())


def test_the_events_of_a_guest_are_heard() -> None:
    async def run() -> None:
        async with monitor() as session:
            await session.execute("cont")
            await session.execute("system_reset")
            async with asyncio.timeout(TIMEOUT_S):
                assert (await session.next_event())["event"] == "RESET"

    asyncio.run(run())
