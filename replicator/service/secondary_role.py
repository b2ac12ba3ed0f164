"""Runs a secondary: puts epochs into the store, acknowledges them, and starts the standby when it is granted.

Everything happens one thing at a time, in the order it arrived: while an epoch is applied nothing else is read from
the link, which is the back-pressure, and a take-over waits for the commit under way. This file decides nothing: see
engine/secondary.py.
"""

from __future__ import annotations

import asyncio
import logging
from array import array
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from replicator.arbiter.base import Arbiter, Lease, TakeOverRefused
from replicator.arbiter.solo import SoloArbiter
from replicator.clock import SYSTEM_CLOCK, Clock
from replicator.engine import effects as fx
from replicator.engine import events as ev
from replicator.engine.output import Frame, InputLog
from replicator.engine.secondary import Holding, SecondaryMachine
from replicator.errors import (
    ArbiterError,
    EpochError,
    GuestMayHaveRun,
    InvariantError,
    ReplicatorError,
    StoreError,
    TransportError,
)
from replicator.guests.base import GuestIdentity
from replicator.link.base import BadMessage, Link, LinkEvent, PeerLeft, Received
from replicator.link.sealing import derive_keys
from replicator.output.announce import AddressBook
from replicator.service.agreement import find_differences, identity_in
from replicator.service.chronicle import Watch
from replicator.service.part_decoder import PartDecoder
from replicator.service.vm_desk import VmDesk, VmParts, word_of
from replicator.store import ReplicaStore
from replicator.units import Epoch
from replicator.wire import session as wire
from replicator.wire.back_channel import Piece, check_of, suspended_word

_LOG = logging.getLogger(__name__)

_NO_PAYLOAD = memoryview(b"")
#: How long a piece of a word may wait for the primary to read those before it. A guest that wrote all of its RAM makes
#: more of them than the link keeps.
WORD_PATIENCE_S = 0.5
TAKE_OVER_FAILED = "the take-over failed"


@dataclass(slots=True)
class SecondaryParts:
    node: str
    identity: GuestIdentity
    store: ReplicaStore
    link: Link
    arbiter: Arbiter
    #: Loads the device state and runs the guest under the lease; True when it runs.
    activate: Callable[[Lease, bytes, list[Frame]], Awaitable[None]]
    #: Random, for one answer to a greeting alone.
    draw_share: Callable[[], bytes]
    #: What a VM beside the primary's needs (COLO), and who runs it once it was granted the guest; None: only Remus.
    vm: VmParts | None = None
    activate_vm: Callable[[Lease, VmDesk], Awaitable[None]] | None = None
    clock: Clock = SYSTEM_CLOCK
    #: Sees each event before it is handled, and each effect before it is carried out.
    watch: Watch = lambda _: None


