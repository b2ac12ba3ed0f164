"""The steps of a primary's epochs: open, copy while the guest runs, pause, copy, save, resume, send, or abandon.

Each step is carried out when the machine asks for it, and reports with an event. Steps of one epoch never overlap,
because the machine asks for the next one when the last has reported; which one that is, is not known here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from replicator.engine import effects as fx
from replicator.engine import events as ev
from replicator.engine.output import OutputMode
from replicator.engine.primary import PrimaryMachine
from replicator.errors import GuestError, ReplicatorError, TransportError
from replicator.memory.bitmap import DirtyBitmap
from replicator.service.epoch_writer import OutgoingEpoch, Sealed
from replicator.service.guest_commands import GuestCommands
from replicator.service.ledger import OwedLedger
from replicator.service.primary_parts import Post, PrimaryParts, Spawn
from replicator.service.samples import EpochSamples
from replicator.service.secondary_line import SecondaryLine
from replicator.units import Epoch
from replicator.wire import session as wire

#: How long inputs already given to the guest may stay untaken before it is stopped.
QUIESCE_S = 0.0005


class EpochSteps:
    """For one life of a primary. `ledger` is where the machine's word on what the secondary has goes."""

    def __init__(
        self,
        machine: PrimaryMachine,
        parts: PrimaryParts,
        *,
        guest: GuestCommands,
        line: SecondaryLine,
        samples: EpochSamples,
        post: Post,
        spawn: Spawn,
    ) -> None:
        self.ledger = OwedLedger(parts.guest.ram.layout)
        self._machine = machine
        self._parts = parts
        self._guest = guest
        self._line = line
        self._samples = samples
        self._post = post
        self._spawn = spawn
        self._open: dict[int, OutgoingEpoch] = {}
        self._input_seq: dict[int, int] = {}
        #: The newest epoch of which a pass over a running guest has scanned.
        self._scanned_epoch = 0
        #: Of the epoch that is being made.
        self._device_state = b""
        #: What the RAM file did not hold once the guest was tracked, and no scan has found written since: zeros, which
        #: nobody has to read. None before the first scan.
        self._untouched: DirtyBitmap | None = None

    def open(self, effect: fx.OpenEpoch) -> None:
        term = self._parts.keeper.lease.term
        begin = wire.EpochBegin(self._line.session, term, effect.epoch, effect.base, effect.runs_vm)
        self._open[effect.epoch] = self._parts.writer.open(begin)

    # Pages.

    async def copy_live(self, epoch: Epoch) -> None:
        try:
            if self._scanned_epoch < epoch and not await self._scan_live(epoch):
                return
            began_ns = self._parts.clock.monotonic_ns()
            pages = await self._copy(epoch, self.ledger.take, send_at_once=True)
            elapsed_ns = self._parts.clock.monotonic_ns() - began_ns
            if not await self._scan_live(epoch):
                return
        except ReplicatorError as error:
            await self._fail(epoch, error)
            return
        self._post(ev.LiveCopied(epoch, pages, self.ledger.owed.count(), elapsed_ns))

    async def copy_early(self, epoch: Epoch) -> None:
        try:
            if not await self._scan_live(epoch):
                return
        except ReplicatorError as error:
            await self._fail(epoch, error)
            return
        pages = await self._copy(
            epoch, self.ledger.take_cold, send_at_once=not self._parts.writer.wire.locked()
        )
        self._post(ev.EarlyCopied(epoch, pages))

    async def _scan_live(self, epoch: Epoch) -> bool:
        """False when this side's part is over meanwhile."""
        dirty = self._parts.guest.ram.layout.new_bitmap()
        async with self._guest.scanning:
            if self._machine.over:
                return False
            # The first scans read the whole RAM: too long to stand in the way of everything else.
            await asyncio.to_thread(self._parts.guest.scan_dirty, dirty)
            if self._untouched is None:
                self._untouched = await asyncio.to_thread(self._parts.guest.ram.find_absent)
            else:
                self._untouched.subtract(dirty)
        self._scanned_epoch = epoch
        self.ledger.owed.merge(dirty)
        self._samples.note_owed(self.ledger.owed.count())
        return True

    async def copy_paused(self, epoch: Epoch) -> None:
        await self._copy(epoch, self.ledger.take, send_at_once=False)
        self._post(ev.PagesCopied(epoch))

    async def _copy(self, epoch: Epoch, take: Callable[[], DirtyBitmap], *, send_at_once: bool) -> int:
        outgoing = self._open.get(epoch)
        if outgoing is None:
            return 0
        connection = self._line.connection
        pfns = take().pfns()
        note = partial(self._samples.note_copied, epoch)
        try:
            await outgoing.add_pages(
                self._parts.guest.ram,
                pfns,
                send_at_once=send_at_once,
                note=note,
                untouched=self._untouched,
            )
        except TransportError as error:
            _give_up(outgoing)
            self._line.fail(connection, error)
        return len(pfns)

    # The guest stands still.

    async def pause(self, effect: fx.PauseGuest) -> None:
        relay = self._parts.relay
        try:
            relay.hold_input()
            relay.quiesce_input(QUIESCE_S)
            await self._guest.pause()
            async with self._guest.scanning:
                self._parts.guest.scan_dirty(self.ledger.owed)
                if self._untouched is not None:
                    self._untouched.subtract(self.ledger.owed)
            dirty_pages = self.ledger.owed.count()
            if effect.pages_max is not None and dirty_pages > effect.pages_max:
                self._post(ev.PauseOverrun(effect.epoch, dirty_pages))
                return
            mark = relay.drain_and_mark(effect.epoch)
            if effect.hold and self._machine.passing:
                # Not each time: it ends a comparison, and what that has learnt.
                relay.set_mode(OutputMode.HOLD)
            self._input_seq[effect.epoch] = mark.input_seq
        except ReplicatorError as error:
            await self._fail(effect.epoch, error)
            return
        self._post(ev.GuestPaused(effect.epoch, dirty_pages, mark.held_frames))

    async def save(self, epoch: Epoch, *, runs_on: bool) -> None:
        try:
            state = await self._guest.save_device_state(runs_on=runs_on)
        except GuestError as error:
            await self._fail(epoch, error)
            return
        self._device_state = state
        self._post(ev.DeviceStateSaved(epoch))

    async def resume(self, epoch: Epoch) -> None:
        try:
            resumed = await self._guest.resume()
        except GuestError as error:
            await self._guest.failed(error)
            return
        if not resumed:
            self._post(ev.ResumeDenied(epoch))
            return
        self._samples.note_paused(epoch, self._guest.paused_ns, self._parts.clock.monotonic_ns())
        self._parts.relay.resume_input()
        self._post(ev.GuestResumed(epoch))

    async def _fail(self, epoch: Epoch, error: ReplicatorError) -> None:
        """A guest that dies fails a step first. Its death must not bar the replica that is to take over."""
        if not await self._guest.hears_of_its_end():
            self._post(ev.StepFailed(epoch, str(error)))

    # What becomes of it.

    def send(self, effect: fx.SendEpoch) -> None:
        outgoing = self._open.pop(effect.epoch)
        self.ledger.close(effect.epoch)
        sealed = outgoing.seal(self._device_state)
        self._parts.watch(sealed)
        self._post(ev.EpochSealed(effect.epoch, sealed.digest, sealed.size))
        self._samples.note_sealed(effect.epoch, sealed.size, self._parts.clock.monotonic_ns())
        self._spawn(self._send(outgoing, sealed, self._input_seq.pop(effect.epoch)))

    async def _send(self, outgoing: OutgoingEpoch, sealed: Sealed, input_seq: int) -> None:
        connection = self._line.connection
        self._line.travelling.add(outgoing)
        try:
            await outgoing.send(sealed, input_seq)
        except TransportError as error:
            _give_up(outgoing)
            self._line.fail(connection, error)
        finally:
            self._line.travelling.discard(outgoing)

    def abandon(self, effect: fx.AbandonEpoch) -> None:
        if (outgoing := self._open.pop(effect.epoch, None)) is not None:
            _give_up(outgoing)
        self.ledger.abandon()

    def owe_again(self) -> None:
        """Of what was sent since the newest commit nobody knows whether it arrived."""
        self._parts.writer.encoder.forget()
        self.ledger.owe_again()

    def owe_all(self) -> None:
        """The secondary has nothing."""
        self._parts.writer.encoder.forget()
        self.ledger.owe_all()

    def end(self) -> None:
        """No epoch that was opened is sent any more."""
        for outgoing in self._open.values():
            outgoing.abandon()
        self._open.clear()


def _give_up(outgoing: OutgoingEpoch) -> None:
    outgoing.abandon()
    outgoing.leave_wire()
