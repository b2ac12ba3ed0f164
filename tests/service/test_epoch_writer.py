"""Epochs that are given up while they are sent, or while they wait for their turn."""

from __future__ import annotations

import asyncio
import os
from array import array
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from replicator.memory.pages import GuestLayout, GuestRam
from replicator.service.epoch_writer import EpochWriter, OutgoingEpoch, part_bytes
from replicator.units import PAGE_SIZE
from replicator.wire.session import EpochBegin, EpochPart

PAGES = 8
SESSION = bytes(16)


class SlowLink:
    """Takes the beginning of an epoch at once, and a part only when it is told to."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.payloads: list[Any] = []
        self.open = asyncio.Event()

    async def send_bulk(self, header: Any, payload: Any = None) -> None:
        if isinstance(header, EpochPart):
            await self.open.wait()
            self.payloads.append(payload)
        self.sent.append(header)


def scene(play: Callable[[SlowLink, EpochWriter, GuestRam], Awaitable[None]]) -> None:
    async def run() -> None:
        fd = os.memfd_create("ram")
        os.ftruncate(fd, PAGES * PAGE_SIZE)
        link: Any = SlowLink()
        try:
            with GuestRam(fd, GuestLayout.flat(PAGES)) as ram:
                await play(link, EpochWriter(link, part_bytes(2), batch_pages=2, bulk_batch_pages=2), ram)
        finally:
            os.close(fd)

    asyncio.run(run())


def start(writer: EpochWriter, ram: GuestRam, epoch: int) -> tuple[OutgoingEpoch, asyncio.Task[None]]:
    outgoing = writer.open(EpochBegin(SESSION, 1, epoch, 1))
    pfns = array("Q", range(PAGES))
    adding = outgoing.add_pages(ram, pfns, send_at_once=True, note=lambda _: None)
    return outgoing, asyncio.create_task(adding)


def test_an_epoch_given_up_while_it_waits_lets_the_next_one_travel() -> None:
    async def play(link: SlowLink, writer: EpochWriter, ram: GuestRam) -> None:
        first, sending = start(writer, ram, 2)
        second, waiting = start(writer, ram, 3)
        await asyncio.sleep(0)
        second.abandon()
        second.leave_wire()
        link.open.set()
        await sending
        first.leave_wire()
        await waiting
        assert not writer.wire.locked()
        assert {header.epoch for header in link.sent} == {2}

    scene(play)


def test_an_epoch_given_up_while_a_part_is_sent_ends_quietly() -> None:
    async def play(link: SlowLink, writer: EpochWriter, ram: GuestRam) -> None:
        outgoing, sending = start(writer, ram, 2)
        await asyncio.sleep(0)
        outgoing.abandon()
        outgoing.leave_wire()
        link.open.set()
        await sending
        assert [type(header) for header in link.sent] == [EpochBegin, EpochPart]

    scene(play)


def test_the_room_of_an_encoded_part_is_used_again_and_that_of_a_part_sent_as_it_is_is_not() -> None:
    async def play(link: SlowLink, writer: EpochWriter, ram: GuestRam) -> None:
        link.open.set()
        noise = os.urandom(2 * PAGE_SIZE)
        ram.scatter(array("Q", [0, 1]), noise)
        outgoing = writer.open(EpochBegin(SESSION, 1, 2, 1))
        await outgoing.add_pages(ram, array("Q", [0, 1]), send_at_once=True, note=lambda _: None)
        (as_it_is,) = link.payloads
        await outgoing.add_pages(ram, array("Q", [2, 3]), send_at_once=True, note=lambda _: None)
        assert len(link.payloads[1]) < PAGE_SIZE
        again = writer.rooms.take()
        again[:] = bytes(len(again))
        assert bytes(as_it_is[-len(noise) :]) == noise
        assert writer.rooms.take().obj is not again.obj

    scene(play)


@pytest.mark.parametrize(
    ("pages", "staging_pages", "batch_pages"),
    [(64, 64, 8), (32, 64, 8), (31, 64, 2), (64, 31, 2)],
    ids=["many", "enough for all threads", "too few for them", "staging holds too few"],
)
def test_many_pages_travel_in_large_parts(pages: int, staging_pages: int, batch_pages: int) -> None:
    link: Any = SlowLink()
    writer = EpochWriter(link, part_bytes(staging_pages), batch_pages=2, bulk_batch_pages=8)
    assert writer.batch_pages_for(pages) == batch_pages