class SecondaryRole:
    """One life as secondary. `granted` gives the lease once this side has taken over."""

    def __init__(self, parts: SecondaryParts, *, has_arbiter: bool) -> None:
        self.parts = parts
        self.machine = SecondaryMachine(holding_of(parts.store), has_arbiter=has_arbiter)
        self.inputs = InputLog()
        #: What is known of the guest's addresses, one a NIC: a copy of it can be asked there.
        self.books = [AddressBook(mac) for mac in parts.identity.macs]
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._loop = asyncio.get_running_loop()
        #: Held while something is handled: whoever has it finds the replica between two things.
        self.lock = asyncio.Lock()
        self._peer = b""
        #: The newest greeting.
        self._hello: wire.Hello | None = None
        #: Newest input that the committed epoch contains.
        self._input_seq = 0
        self._payload = _NO_PAYLOAD
        #: Whose payload that is.
        self._message: wire.Message | None = None
        self._decoder = PartDecoder()
        #: Whether the open epoch builds upon the replica's RAM.
        self._has_bases = False
        self._retry: asyncio.TimerHandle | None = None
        self._lease: Lease | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.desk = VmDesk(parts.vm, self._post_if) if parts.vm is not None else None
        self._actions = self._make_actions()

    def _make_actions(self) -> dict[type[fx.Effect], Callable[[Any], Awaitable[ev.Event | None]]]:
        return {
            fx.Accept: self._accept,
            fx.Refuse: self._refuse,
            fx.DiscardReplica: self._discard,
            fx.BeginStore: self._begin_store,
            fx.StorePart: self._store_part,
            fx.CommitEpoch: self._commit,
            fx.AbortStore: self._abort_store,
            fx.SendAck: self._send_ack,
            fx.SendAbort: self._send_abort,
            fx.TrimInputs: self._trim_inputs,
            fx.ArmTimer: self._arm,
            fx.CancelTimer: self._cancel,
            fx.TakeOver: self._take_over,
            fx.ActivateGuest: self._activate,
            fx.AnswerHandOver: self._answer_hand_over,
            fx.HandBack: self._hand_back,
            fx.EndFailed: self._end_failed,
            fx.SuspendVm: lambda _: self._vm_desk().suspend(),
            fx.TellVmSuspended: self._tell_vm_suspended,
            fx.LoadVm: lambda effect: self._vm_desk().load(effect.epoch, self._input_seq),
            fx.RunVm: lambda _: self._vm_desk().run(),
            fx.TellVmState: self._tell_vm_state,
            fx.EndVm: lambda _: self._vm_desk().end(),
            fx.ActivateVm: self._activate_vm,
        }

    def _vm_desk(self) -> VmDesk:
        if self.desk is None:
            raise InvariantError("a VM where there is none")
        return self.desk

    # Events in.

    async def handle(self, event: ev.Event) -> None:
        async with self.lock:
            await self._handle(event)

    async def _handle(self, event: ev.Event) -> None:
        pending = [event]
        while pending:
            self.parts.watch(pending[0])
            for effect in self.machine.handle(pending.pop(0), self.parts.clock.monotonic_ns()):
                self.parts.watch(effect)
                follow_up = await self._actions[type(effect)](effect)
                if follow_up is not None:
                    pending.append(follow_up)

    def post_threadsafe(self, event: ev.Event) -> None:
        self._loop.call_soon_threadsafe(self._post, event)

    async def _handle_if(self, event: ev.Event, holds: Callable[[], bool]) -> None:
        async with self.lock:
            if holds():
                await self._handle(event)

    def _post(self, event: ev.Event) -> None:
        self._post_if(event, lambda: True)

    def _post_if(self, event: ev.Event, holds: Callable[[], bool]) -> None:
        task = self._loop.create_task(self._handle_if(event, holds))
        self._tasks.add(task)
        task.add_done_callback(self._reap)

    def _reap(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # Our own bug: better no secondary than one that will never answer again.
            _LOG.critical("secondary stopped by %r", error, exc_info=error)
            self.fail(error)

    async def on_link(self, event: LinkEvent) -> None:
        if isinstance(event, Received):
            async with self.lock:
                self._payload = event.payload if event.payload is not None else _NO_PAYLOAD
                await self._on_message(event)
        elif isinstance(event, PeerLeft):
            await self.handle(ev.LinkLost("the primary's connection ended"))
        elif isinstance(event, BadMessage) and event.breaks_bulk:
            await self.handle(ev.BulkBroken(str(event.error)))

    async def _on_message(self, event: Received) -> None:
        self._message = message = event.message
        if (translated := _TRANSLATIONS.get(type(message))) is not None:
            await self._handle(translated(message))
        elif isinstance(message, wire.Hello):
            self._peer, self._hello = event.peer_id, message
            theirs = identity_in(message.guest)
            mismatch = find_differences(self.parts.identity, theirs, whose="the primary's guest")
            await self._handle(ev.HelloReceived(message.session, message.term, mismatch, message.may_discard))
        elif isinstance(message, wire.StandDown):
            await self._handle(ev.StoodDown(message.reason))
        elif isinstance(message, wire.HandOver):
            await self._hear_hand_over(message, event.peer_id)
        elif isinstance(message, wire.InputFrames):
            self._log_inputs(message)
        elif isinstance(message, wire.EpochBegin):
            runs_vm = message.runs_vm and self.desk is not None
            await self._handle(
                ev.EpochBegun(
                    message.session, message.term, Epoch(message.epoch), Epoch(message.base), runs_vm
                )
            )

    async def _hear_hand_over(self, message: wire.HandOver, peer_id: bytes) -> None:
        self._peer = peer_id
        if isinstance(self.parts.arbiter, SoloArbiter):
            self.parts.arbiter.term_floor = message.term
        await self._handle(ev.HandOverReceived(message.session, message.term, Epoch(message.epoch)))

    def _log_inputs(self, message: wire.InputFrames) -> None:
        if message.session != self.machine.session:
            return
        packed = wire.split_frames(message, self._payload)
        for seq, frame in enumerate(map(Frame.unpack, packed), message.first_seq):
            # One for a NIC that the guest has not is damaged: it will be missing, and no replay fails on it.
            if frame.nic < len(self.books):
                self.inputs.append(seq, [frame])
                self.books[frame.nic].learn_input(frame.data)

    # Answers.

    async def _reply(
        self, message: wire.Message, payload: bytes | None = None, *, patience_s: float = 0
    ) -> bool:
        """False when the primary is not there to be answered."""
        try:
            await self.parts.link.reply(self._peer, message, payload, patience_s=patience_s)
        except TransportError as error:
            _LOG.info("the primary is not there to be answered: %s", error)
            return False
        return True

    async def _accept(self, effect: fx.Accept) -> None:
        if not effect.committed:
            self.inputs.clear()
        self._open_channel(anew=not effect.committed)
        if self.parts.link.sealed and self._hello is not None:
            await self._agree_on_keys(self._hello)
        digest = effect.digest or wire.NO_DIGEST
        await self._reply(
            wire.HelloReply(
                self.parts.node, True, "", "", self.machine.term, effect.session, effect.committed, digest
            )
        )

    def _open_channel(self, *, anew: bool) -> None:
        """In COLO, before the primary learns that it is accepted."""
        hello, desk = self._hello, self.desk
        if desk is None or hello is None or hello.frames == wire.NO_SESSION:
            return
        if anew:
            desk.restart()
        desk.open_channel(hello.frames)

    async def _agree_on_keys(self, hello: wire.Hello) -> None:
        """What the primary sends once it has the answer must open already."""
        share = self.parts.draw_share()
        self.parts.link.open_bulk(derive_keys(hello, share))
        await self._reply(wire.KeyShare(hello.share, share))

    async def _refuse(self, effect: fx.Refuse) -> None:
        await self._reply(
            wire.HelloReply(
                self.parts.node,
                False,
                effect.code,
                effect.detail,
                self.machine.term,
                wire.NO_SESSION,
                0,
                wire.NO_DIGEST,
            )
        )

    async def _send_ack(self, effect: fx.SendAck) -> None:
        await self._reply(wire.Ack(effect.session, effect.epoch, effect.digest))

    async def _send_abort(self, effect: fx.SendAbort) -> None:
        await self._reply(wire.Abort(effect.session, effect.epoch, "not-committed", effect.detail))

    async def _trim_inputs(self, effect: fx.TrimInputs) -> None:
        self.inputs.trim(effect.input_seq)
        self._input_seq = effect.input_seq

    # Store.

    async def _discard(self, effect: fx.DiscardReplica) -> None:
        self.parts.store.discard(effect.reason)

    async def _begin_store(self, effect: fx.BeginStore) -> ev.Event | None:
        try:
            self._has_bases = not effect.full
            self.parts.store.begin(effect.term, effect.epoch, session=effect.session, first_of_sync=True)
        except (EpochError, StoreError) as error:
            return ev.EpochFailed(effect.epoch, str(error))
        return None

    async def _store_part(self, effect: fx.StorePart) -> ev.Event | None:
        try:
            self.parts.store.add_part(effect.index, self._rebuild())
        except (EpochError, StoreError) as error:
            return ev.EpochFailed(effect.epoch, str(error))
        return None

    def _rebuild(self) -> memoryview:
        """The part as the primary's stream has it. EpochError when what came does not make one."""
        header = self._message
        if not isinstance(header, wire.EpochPart):
            raise InvariantError("a part is stored while it is handled, or never")
        return self._decoder.rebuild(header, self._payload, self.parts.store.ram if self._has_bases else None)

    async def _commit(self, effect: fx.CommitEpoch) -> ev.Event:
        try:
            self.parts.store.finish(effect.parts, effect.size, effect.digest)
        except (EpochError, StoreError) as error:
            return ev.EpochFailed(effect.epoch, str(error))
        return ev.EpochCommitted(effect.epoch, effect.digest)

    async def _abort_store(self, _: fx.AbortStore) -> None:
        self.parts.store.abort()

    # COLO.

    async def _tell_vm_suspended(self, effect: fx.TellVmSuspended) -> None:
        if self.desk is None:
            # Nothing was written here.
            await self._say(effect.session, effect.epoch, next(suspended_word(array("Q"))))
            return
        for piece in self.desk.words_of_suspension():
            if not await self._say(effect.session, effect.epoch, piece):
                # Half a word says nothing.
                return

    async def _tell_vm_state(self, effect: fx.TellVmState) -> None:
        await self._say(effect.session, effect.epoch, word_of(runs=effect.runs))

    async def _say(self, session: bytes, epoch: Epoch, piece: Piece) -> bool:
        word = wire.CheckpointWord(session, epoch, len(piece.records), check_of(piece.records), piece.more)
        return await self._reply(word, piece.records, patience_s=WORD_PATIENCE_S)

    async def _activate_vm(self, _: fx.ActivateVm) -> ev.Event:
        if self._lease is None or self.parts.activate_vm is None:
            return ev.ActivationFailed("no lease")
        try:
            await self.parts.activate_vm(self._lease, self._vm_desk())
        except ReplicatorError as error:
            # It has run all the time.
            return ev.ActivationFailed(str(error), may_have_run=True)
        self.end("")
        return ev.GuestActivated()

    # Taking over.

    async def _arm(self, effect: fx.ArmTimer) -> None:
        await self._cancel(effect)
        delay_s = max(0, effect.at_ns - self.parts.clock.monotonic_ns()) / 1e9
        self._retry = self._loop.call_later(delay_s, self._post, ev.RetryDue())

    async def _cancel(self, _: fx.Effect) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    async def _take_over(self, effect: fx.TakeOver) -> ev.Event:
        arbiter, node = self.parts.arbiter, self.parts.node
        try:
            if effect.force:
                self._lease = await asyncio.to_thread(arbiter.force_take_over, node)
            else:
                self._lease = await asyncio.to_thread(
                    lambda: arbiter.take_over(
                        node, self.machine.term, effect.epoch, replica_session=effect.session.hex()
                    )
                )
        except TakeOverRefused as error:
            return ev.TakeOverRefused(str(error))
        except ArbiterError as error:
            return ev.TakeOverPostponed(str(error))
        return ev.TakeOverGranted(self._lease.term)

    async def _activate(self, _: fx.ActivateGuest) -> ev.Event:
        if self._lease is None:
            return ev.ActivationFailed("no lease")
        try:
            state = self.parts.store.device_state()
            self.parts.store.mark_active()
            replay = self.inputs.after(self._input_seq)
            await self.parts.activate(self._lease, state, list(replay.frames))
        except ReplicatorError as error:
            return ev.ActivationFailed(str(error), may_have_run=isinstance(error, GuestMayHaveRun))
        self.end("")
        return ev.GuestActivated()

    async def _answer_hand_over(self, effect: fx.AnswerHandOver) -> None:
        term = self.machine.term
        await self._reply(
            wire.HandOverReply(
                effect.session, effect.epoch, effect.taken, effect.detail[: wire.TEXT_CHARS_MAX], term
            )
        )

    async def _hand_back(self, effect: fx.HandBack) -> None:
        """Name what the primary has kept as the replica that counts, and stand down for it."""
        arbiter, lease, session = self.parts.arbiter, self._lease, effect.session.hex()
        if lease is None or self._hello is None or isinstance(arbiter, SoloArbiter):
            return
        try:
            await asyncio.to_thread(
                partial(arbiter.lift_bar, lease, self._hello.node, session, epoch=effect.epoch)
            )
            await asyncio.to_thread(partial(arbiter.release, lease, hand_over=True))
        except ArbiterError as error:
            _LOG.warning("the guest could not be handed back: %s", error)

    async def _end_failed(self, effect: fx.EndFailed) -> None:
        self.end(f"{TAKE_OVER_FAILED}: {effect.reason}")

    def end(self, reason: str) -> None:
        """Finish this role; an empty reason means that the guest runs here now."""
        if not self.ended.done():
            self.ended.set_result(reason)

    def fail(self, error: BaseException) -> None:
        """Finish this role with an error, which whoever waits for the end gets."""
        if not self.ended.done():
            self.ended.set_exception(error)


def holding_of(store: ReplicaStore) -> Holding:
    """What the machine may count on at start: only what the store would promote."""
    committed = store.committed
    if committed is None or not store.promotable.ready:
        return Holding()
    return Holding(store.session, committed.term, committed.epoch, committed.digest)


_TRANSLATIONS: dict[type, Callable[[Any], ev.Event]] = {
    wire.CheckpointNew: lambda m: ev.SuspendOrdered(m.session, Epoch(m.epoch)),
    wire.EpochPart: lambda m: ev.PartReceived(m.session, Epoch(m.epoch), m.index),
    wire.EpochEnd: lambda m: ev.EpochEnded(
        m.session, Epoch(m.epoch), m.parts, m.payload_bytes, m.digest, m.input_seq
    ),
}
