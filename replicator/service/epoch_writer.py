"""Turns a guest's pages and device state into the parts of an epoch, and sends them.

An epoch's parts, joined in order, continue one checkpointed libxl stream (wire/recording.py). Parts that were copied
while the guest stood still wait until it runs again, unless staging is full: then sending begins in the pause. Epochs
travel one after another: the first send of an epoch waits for the end of the one before. On the way parts are encoded
(part_encoder.py); count, size and digest are those of the stream. A part that travels as it is belongs to the link from
then on; the memory of all others is used again (part_rooms.py). At most `staging_bytes` wait here.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from replicator.clock import SYSTEM_CLOCK, Clock
from replicator.errors import require
from replicator.limits import BATCH_PAGES_MAX, BULK_BATCH_PAGES_MAX, PART_BYTES_MAX
from replicator.link.base import Link
from replicator.memory.bases import BaseCache
from replicator.memory.bitmap import DirtyBitmap
from replicator.memory.pages import GuestRam
from replicator.service.part_encoder import (
    LOOKAHEAD_PARTS,
    CodedPart,
    Part,
    PartEncoder,
    measure_group,
)
from replicator.service.part_rooms import PartRooms
from replicator.service.recorder import Recorder
from replicator.units import PAGE_SIZE
from replicator.wire import recording
from replicator.wire.epoch_digest import EpochDigest
from replicator.wire.session import EpochBegin, EpochEnd, EpochPart


def part_bytes(pages: int) -> int:
    """Size of a part with so many pages."""
    return recording.page_data_header_bytes(pages) + pages * PAGE_SIZE


class Sealed(NamedTuple):
    parts: int
    size: int
    digest: bytes


class OutgoingEpoch:
    """One epoch from its first page to its end message."""

    def __init__(self, writer: EpochWriter, begin: EpochBegin) -> None:
        self._writer = writer
        self._begin = begin
        self._waiting: list[Part] = []
        self._waiting_bytes = 0
        self._sent_parts = 0
        self._sent_bytes = 0
        self._digest = EpochDigest()
        self._encoder = writer.encoder.open(full=begin.base == 0)
        self._on_wire = False
        self.abandoned = False
        if begin.base == 0:
            self._add(Part(memoryview(recording.session_prologue())))

    @property
    def epoch(self) -> int:
        return self._begin.epoch

    def _add(self, part: Part) -> None:
        self._waiting.append(part)
        self._waiting_bytes += len(part.data)

    async def add_pages(
        self,
        ram: GuestRam,
        pfns: array[int],
        *,
        send_at_once: bool,
        note: Callable[[int], None],
        untouched: DirtyBitmap | None = None,
    ) -> None:
        """Copy the frames into parts; `note` is told how many after each. Waits only when staging is full, or after
        each few parts with `send_at_once`. Those of `untouched` are known to be zeros."""
        if send_at_once:
            await self._send_pages(ram, pfns, note, untouched)
            return
        batch_pages = self._writer.batch_pages
        for batch in cut(pfns, batch_pages):
            self._add(copy_part(ram, batch, self._writer.rooms.take()))
            note(len(batch))
            if self._waiting_bytes + part_bytes(batch_pages) > self._writer.staging_bytes:
                await self._send_waiting()
                if self.abandoned:
                    return

    async def _send_pages(
        self,
        ram: GuestRam,
        pfns: array[int],
        note: Callable[[int], None],
        untouched: DirtyBitmap | None,
    ) -> None:
        """Some at a time."""
        batch_pages = self._writer.batch_pages_for(len(pfns))
        batches = cut(pfns, batch_pages)
        together = min(LOOKAHEAD_PARTS, self._writer.staging_bytes // part_bytes(batch_pages))
        for first in range(0, len(batches), together):
            for batch in batches[first : first + together]:
                self._add(prepare_part(ram, batch, self._writer.rooms.take(), untouched))
                note(len(batch))
            await self._send_waiting()
            if self.abandoned:
                return

    def seal(self, device_state: bytes) -> Sealed:
        """What the end message will say; nothing can be added afterwards. The guest runs again: this takes its time."""
        epilogue = memoryview(recording.checkpoint_epilogue(device_state))
        for first in range(0, len(epilogue), PART_BYTES_MAX):
            self._add(Part(epilogue[first : first + PART_BYTES_MAX]))
        digest = self._digest.copy()
        for part in self._waiting:
            part.count_for(digest)
        return Sealed(
            self._sent_parts + len(self._waiting), self._sent_bytes + self._waiting_bytes, digest.digest()
        )

    async def send(self, sealed: Sealed, input_seq: int) -> None:
        await self._send_waiting()
        if not self.abandoned:
            self._writer.record_end()
            end = EpochEnd(
                self._begin.session, self.epoch, sealed.parts, sealed.size, sealed.digest, input_seq
            )
            await self._writer.link.send_bulk(end)
        self.leave_wire()

    async def _send_waiting(self) -> None:
        if not self._on_wire:
            await self._writer.wire.acquire()
            self._on_wire = True
            if self.abandoned:
                # Given up while it waited for its turn: nobody else would let the next one travel.
                self.leave_wire()
                return
            await self._writer.link.send_bulk(self._begin)
        while self._waiting and not self.abandoned:
            await self._send_group(self._waiting[:LOOKAHEAD_PARTS])

    async def _send_group(self, parts: list[Part]) -> None:
        pace, clock = self._writer.encoder.pace, self._writer.clock
        # What is less is soon sent in any case, and says little of the link.
        is_large = len(parts) == LOOKAHEAD_PARTS
        compress = pace.compresses or not is_large
        began_ns = clock.monotonic_ns()
        group = await self._encoder.encode(parts, compress=compress)
        encoded_ns = clock.monotonic_ns()
        for coded in group:
            if not self.abandoned:
                await self._send_part(coded)
        if is_large and not self.abandoned:
            sent_ns = clock.monotonic_ns() - encoded_ns
            pace.note(measure_group(group, encoded_ns - began_ns, sent_ns))

    async def _send_part(self, coded: CodedPart) -> None:
        index, part = self._sent_parts, coded.part.data
        # Bases change with the order of sending, and before anything that is encoded later.
        self._encoder.note_sent(coded)
        header = EpochPart(
            self._begin.session,
            self.epoch,
            index,
            len(coded.payload),
            coded.encoding,
            coded.part_bytes,
            coded.check,
        )
        await self._writer.link.send_bulk(header, coded.payload)
        self._writer.record(part, is_prologue=index == 0 and self._begin.base == 0)
        coded.part.count_for(self._digest)
        self._sent_parts += 1
        self._sent_bytes += len(part)
        if not self.abandoned:
            self._waiting_bytes -= len(self._waiting.pop(0).data)
        if coded.part.room is not None and coded.payload is not part:
            self._writer.rooms.give_back(coded.part.room)

    def leave_wire(self) -> None:
        """Let the next epoch travel. May be repeated."""
        if self._on_wire:
            self._on_wire = False
            self._writer.wire.release()

    def abandon(self) -> None:
        """Send nothing more; what waits is dropped."""
        if not self.abandoned:
            self._writer.encoder.forget()
        self.abandoned = True
        self._waiting.clear()
        self._waiting_bytes = 0


class EpochWriter:
    """Makes outgoing epochs for one connection after another, in parts of `batch_pages`; of `bulk_batch_pages` where
    many are copied beside the running guest."""

    def __init__(
        self,
        link: Link,
        staging_bytes: int,
        recorder: Recorder | None = None,
        *,
        bases: BaseCache | None = None,
        batch_pages: int = BATCH_PAGES_MAX,
        bulk_batch_pages: int = BULK_BATCH_PAGES_MAX,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        require(staging_bytes >= part_bytes(batch_pages), "staging must hold a part")
        self.batch_pages = batch_pages
        self._bulk_batch_pages = max(batch_pages, bulk_batch_pages)
        self.encoder = PartEncoder(bases)
        # What a smaller part does not use of its room is never touched, and takes no memory.
        self.rooms = PartRooms(part_bytes(self._bulk_batch_pages))
        self.link = link
        self.clock = clock
        self.staging_bytes = staging_bytes
        #: Held by the epoch that travels.
        self.wire = asyncio.Lock()
        self._recorder = recorder

    def open(self, begin: EpochBegin) -> OutgoingEpoch:
        return OutgoingEpoch(self, begin)

    def batch_pages_for(self, pages: int) -> int:
        """Pages in a part when so many are sent at once: large ones only if they keep all threads busy."""
        fill = LOOKAHEAD_PARTS * self._bulk_batch_pages
        is_bulk = pages >= fill and self.staging_bytes >= part_bytes(fill)
        return self._bulk_batch_pages if is_bulk else self.batch_pages

    def record(self, part: memoryview, *, is_prologue: bool) -> None:
        if self._recorder is not None:
            self._recorder.write_part(part, is_prologue=is_prologue)

    def record_end(self) -> None:
        if self._recorder is not None:
            self._recorder.end_round()


def cut(pfns: array[int], batch_pages: int) -> list[array[int]]:
    """In pieces of so many; the last may be shorter."""
    return [pfns[first : first + batch_pages] for first in range(0, len(pfns), batch_pages)]


def copy_part(ram: GuestRam, pfns: array[int], room: memoryview) -> Part:
    """One PAGE_DATA record with these frames, in `room`."""
    part = prepare_part(ram, pfns, room, None)
    part.fill()
    return part


def prepare_part(ram: GuestRam, pfns: array[int], room: memoryview, absent: DirtyBitmap | None) -> Part:
    """The same, whose pages are copied when it is encoded. Those of `absent` are zeros."""
    header = recording.page_data_header(pfns)
    data = room[: len(header) + len(pfns) * PAGE_SIZE]
    data[: len(header)] = header
    pages = data[len(header) :]
    copy = partial(ram.gather, pfns, pages)
    if absent is not None:
        copy = partial(ram.gather_present, pfns, pages, absent)
    return Part(data, pfns, room, copy)
