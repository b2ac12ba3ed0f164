"""COLO's VM at the secondary: news of a process's death counts for that process alone, and is not lost in a take-over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from replicator.engine import events as ev
from replicator.errors import GuestError, StoreError
from replicator.guests.base import Died, DirectStarter
from replicator.memory import DirtyBitmap
from replicator.memory.pages import GuestLayout, Segment
from replicator.service.vm_desk import VmDesk, VmParts
from replicator.units import Epoch


class Vm:
    """A process that can be loaded until it dies."""

    def __init__(self) -> None:
        self.death = asyncio.Event()
        self.is_killed = False

    async def events(self) -> AsyncIterator[Died]:
        await self.death.wait()
        yield Died("signal 9")

    async def reload(self, _: bytes, __: DirtyBitmap | None = None) -> None:
        if self.death.is_set():
            raise GuestError("it is gone")

    async def resume(self) -> None:
        await self.reload(b"")

    async def kill(self) -> None:
        self.is_killed = True


class Stand:
    """A desk, the VMs that it started, and what it has posted."""

    def __init__(self) -> None:
        self.vms: list[Vm] = []
        self.posted: asyncio.Queue[tuple[ev.Event, Callable[[], bool]]] = asyncio.Queue()
        self.store: Any = SimpleNamespace(
            device_state=lambda: b"state",
            mark_vm=lambda: None,
            ram=SimpleNamespace(take_written=lambda: DirtyBitmap(8)),
        )
        relay: Any = SimpleNamespace(
            detach=lambda: None,
            attach=lambda _: None,
            loaded=lambda *_: 0,
            resume_input=lambda: None,
            stop=lambda: None,
        )
        parts = VmParts(
            self.store,
            GuestLayout((Segment(0, 0, 8),)),
            DirectStarter(self.start),
            lambda: relay,
            lambda _: SimpleNamespace(),
        )  # type: ignore[arg-type, return-value]
        self.desk = VmDesk(parts, lambda event, holds: self.posted.put_nowait((event, holds)))
        self.desk.open_channel(b"frames")

    async def start(self, _: bytes) -> Any:
        self.vms.append(Vm())
        return self.vms[-1]


def test_a_vm_that_died_is_told_while_nothing_has_taken_its_place() -> None:
    async def work() -> None:
        stand = Stand()
        assert await stand.desk.load(Epoch(1), 0) == ev.VmLoaded()
        stand.vms[0].death.set()
        event, holds = await stand.posted.get()
        assert isinstance(event, ev.VmFailed) and holds()
        assert isinstance(await stand.desk.run(), ev.VmFailed)
        await stand.desk.close()
        assert not holds()

    asyncio.run(work())


def test_news_of_a_process_that_was_replaced_meanwhile_counts_no_more() -> None:
    async def work() -> None:
        stand = Stand()
        await stand.desk.load(Epoch(1), 0)
        stand.vms[0].death.set()
        _, holds = await stand.posted.get()
        assert await stand.desk.load(Epoch(2), 0) == ev.VmLoaded()
        assert await stand.desk.run() == ev.VmResumed()
        assert len(stand.vms) == 2 and stand.vms[0].is_killed
        assert not holds()
        await stand.desk.close()

    asyncio.run(work())


def test_a_vm_whose_death_was_heard_is_not_handed_over() -> None:
    """The news wait for the take-over to end; whoever takes the VM would never hear of it."""

    async def work() -> None:
        stand = Stand()
        await stand.desk.load(Epoch(1), 0)
        await stand.desk.run()
        stand.vms[0].death.set()
        await stand.posted.get()
        with pytest.raises(GuestError, match="the VM died: signal 9"):
            await stand.desk.hand_over()
        await stand.desk.close()
        assert stand.vms[0].is_killed

    asyncio.run(work())


def test_a_death_is_that_of_one_process_and_the_next_one_is_handed_over() -> None:
    async def work() -> None:
        stand = Stand()
        await stand.desk.load(Epoch(1), 0)
        stand.vms[0].death.set()
        await stand.posted.get()
        await stand.desk.load(Epoch(2), 0)
        vm, relay, _ = await stand.desk.hand_over()
        assert vm is stand.vms[1]
        relay.stop()

    asyncio.run(work())


def test_a_replica_that_could_not_be_marked_is_not_run() -> None:
    def refuse() -> None:
        raise StoreError("the disk is full")

    async def work() -> None:
        stand = Stand()
        stand.store.mark_vm = refuse
        failed = await stand.desk.load(Epoch(1), 0)
        assert isinstance(failed, ev.VmFailed) and "the disk is full" in failed.reason
        assert not stand.vms
        stand.store.mark_vm = lambda: None
        assert await stand.desk.load(Epoch(1), 0) == ev.VmLoaded()
        await stand.desk.close()

    asyncio.run(work())
