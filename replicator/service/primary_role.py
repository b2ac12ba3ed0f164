"""Runs a primary: executes the machine's effects on the guest, the relay, the link and the arbiter.

Events come in one at a time; an effect that takes time runs as a task and reports with an event. Steps of one epoch
never overlap, because the machine asks for the next one when the last has reported. This file decides nothing: which
effect follows which event is engine/primary.py's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from replicator.arbiter.base import Arbiter
from replicator.arbiter.keeper import Keeper, LeaseDeadline
from replicator.clock import SYSTEM_CLOCK, Clock
from replicator.engine import effects as fx
from replicator.engine import events as ev
from replicator.engine.output import Frame, OutputMode
from replicator.engine.primary import Link as LinkState
from replicator.engine.primary import PrimaryMachine
from replicator.errors import ArbiterError, GuestError, LeaseLost, ReplicatorError, TransportError
from replicator.guests.base import Died, Guest, Panicked, PoweredOff
from replicator.limits import EPOCHS_IN_FLIGHT_MAX
from replicator.link.base import Link, LinkDown, LinkEvent, LinkRefused, LinkUp, PeerAddress, Received
from replicator.output.base import OutputPort
from replicator.service.agreement import record_of
from replicator.service.chronicle import Watch
from replicator.service.epoch_writer import EpochWriter, OutgoingEpoch, Sealed
from replicator.service.ledger import OwedLedger
from replicator.service.samples import EpochSamples
from replicator.units import Epoch
from replicator.wire import session as wire

_LOG = logging.getLogger(__name__)

#: How long inputs already given to the guest may stay untaken before it is stopped.
QUIESCE_S = 0.0005
SHUTDOWN_PATIENCE_S = 20.0
#: From a failed step to the news that the guest has died, if that was the reason.
DEATH_NEWS_S = 1.0


@dataclass(slots=True)
class PrimaryParts:
    """What a primary works with; made by the daemon, owned by the role from then on."""

    node: str
    guest: Guest
    relay: OutputPort
    link: Link
    peer: PeerAddress
    arbiter: Arbiter
    keeper: Keeper
    deadline: LeaseDeadline
    writer: EpochWriter
    secondary_node: str = ""
    may_discard: bool = False
    clock: Clock = SYSTEM_CLOCK
    #: Sees each event before it is handled, and each effect before it is carried out.
    watch: Watch = lambda _: None


class PrimaryRole:
    """One life as primary, from `start` to the future `ended`, whose result is the reason."""

    def __init__(self, machine: PrimaryMachine, parts: PrimaryParts) -> None:
        self.machine = machine
        self.parts = parts
        self._clock = parts.clock
        self.samples = EpochSamples(parts.clock)
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._ledger = OwedLedger(parts.guest.ram.layout)
        self._scanning = asyncio.Lock()
        #: Held for each command to the guest: a thaw that was ordered before a pause may not come after it.
        self._commanding = asyncio.Lock()
        #: Held for each request to the arbiter: a bar that was to be lifted may not be so after a grant to go alone.
        self._asking = asyncio.Lock()
        #: The guest has powered off, panicked or died: nothing is left to shut down.
        self._is_off = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._timers: dict[fx.Timer, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        #: Counts connections: a task that fails on an older one says nothing of the present one.
        self._connection = 0
        self._epochs: dict[int, OutgoingEpoch] = {}
        #: Closed epochs that are on their way.
        self._sending: set[OutgoingEpoch] = set()
        self._input_seq: dict[int, int] = {}
        self._paused_ns = 0
        #: Of the epoch that is being made.
        self._device_state = b""
        self._session = wire.NO_SESSION
        self._actions = self._make_actions()

    def _make_actions(self) -> dict[type[fx.Effect], Callable[[Any], None]]:
        return {
            fx.ArmTimer: self._arm,
            fx.CancelTimer: lambda effect: self._cancel(effect.timer),
            fx.Greet: lambda effect: self._spawn(self._greet(effect)),
            fx.Reconnect: lambda _: self._spawn(self._reconnect()),
            fx.OpenEpoch: self._open_epoch,
            fx.CopyLive: lambda effect: self._spawn(self._copy_live(effect.epoch)),
            fx.PauseGuest: lambda effect: self._spawn(self._pause(effect)),
            fx.CopyPages: lambda effect: self._spawn(self._copy_paused(effect.epoch)),
            fx.SaveDeviceState: lambda effect: self._spawn(self._save(effect.epoch)),
            fx.ResumeGuest: lambda effect: self._spawn(self._resume(effect.epoch)),
            fx.SendEpoch: self._send_epoch,
            fx.AbandonEpoch: self._abandon,
            fx.SettleOwed: lambda effect: self._ledger.settle(effect.epoch),
            fx.OweAgain: lambda _: self._ledger.owe_again(),
            fx.OweAll: lambda _: self._ledger.owe_all(),
            fx.ReleaseOutput: self._release,
            fx.PassOutput: lambda _: self._pass_output(),
            fx.RequestAlone: lambda _: self._spawn(self._request_alone()),
            fx.LiftBar: lambda effect: self._spawn(self._lift_bar(effect)),
            fx.FreezeGuest: lambda _: self._spawn(self._freeze()),
            fx.ThawGuest: lambda _: self._spawn(self._thaw()),
            fx.Fence: lambda effect: self._spawn(self._fence(effect.reason)),
            fx.StandDown: lambda effect: self._spawn(self._stand_down(effect)),
            fx.EndGuest: lambda effect: self._spawn(self._end_guest(effect.graceful)),
        }

    # Events in.

    async def start(self) -> None:
        """Begin to look for the secondary and to listen to the guest."""
        self._spawn(self._watch_guest())
        await self.parts.link.connect(self.parts.peer)

    def post(self, event: ev.Event) -> None:
        """Handle one event. Only in the event loop's thread."""
        self.parts.watch(event)
        for effect in self.machine.handle(event, self._clock.monotonic_ns()):
            self.parts.watch(effect)
            self._actions[type(effect)](effect)

    def post_threadsafe(self, event: ev.Event) -> None:
        self._loop.call_soon_threadsafe(self.post, event)

    def on_link(self, event: LinkEvent) -> None:
        if not isinstance(event, Received):
            _LOG.info("link: %s", event)
        if isinstance(event, LinkUp):
            self.post(ev.LinkUp())
        elif isinstance(event, LinkDown):
            self._leave_connection()
            self.post(ev.LinkLost(event.reason))
        elif isinstance(event, LinkRefused):
            self.post(ev.PeerRefused("link", event.reason))
        elif isinstance(event, Received):
            _LOG.debug("from the peer: %s", type(event.message).__name__)
            self._on_message(event.message)

    def _on_message(self, message: wire.Message) -> None:
        if isinstance(message, wire.HelloReply):
            self.parts.secondary_node = message.node
            if message.accepted:
                self.post(ev.PeerAccepted(self._session, Epoch(message.committed_epoch), message.digest))
            else:
                self.post(ev.PeerRefused(message.refusal, message.detail))
        elif isinstance(message, wire.Ack):
            self.samples.note_acked(message.epoch, self._clock.monotonic_ns())
            self.post(ev.EpochAcked(message.session, Epoch(message.epoch), message.digest))
        elif isinstance(message, wire.Abort) and message.session == self._session:
            self.post(ev.EpochRefused(Epoch(message.epoch), message.detail))

    def on_input(self, first_seq: int, frames: Sequence[Frame]) -> None:
        """Mirror input frames to the secondary. Called by the relay's thread."""
        self._loop.call_soon_threadsafe(self._mirror, first_seq, list(frames))

    def _mirror(self, first_seq: int, frames: list[Frame]) -> None:
        if self.machine.link is LinkState.READY:
            self._spawn(self._send_inputs(first_seq, frames))

    async def _send_inputs(self, first_seq: int, frames: list[Frame]) -> None:
        packed = [frame.pack() for frame in frames]
        header = wire.InputFrames(self._session, first_seq, tuple(map(len, packed)))
        try:
            await self.parts.link.send(header, b"".join(packed))
        except TransportError as error:
            _LOG.debug("inputs not mirrored: %s", error)

    # Tasks and timers.

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._reap)

    def _reap(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # Our own bug: nothing more may leave.
            _LOG.critical("primary stopped by %r", error, exc_info=error)
            self.post(ev.LeaseTaken(f"internal error: {error!r}"))

    def _arm(self, effect: fx.ArmTimer) -> None:
        self._cancel(effect.timer)
        delay_s = max(0, effect.at_ns - self._clock.monotonic_ns()) / 1e9
        self._timers[effect.timer] = self._loop.call_later(delay_s, self.post, _TIMER_EVENTS[effect.timer]())

    def _cancel(self, timer: fx.Timer) -> None:
        if (handle := self._timers.pop(timer, None)) is not None:
            handle.cancel()

    # Link.

    async def _greet(self, effect: fx.Greet) -> None:
        if effect.session != self._session:
            self._session = effect.session
            self.samples.restart_sync()
            self.parts.relay.restart_inputs()
        hello = wire.Hello(
            wire.PROTOCOL_VERSION,
            self.parts.node,
            record_of(self.parts.guest.identity),
            self.parts.keeper.lease.term,
            self._session,
            EPOCHS_IN_FLIGHT_MAX,
            self.parts.may_discard,
        )
        connection = self._connection
        try:
            await self.parts.link.send(hello)
        except TransportError as error:
            self._fail_connection(connection, error)

    def _fail_connection(self, connection: int, error: TransportError) -> None:
        if connection == self._connection:
            self.post(ev.LinkLost(str(error)))

    def _leave_connection(self) -> None:
        """What was made for it may not travel on the next one."""
        self._connection += 1
        for outgoing in self._sending:
            outgoing.abandon()

    async def _reconnect(self) -> None:
        self._leave_connection()
        await self.parts.link.disconnect()
        if not self.machine.over:
            await self.parts.link.connect(self.parts.peer)

    # Epochs.

    def _open_epoch(self, effect: fx.OpenEpoch) -> None:
        term = self.parts.keeper.lease.term
        begin = wire.EpochBegin(self._session, term, effect.epoch, effect.base)
        self._epochs[effect.epoch] = self.parts.writer.open(begin)

    async def _copy_live(self, epoch: int) -> None:
        dirty = self.parts.guest.ram.layout.new_bitmap()
        try:
            async with self._scanning:
                if self.machine.over:
                    return
                # The first scans read the whole RAM: too long to stand in the way of everything else.
                await asyncio.to_thread(self.parts.guest.scan_dirty, dirty)
        except ReplicatorError as error:
            await self._fail_step(epoch, error)
            return
        self._ledger.owed.merge(dirty)
        self.samples.note_owed(self._ledger.owed.count())
        pages = await self._copy(epoch, send_at_once=True)
        self.post(ev.LiveCopied(Epoch(epoch), pages))

    async def _copy(self, epoch: int, *, send_at_once: bool) -> int:
        outgoing = self._epochs.get(epoch)
        if outgoing is None:
            return 0
        connection = self._connection
        pfns = self._ledger.take().pfns()
        note = partial(self.samples.note_copied, epoch)
        try:
            await outgoing.add_pages(self.parts.guest.ram, pfns, send_at_once=send_at_once, note=note)
        except TransportError as error:
            _give_up(outgoing)
            self._fail_connection(connection, error)
        return len(pfns)

    async def _pause(self, effect: fx.PauseGuest) -> None:
        guest, relay = self.parts.guest, self.parts.relay
        try:
            relay.hold_input()
            relay.quiesce_input(QUIESCE_S)
            async with self._commanding:
                self._paused_ns = self._clock.monotonic_ns()
                await guest.pause()
            mark = relay.drain_and_mark(effect.epoch)
            if effect.hold:
                relay.set_mode(OutputMode.HOLD)
            self._input_seq[effect.epoch] = mark.input_seq
            async with self._scanning:
                guest.scan_dirty(self._ledger.owed)
        except ReplicatorError as error:
            await self._fail_step(effect.epoch, error)
            return
        self.post(ev.GuestPaused(effect.epoch, self._ledger.owed.count()))

    async def _fail_step(self, epoch: int, error: ReplicatorError) -> None:
        """A guest that dies fails a step first. Its death must not bar the replica that is to take over."""
        try:
            await asyncio.wait_for(self._is_off.wait(), DEATH_NEWS_S)
        except TimeoutError:
            self.post(ev.StepFailed(Epoch(epoch), str(error)))

    async def _copy_paused(self, epoch: int) -> None:
        await self._copy(epoch, send_at_once=False)
        self.post(ev.PagesCopied(Epoch(epoch)))

    async def _save(self, epoch: int) -> None:
        try:
            async with self._commanding:
                state = await self.parts.guest.save_device_state()
        except GuestError as error:
            await self._fail_step(epoch, error)
            return
        self._device_state = state
        self.post(ev.DeviceStateSaved(Epoch(epoch)))

    async def _resume(self, epoch: int) -> None:
        try:
            async with self._commanding:
                resumed = self.has_lease()
                if resumed:
                    await self.parts.guest.resume()
        except GuestError as error:
            self.post(ev.GuestEnded(str(error), died=True))
            return
        if not resumed:
            self.post(ev.ResumeDenied(Epoch(epoch)))
            return
        self.samples.note_paused(epoch, self._paused_ns, self._clock.monotonic_ns())
        self.parts.relay.resume_input()
        self.post(ev.GuestResumed(Epoch(epoch)))

    def has_lease(self) -> bool:
        """Whether the guest may run and speak at this moment."""
        return self._clock.boottime_ns() < self.parts.deadline.deadline_ns

    def _send_epoch(self, effect: fx.SendEpoch) -> None:
        outgoing = self._epochs.pop(effect.epoch)
        self._ledger.close(effect.epoch)
        sealed = outgoing.seal(self._device_state)
        self.parts.watch(sealed)
        self.post(ev.EpochSealed(effect.epoch, sealed.digest))
        self.samples.note_sealed(effect.epoch, sealed.size, self._clock.monotonic_ns())
        self._spawn(self._send(outgoing, sealed, self._input_seq.pop(effect.epoch)))

    async def _send(self, outgoing: OutgoingEpoch, sealed: Sealed, input_seq: int) -> None:
        connection = self._connection
        self._sending.add(outgoing)
        try:
            await outgoing.send(sealed, input_seq)
        except TransportError as error:
            _give_up(outgoing)
            self._fail_connection(connection, error)
        finally:
            self._sending.discard(outgoing)

    def _abandon(self, effect: fx.AbandonEpoch) -> None:
        if (outgoing := self._epochs.pop(effect.epoch, None)) is not None:
            _give_up(outgoing)
        self._ledger.abandon()

    def _release(self, effect: fx.ReleaseOutput) -> None:
        self.parts.relay.release(effect.epoch)

    def _pass_output(self) -> None:
        self.parts.relay.set_mode(OutputMode.PASS)

    # Arbiter.

    async def _request_alone(self) -> None:
        await self._ask(lambda: self.parts.arbiter.go_alone(self.parts.keeper.lease), ev.AloneGranted())

    async def _lift_bar(self, effect: fx.LiftBar) -> None:
        node, session = self.parts.secondary_node, effect.session.hex()
        lease = self.parts.keeper.lease
        lift = self.parts.arbiter.lift_bar
        await self._ask(lambda: lift(lease, node, session, epoch=effect.epoch), ev.BarLifted())

    async def _ask(self, request: Callable[[], None], done: ev.Event) -> None:
        try:
            async with self._asking:
                await asyncio.to_thread(request)
        except LeaseLost as error:
            self.post(ev.LeaseTaken(str(error)))
        except ArbiterError as error:
            self.post(ev.ArbiterFailed(str(error)))
        else:
            self.post(done)

    async def _stand_down(self, effect: fx.StandDown) -> None:
        if not effect.hand_over:
            await self._tell_stand_down(effect.reason)
        lease, arbiter = self.parts.keeper.lease, self.parts.arbiter
        if effect.hand_over:
            self.parts.keeper.stop()
            await self._ask(lambda: arbiter.release(lease, hand_over=True), ev.StandDownSettled())
        else:
            await self._ask(lambda: arbiter.go_alone(lease), ev.StandDownSettled())

    async def _tell_stand_down(self, reason: str) -> None:
        try:
            await self.parts.link.send(wire.StandDown(self.parts.keeper.lease.term, reason))
        except TransportError as error:
            _LOG.info("the secondary was not told to stand down: %s", error)

    # Guest.

    async def _watch_guest(self) -> None:
        async for event in self.parts.guest.events():
            if isinstance(event, PoweredOff | Panicked | Died):
                self._is_off.set()
            if isinstance(event, PoweredOff):
                self.post(ev.GuestEnded("the guest powered off", died=False))
            elif isinstance(event, Panicked):
                self.post(ev.GuestEnded(f"the guest panicked {event.reason}".rstrip(), died=False))
            elif isinstance(event, Died):
                self.post(ev.GuestEnded(event.reason, died=True))

    async def _freeze(self) -> None:
        try:
            async with self._commanding:
                await self.parts.guest.pause()
        except GuestError as error:
            self.post(ev.GuestEnded(str(error), died=True))

    async def _thaw(self) -> None:
        try:
            async with self._commanding:
                if self.has_lease():
                    await self.parts.guest.resume()
        except GuestError as error:
            self.post(ev.GuestEnded(str(error), died=True))

    async def _fence(self, reason: str) -> None:
        self.parts.deadline.deadline_ns = 0
        self.parts.keeper.stop()
        self.parts.relay.discard_output()
        await self._finish(f"fenced: {reason}")

    async def _end_guest(self, graceful: bool) -> None:
        if graceful:
            try:
                await asyncio.wait_for(self._shut_down(), SHUTDOWN_PATIENCE_S)
            except (TimeoutError, GuestError) as error:
                _LOG.warning(
                    "the guest did not power off within %.0f s and is ended: %r", SHUTDOWN_PATIENCE_S, error
                )
        await self._finish(self.machine.trouble or "ended")

    async def _shut_down(self) -> None:
        if not self._is_off.is_set():
            await self.parts.guest.shutdown()
        await self._is_off.wait()

    async def _finish(self, reason: str) -> None:
        for timer in list(self._timers):
            self._cancel(timer)
        for outgoing in self._epochs.values():
            outgoing.abandon()
        self._epochs.clear()
        async with self._scanning:
            await self.parts.guest.kill()
        self.parts.relay.stop()
        await self.parts.link.disconnect()
        if not self.ended.done():
            self.ended.set_result(reason)


def _give_up(outgoing: OutgoingEpoch) -> None:
    outgoing.abandon()
    outgoing.leave_wire()


_TIMER_EVENTS: dict[fx.Timer, type[ev.Event]] = {
    fx.Timer.EPOCH: ev.EpochDue,
    fx.Timer.ACK: ev.AckOverdue,
    fx.Timer.RETRY: ev.RetryDue,
}
