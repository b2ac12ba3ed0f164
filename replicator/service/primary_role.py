"""Runs a primary: which of its hands carries out which of the machine's effects, and the way of events to the machine.

Events come in one at a time; an effect that takes time runs as a task and reports with an event. Commands to the guest,
COLO's to the other side's VM, and the steps of a pause begin at once, in the order asked for, when all other effects of
the event are carried out: nothing else has a turn in between. This file decides nothing: which effect follows which event is engine/primary.py's.
How an effect is carried out say epoch_steps.py, guest_commands.py, secondary_line.py and arbiter_requests.py.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from replicator.engine import effects as fx
from replicator.engine import events as ev
from replicator.engine.move_report import MoveReport
from replicator.engine.output import Frame, OutputMode
from replicator.engine.precopy import DowntimePolicy
from replicator.engine.primary import Life, PrimaryMachine
from replicator.engine.primary import Link as LinkState
from replicator.engine.switchover import Phase
from replicator.link.base import LinkDown, LinkEvent, LinkRefused, LinkUp, Received
from replicator.service.arbiter_requests import ArbiterRequests
from replicator.service.at_once import Work, start_at_once
from replicator.service.colo_line import ColoLine
from replicator.service.epoch_steps import EpochSteps
from replicator.service.guest_commands import GuestCommands
from replicator.service.idle_watch import IdleWatch
from replicator.service.primary_parts import PrimaryParts
from replicator.service.samples import EpochSamples
from replicator.service.secondary_line import SecondaryLine
from replicator.units import Epoch
from replicator.wire import session as wire

_LOG = logging.getLogger(__name__)

#: Between two looks whether the last output has left.
OUTPUT_LOOK_S = 0.0005


class PrimaryRole:
    """One life as primary, from `start` to the future `ended`, whose result is the reason."""

    def __init__(self, machine: PrimaryMachine, parts: PrimaryParts) -> None:
        self.machine = machine
        self.parts = parts
        self.samples = EpochSamples(parts.clock)
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._clock = parts.clock
        self._began_ns = parts.clock.monotonic_ns()
        #: From the start of this role to its first promotable replica, 0 before.
        self.protected_after_ns = 0
        self._loop = asyncio.get_running_loop()
        #: Whoever ordered the switchover that is under way waits for it.
        self._moving: asyncio.Future[MoveReport] | None = None
        self._timers: dict[fx.Timer, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        #: Commands to the guest and steps of a pause that the event under way asks for.
        self._urgent: deque[Work] = deque()
        self._guest = GuestCommands(parts, self.post)
        self.guest_clock = self._guest.clock
        self._requests = ArbiterRequests(parts, self.post)
        self._line = SecondaryLine(machine, parts, self.samples, self.post)
        self._steps = EpochSteps(
            machine,
            parts,
            guest=self._guest,
            line=self._line,
            samples=self.samples,
            post=self.post,
            spawn=self._spawn,
        )
        self._idle = IdleWatch(parts.guest.activity, parts.clock, lambda: self.post(ev.GuestIdle()))
        self.colo = self._make_colo()
        self._actions = self._make_actions()

    def _make_colo(self) -> ColoLine | None:
        parts = self.parts
        if parts.colo is None:
            return None
        return ColoLine(
            parts.colo,
            self._steps.ledger,
            parts.writer.encoder,
            parts.guest.ram.layout.pfn_limit,
            # The order to the other side's VM is to leave before our own guest is paused.
            send=lambda message: self._urgent.append(self._line.say(message)),
            post=self.post,
            recorder=parts.back_channel,
        )

    def _make_actions(self) -> dict[type[fx.Effect], Callable[[Any], object]]:
        steps, line, guest, requests = self._steps, self._line, self._guest, self._requests
        spawn, relay, ledger = self._spawn, self.parts.relay, self._steps.ledger
        hurry = self._urgent.append
        return {
            fx.ArmTimer: self._arm,
            fx.CancelTimer: lambda effect: self._cancel(effect.timer),
            fx.Greet: lambda effect: spawn(line.greet(effect)),
            fx.Reconnect: lambda _: spawn(line.reconnect()),
            fx.OpenEpoch: steps.open,
            fx.CopyLive: lambda effect: spawn(steps.copy_live(effect.epoch)),
            fx.CopyEarly: lambda effect: spawn(steps.copy_early(effect.epoch)),
            fx.WatchIdle: lambda effect: self._idle.begin(effect.quiet_ns),
            fx.PauseGuest: self._pause,
            fx.CopyPages: lambda effect: hurry(steps.copy_paused(effect.epoch)),
            fx.SaveDeviceState: lambda effect: hurry(steps.save(effect.epoch, runs_on=effect.runs_on)),
            fx.ResumeGuest: lambda effect: hurry(steps.resume(effect.epoch)),
            fx.SendEpoch: steps.send,
            fx.AbandonEpoch: steps.abandon,
            fx.SettleOwed: lambda effect: ledger.settle(effect.epoch),
            fx.OweAgain: lambda _: steps.owe_again(),
            fx.OweAll: lambda _: steps.owe_all(),
            fx.ReleaseOutput: lambda effect: relay.release(effect.epoch),
            fx.PassOutput: lambda _: relay.set_mode(OutputMode.PASS),
            fx.RequestAlone: lambda _: spawn(requests.go_alone()),
            fx.LiftBar: lambda effect: spawn(requests.lift_bar(effect)),
            fx.FreezeGuest: lambda _: hurry(guest.freeze()),
            fx.ThawGuest: lambda _: hurry(guest.thaw()),
            fx.Fence: lambda effect: spawn(self._fence(effect.reason)),
            fx.StandDown: lambda effect: spawn(self._stand_down(effect)),
            fx.EndGuest: lambda effect: spawn(self._end_guest(effect.graceful)),
            fx.AwaitOutput: lambda effect: spawn(self._await_output(effect.epoch)),
            fx.HandOver: lambda _: spawn(requests.hand_over()),
            fx.OfferGuest: lambda effect: spawn(line.offer_guest(effect)),
            fx.TakeBack: lambda effect: spawn(requests.take_back(effect, lambda: self.machine.over)),
            fx.LeaveGuest: lambda _: spawn(self._finish(f"handed over to {self.parts.secondary_node}")),
            fx.ReportMove: self._report_move,
            **self._make_colo_actions(),
        }

    def _make_colo_actions(self) -> dict[type[fx.Effect], Callable[[Any], object]]:
        colo = self.colo
        if colo is None:
            return {}
        return {
            fx.SuspendSecondaryVm: colo.suspend,
            fx.CompareOutput: colo.compare,
            fx.StopComparing: lambda _: colo.stop_comparing(),
        }

    def has_lease(self) -> bool:
        """Whether the guest may run and speak at this moment."""
        return self.parts.has_lease()

    @property
    def is_handing_over(self) -> bool:
        """Mute and paused, until the other side or the arbiter has said who runs the guest."""
        return self.machine.life is Life.HANDING_OVER

    @property
    def has_moved(self) -> bool:
        """The guest is the other side's, and this side may follow it."""
        return self.machine.life is Life.MOVED

    # Events in.

    async def start(self) -> None:
        """Begin to look for the secondary and to listen to the guest."""
        self._spawn(self._guest.watch())
        self.guest_clock.begin()
        await self.parts.link.connect(self.parts.peer)

    def post(self, event: ev.Event) -> None:
        """Handle one event. Only in the event loop's thread."""
        self.parts.watch(event)
        if isinstance(event, ev.BarLifted) and not self.protected_after_ns:
            self.protected_after_ns = self._clock.monotonic_ns() - self._began_ns
        for effect in self.machine.handle(event, self._clock.monotonic_ns()):
            self.parts.watch(effect)
            self._actions[type(effect)](effect)
        while self._urgent:
            self._start_at_once(self._urgent.popleft())

    def post_threadsafe(self, event: ev.Event) -> None:
        self._loop.call_soon_threadsafe(self.post, event)

    def on_link(self, event: LinkEvent) -> None:
        if isinstance(event, Received):
            _LOG.debug("from the peer: %s", type(event.message).__name__)
            self._on_message(event.message, event.payload)
            return
        _LOG.info("link: %s", event)
        if isinstance(event, LinkUp):
            self.post(ev.LinkUp())
        elif isinstance(event, LinkDown):
            self._line.leave_connection()
            self.post(ev.LinkLost(event.reason))
        elif isinstance(event, LinkRefused):
            self.post(ev.PeerRefused("link", event.reason))

    def _on_message(self, message: wire.Message, payload: memoryview | None) -> None:
        session = self._line.session
        if isinstance(message, wire.KeyShare):
            self._line.agree(message)
        elif isinstance(message, wire.HelloReply):
            self._hear_reply(message)
        elif isinstance(message, wire.Ack):
            self.samples.note_acked(message.epoch, self._clock.monotonic_ns())
            self.post(ev.EpochAcked(message.session, Epoch(message.epoch), message.digest))
        elif isinstance(message, wire.CheckpointWord) and self.colo is not None:
            if message.session == session and payload is not None:
                self.colo.hear(message, payload)
        elif isinstance(message, wire.HandOverReply) and message.session == session:
            self.post(ev.HandOverAnswered(Epoch(message.epoch), message.taken, message.detail))
        elif isinstance(message, wire.Abort) and message.session == session:
            self.post(ev.EpochRefused(Epoch(message.epoch), message.detail))

    def _hear_reply(self, reply: wire.HelloReply) -> None:
        self.parts.secondary_node = reply.node
        if not reply.accepted:
            self.post(ev.PeerRefused(reply.refusal, reply.detail))
        elif self._line.may_send_epochs:
            if self.colo is not None:
                self.colo.open_channel(self._line.frames)
            self.post(ev.PeerAccepted(self._line.session, Epoch(reply.committed_epoch), reply.digest))
        else:
            _LOG.info("a reply to an older greeting is left aside")

    def on_input(self, first_seq: int, frames: Sequence[Frame]) -> None:
        """Mirror input frames to the secondary. Called by the relay's thread."""
        self._loop.call_soon_threadsafe(self._mirror, first_seq, list(frames))

    def _mirror(self, first_seq: int, frames: list[Frame]) -> None:
        if self.machine.link is LinkState.READY:
            self._spawn(self._line.send_inputs(first_seq, frames))

    # Tasks and timers.

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._keep(self._loop.create_task(work))

    def _start_at_once(self, work: Work) -> None:
        try:
            task = start_at_once(work, self._loop)
        except Exception as error:
            self._stop_for_bug(error)
            return
        if task is not None:
            self._keep(task)

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._reap)

    def _reap(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._stop_for_bug(error)

    def _stop_for_bug(self, error: BaseException) -> None:
        """Our own: nothing more may leave."""
        _LOG.critical("primary stopped by %r", error, exc_info=error)
        self.post(ev.LeaseTaken.by_bug(error))

    def _pause(self, effect: fx.PauseGuest) -> None:
        self._idle.end()
        self._urgent.append(self._steps.pause(effect))

    def _arm(self, effect: fx.ArmTimer) -> None:
        self._cancel(effect.timer)
        delay_s = max(0, effect.at_ns - self._clock.monotonic_ns()) / 1e9
        self._timers[effect.timer] = self._loop.call_later(delay_s, self.post, _TIMER_EVENTS[effect.timer]())

    def _cancel(self, timer: fx.Timer) -> None:
        if (handle := self._timers.pop(timer, None)) is not None:
            handle.cancel()

    # Switchover.

    async def switch_over(self, policy: DowntimePolicy) -> MoveReport:
        """Move the guest to the other side; returns when that is decided. One at a time."""
        self._moving = self._loop.create_future()
        self.post(ev.SwitchoverOrdered(policy))
        return await asyncio.shield(self._moving)

    def _report_move(self, effect: fx.ReportMove) -> None:
        _LOG.info("switchover: %s", effect.report)
        if self._moving is not None and not self._moving.done():
            self._moving.set_result(effect.report)

    async def _await_output(self, epoch: Epoch) -> None:
        """The guest stands still and its socket was read empty: what is held is what was released."""
        while self.machine.move.phase is Phase.EMPTYING and self.machine.life is Life.RUNNING:
            if not self.parts.relay.stats().output.held_frames:
                self.post(ev.OutputLeft(epoch))
                return
            await asyncio.sleep(OUTPUT_LOOK_S)

    # The end.

    async def _stand_down(self, effect: fx.StandDown) -> None:
        if not effect.hand_over:
            await self._line.tell_stand_down(effect.reason)
        await self._requests.stand_down(hand_over=effect.hand_over)

    async def _fence(self, reason: str) -> None:
        self._guest.fence()
        await self._finish(f"fenced: {reason}")

    async def _end_guest(self, graceful: bool) -> None:
        if graceful:
            await self._guest.shut_down()
        else:
            # The replica may go on only if the bar is known to be lifted, which may have been asked a moment ago.
            await self._requests.settle()
        await self._finish(self.machine.trouble or "ended")

    async def _finish(self, reason: str) -> None:
        for timer in list(self._timers):
            self._cancel(timer)
        self._idle.end()
        self._steps.end()
        await self._guest.kill()
        self.parts.relay.stop()
        await self.parts.link.disconnect()
        if not self.ended.done():
            self.ended.set_result(reason)


_TIMER_EVENTS: dict[fx.Timer, type[ev.Event]] = {
    fx.Timer.EPOCH: ev.EpochDue,
    fx.Timer.EARLY: ev.EarlyDue,
    fx.Timer.ACK: ev.AckOverdue,
    fx.Timer.RETRY: ev.RetryDue,
    fx.Timer.MOVE: ev.MoveOverdue,
}
