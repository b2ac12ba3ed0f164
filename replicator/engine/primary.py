"""Primary side of a pair: session with the secondary, the bar at the arbiter, and what output may do.

Bar (what the arbiter says of the replica):
    BARRED --first ack--> LIFTING --BarLifted--> LIFTED --secondary lost--> BARRING --AloneGranted--> BARRED

Rules: 1. Output passes freely only while BARRED, and not from the barrier of the first epoch on whose ack would lift
the bar. 2. Otherwise output is released by acks alone. 3. A request to the arbiter whose outcome is unknown is
repeated; until it is known the stricter of both outcomes holds. 4. A full synchronisation destroys the replica, so it
starts only while BARRED. 5. Who lost the guest to another term is FENCED for good.
6. A switchover (switchover.py) ends with the first trouble, and the guest runs on; from the hand-over on (hand_over.py)
only what the arbiter says of it counts.
This file does not know what carries messages, which guest runs, or how the arbiter works.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from replicator.engine import effects as fx
from replicator.engine import events as ev
from replicator.engine.colo import Colo, ColoSettings
from replicator.engine.effects import Effect, Timer
from replicator.engine.hand_over import HandOver, Stage
from replicator.engine.move_report import Outcome
from replicator.engine.pipeline import EpochPipeline, PipelineSettings
from replicator.engine.stretch import Stretch
from replicator.engine.switchover import Switchover
from replicator.errors import InvariantError
from replicator.units import NS_PER_MS, NS_PER_S, Epoch

RETRY_ARBITER_NS = 100 * NS_PER_MS
STOPPED = "stopped by the operator"
#: So many times longer than an ack may the secondary's VM take to run.
VM_PATIENCE = 10


def _ignore(_: ev.Event, __: int) -> list[Effect]:
    """Answers to a hand-over that is over."""
    return []


class Link(Enum):
    DOWN = "down"
    GREETING = "greeting"
    READY = "ready"


class Bar(Enum):
    BARRED = "barred"
    LIFTING = "lifting"
    LIFTED = "lifted"
    BARRING = "barring"


class Life(Enum):
    RUNNING = "running"
    #: The lease has lapsed; mute and paused until it is back.
    FROZEN = "frozen"
    #: Mute and paused: the other side takes the guest over, or gives it back (hand_over.py).
    HANDING_OVER = "handing over"
    #: The operator ended the protection, the guest runs on.
    UNPROTECTED = "unprotected"
    STOPPING = "stopping"
    FENCED = "fenced"
    #: The guest is the other side's, which this side may follow now.
    MOVED = "moved"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class PrimarySettings:
    pipeline: PipelineSettings
    #: 8 bytes that no other start of a primary of this guest has.
    seed: bytes
    #: How long a closed epoch may wait for its ack before the secondary counts as lost.
    ack_patience_ns: int = NS_PER_S
    #: Without an arbiter only an operator grants to go alone, or a secondary that says it holds nothing.
    has_arbiter: bool = True
    #: This side took the guest over: being alone is what is left of a pair.
    promoted: bool = False
    #: What switchovers took after their last ack, 0 if there was none.
    take_over_ns: int = 0
    #: Both guests run, and their outputs are compared.
    colo: ColoSettings | None = None


class PrimaryMachine:
    """`handle(event, now_ns)` returns the effects of one event. Starts alone and barred."""

    def __init__(self, settings: PrimarySettings) -> None:
        self._settings = settings
        self.colo = Colo(settings.colo) if settings.colo is not None else None
        self.pipeline = EpochPipeline(settings.pipeline, colo=self.colo)
        self.link = Link.DOWN
        self.bar = Bar.BARRED
        self.life = Life.RUNNING
        #: Why protection is not what was asked for, "" if it is.
        self.trouble = ""
        self.peer_silent = False
        self.acked = Epoch(0)
        self.stretch = Stretch(settings.take_over_ns)
        self.move = Switchover(self.pipeline, self.stretch)
        self.hand_over: HandOver | None = None
        self._session_number = 0
        #: Digests of epochs that were sealed and may be what the secondary holds.
        self._digests: dict[Epoch, bytes] = {}
        self._passing = True
        #: Base of the epochs that start when the bar is down and the lease live.
        self._waiting_for: Epoch | None = None
        self._stop_shuts_down = False
        self._handlers: dict[type[ev.Event], Callable[[Any, int], list[Effect]]] = {
            ev.LinkUp: self._on_link_up,
            ev.LinkLost: self._on_link_lost,
            ev.PeerSilent: self._on_peer_silent,
            ev.PeerSpoke: self._on_peer_spoke,
            ev.PeerAccepted: self._on_peer_accepted,
            ev.PeerRefused: self._on_peer_refused,
            ev.EpochDue: lambda _, now: self.pipeline.handle_due(now) if self.life is Life.RUNNING else [],
            ev.OutputWaits: lambda _, now: self.pipeline.handle_output_waits(now),
            ev.GuestIdle: lambda _, now: self.pipeline.handle_idle(now) if self.life is Life.RUNNING else [],
            ev.EarlyDue: lambda _, now: (
                self.pipeline.handle_early_due(now) if self.life is Life.RUNNING else []
            ),
            ev.EarlyCopied: lambda event, now: self.pipeline.handle_early_copied(event, now),
            ev.LiveCopied: self._on_live_copied,
            ev.PauseOverrun: self._on_pause_overrun,
            ev.GuestPaused: self._on_guest_paused,
            ev.PagesCopied: lambda event, now: self.pipeline.handle_copied(event, now),
            ev.DeviceStateSaved: self._on_device_state_saved,
            ev.GuestResumed: self._on_guest_resumed,
            ev.ResumeDenied: lambda event, _: self.pipeline.handle_denied(event),
            ev.StepFailed: self._on_step_failed,
            ev.EpochSealed: self._on_epoch_sealed,
            ev.EpochAcked: self._on_epoch_acked,
            ev.EpochRefused: self._on_epoch_refused,
            ev.AckOverdue: self._on_ack_overdue,
            ev.AloneGranted: self._on_alone_granted,
            ev.BarLifted: self._on_bar_lifted,
            ev.ArbiterFailed: self._on_arbiter_failed,
            ev.RetryDue: self._on_retry_due,
            ev.LeaseLapsed: self._on_lease_lapsed,
            ev.LeaseRegained: self._on_lease_regained,
            ev.LeaseTaken: self._on_lease_taken,
            ev.GuestEnded: self._on_guest_ended,
            ev.StopOrdered: self._on_stop_ordered,
            ev.TuneOrdered: self._on_tune_ordered,
            ev.StandDownSettled: self._on_stand_down_settled,
            ev.SwitchoverOrdered: self._on_switchover_ordered,
            ev.OutputLeft: self._on_output_left,
            ev.ChannelLost: self._on_channel_lost,
            ev.CheckpointAsked: lambda event, now: self.pipeline.handle_asked(event, now),
            ev.SecondaryVmSuspended: self._on_vm_suspended,
            ev.SecondaryVmResumed: self._on_vm_resumed,
            ev.MoveOverdue: lambda _, now: self.move.overdue(now),
        }

    @property
    def session(self) -> bytes:
        """Names one synchronisation and the epochs after it."""
        return self._settings.seed + self._session_number.to_bytes(8, "little")

    @property
    def passing(self) -> bool:
        """Whether output leaves at once, under the arbiter's bar."""
        return self._passing

    @property
    def was_paired(self) -> bool:
        """Whether there ever was a secondary to lose."""
        return self._settings.promoted or self.acked > 0

    @property
    def over(self) -> bool:
        return self.life in (Life.FENCED, Life.ENDED, Life.MOVED)

    def handle(self, event: ev.Event, now_ns: int) -> list[Effect]:
        if self.over:
            return []
        handler = self._handlers.get(type(event), _ignore)
        effects = self._hand_over(event, now_ns) if self.life is Life.HANDING_OVER else handler(event, now_ns)
        if self.colo and any(isinstance(effect, fx.SuspendSecondaryVm) for effect in effects):
            effects = [*effects, self._await_peer(now_ns)]
        self.stretch.watch(event, effects, now_ns)
        return effects

    # Link and session.

    def _on_link_up(self, _: ev.LinkUp, now_ns: int) -> list[Effect]:
        if self.life in (Life.UNPROTECTED, Life.STOPPING) or self.pipeline.gave_up:
            return []
        dropped = self._drop_link("", now_ns) if self.link is Link.READY else []
        self.link = Link.GREETING
        return [*dropped, fx.Greet(self.session), self._await_peer(now_ns)]

    def _await_peer(self, now_ns: int) -> Effect:
        """An answer, or another try, within the patience."""
        return fx.ArmTimer(Timer.ACK, now_ns + self._settings.ack_patience_ns)

    def _await_vm(self, now_ns: int) -> Effect:
        """The secondary's VM may be one whose process is started only now."""
        return fx.ArmTimer(Timer.ACK, now_ns + VM_PATIENCE * self._settings.ack_patience_ns)

    def _on_link_lost(self, event: ev.LinkLost, now_ns: int) -> list[Effect]:
        return self._drop_link(event.reason, now_ns)

    def _on_peer_silent(self, _: ev.PeerSilent, now_ns: int) -> list[Effect]:
        self.peer_silent = True
        return [*self._drop_link("the secondary is silent", now_ns), *self._go_alone(), fx.Reconnect()]

    def _on_peer_spoke(self, _: ev.PeerSpoke, __: int) -> list[Effect]:
        self.peer_silent = False
        return []

    def _on_ack_overdue(self, _: ev.AckOverdue, now_ns: int) -> list[Effect]:
        if self.link is Link.READY and not self.pipeline.awaits_secondary:
            return []
        silence = (
            "the secondary confirms no epoch" if self.link is Link.READY else "the secondary does not answer"
        )
        dropped = self._drop_link("" if self.link is Link.DOWN else silence, now_ns)
        return [*dropped, *self._go_alone(), fx.Reconnect()]

    def _drop_link(self, reason: str, now_ns: int) -> list[Effect]:
        if reason:
            self.trouble = reason
        if self.link is Link.DOWN:
            return []
        return [*self.move.end(Outcome.ABORTED, reason, now_ns), *self._leave_session(now_ns)]

    def _leave_session(self, now_ns: int) -> list[Effect]:
        self.link, self._waiting_for = Link.DOWN, None
        self.stretch.forget()
        effects = self.pipeline.stop()
        if self.bar is Bar.BARRED:
            return [*effects, *self._pass_output()]
        return [*effects, self._await_peer(now_ns)]

    def _on_peer_refused(self, event: ev.PeerRefused, now_ns: int) -> list[Effect]:
        effects = self._drop_link(f"refused by the secondary: {event.detail}", now_ns)
        if event.code == "stale-term":
            return [*effects, *self._fence(event.detail)]
        return [*effects, self._await_peer(now_ns)]

    def _on_peer_accepted(self, event: ev.PeerAccepted, now_ns: int) -> list[Effect]:
        if self.link is not Link.GREETING or event.session != self.session:
            return []
        if event.committed == 0:
            return self._synchronise(now_ns)
        if self._digests.get(event.committed) != event.digest:
            # It holds something of this session that we never sealed: only a new session is safe.
            self._session_number += 1
            return [fx.Greet(self.session)]
        effects = self._settle(event.committed, now_ns) if event.committed > self.acked else []
        return [*effects, fx.OweAgain(), *self._begin(event.committed, now_ns)]

    def _synchronise(self, now_ns: int) -> list[Effect]:
        """The secondary holds nothing: everything is owed. Waits for the bar where there was a replica."""
        self._digests.clear()
        if self.bar in (Bar.LIFTED, Bar.LIFTING) and not self._settings.has_arbiter:
            # Nobody else may promote, and the only one who could has said that he cannot.
            self.bar = Bar.BARRED
        if self.bar is Bar.BARRED:
            passed = self._pass_output()
            return [*passed, fx.OweAll(), *self._begin(Epoch(0), now_ns)]
        self._waiting_for = Epoch(0)
        return [fx.OweAll(), *self._go_alone()]

    def _begin(self, base: Epoch, now_ns: int) -> list[Effect]:
        self.link, self.trouble = Link.READY, ""
        self.pipeline.hold, self.pipeline.session = True, self.session
        cancel: list[Effect] = [fx.CancelTimer(Timer.ACK)]
        if self.life is not Life.RUNNING:
            self._waiting_for = base
            return cancel
        return [*cancel, *self.pipeline.start(base, now_ns)]

    # Epochs.

    def _on_live_copied(self, event: ev.LiveCopied, now_ns: int) -> list[Effect]:
        effects = self.pipeline.handle_live_copied(event, now_ns)
        return [*effects, *self._leave_unprotected(now_ns)]

    def _on_pause_overrun(self, event: ev.PauseOverrun, now_ns: int) -> list[Effect]:
        effects = self.pipeline.handle_overrun(event)
        return [*effects, *self._leave_unprotected(now_ns)]

    def _leave_unprotected(self, now_ns: int) -> list[Effect]:
        """Once a synchronisation was given up the guest runs alone, and the secondary is not greeted any more."""
        reason = self.pipeline.gave_up
        if not reason or self.link is not Link.READY:
            return []
        return [*self._drop_link(reason, now_ns), *self._go_alone(), fx.Reconnect()]

    def _on_tune_ordered(self, event: ev.TuneOrdered, now_ns: int) -> list[Effect]:
        effects = self.pipeline.tune(event, now_ns)
        if not self.pipeline.gave_up or not (event.retry or event.sync):
            return effects
        self.pipeline.gave_up = ""
        return [*effects, fx.Reconnect()]

    def _on_guest_paused(self, event: ev.GuestPaused, now_ns: int) -> list[Effect]:
        if self.pipeline.hold:
            # The runner holds from this barrier on, even if nobody waits for this epoch any more.
            self._passing = False
        effects = self.pipeline.handle_paused(event, now_ns)
        if not self.pipeline.running and self.bar is Bar.BARRED:
            return [*self._pass_output(), *effects]
        return [*effects, *self.move.paused(event, now_ns)]

    def _on_device_state_saved(self, event: ev.DeviceStateSaved, now_ns: int) -> list[Effect]:
        was_flying = bool(self.pipeline.in_flight)
        effects = self.pipeline.handle_saved(event, now_ns)
        if limit := self.move.sent(event.epoch):
            return [*effects, self._await_peer(now_ns), *limit]
        if self.pipeline.in_flight and not was_flying:
            effects.append(self._await_peer(now_ns))
        return effects

    def _on_guest_resumed(self, event: ev.GuestResumed, now_ns: int) -> list[Effect]:
        was_flying = bool(self.pipeline.in_flight)
        effects = self.pipeline.handle_resumed(event, now_ns)
        if self.pipeline.in_flight and not was_flying:
            effects.append(self._await_peer(now_ns))
        if self.life is Life.FROZEN and not self.pipeline.guest_paused:
            effects.append(fx.FreezeGuest())
        return effects

    def _on_step_failed(self, event: ev.StepFailed, now_ns: int) -> list[Effect]:
        failed = self.pipeline.fail_step(event)
        return [*failed, *self._drop_link(event.reason, now_ns), *self._go_alone(), fx.Reconnect()]

    def _on_epoch_sealed(self, event: ev.EpochSealed, _: int) -> list[Effect]:
        self._digests[event.epoch] = event.digest
        self.move.sealed(event)
        return []

    def _on_epoch_acked(self, event: ev.EpochAcked, now_ns: int) -> list[Effect]:
        known = self._digests.get(event.epoch)
        if event.session != self.session or event.epoch <= self.acked or self.link is not Link.READY:
            return []
        if known != event.digest:
            return self._on_epoch_refused(ev.EpochRefused(event.epoch, "acked with another digest"), now_ns)
        return self._settle(event.epoch, now_ns)

    def _settle(self, epoch: Epoch, now_ns: int) -> list[Effect]:
        self.acked = epoch
        self._digests = {number: digest for number, digest in self._digests.items() if number >= epoch}
        effects: list[Effect] = [fx.ReleaseOutput(epoch), fx.SettleOwed(epoch)]
        if self.bar is Bar.BARRED and not self._passing:
            self.bar = Bar.LIFTING
            effects.append(fx.LiftBar(self.session, epoch))
        self.pipeline.acked(epoch, now_ns)
        if self.life is Life.RUNNING:
            effects += self.pipeline.handle_overdue(now_ns)
        if self.pipeline.in_flight:
            return [*effects, self._await_peer(now_ns)]
        moved = self.move.acked(epoch)
        if self.pipeline.is_loading:
            return [*effects, self._await_vm(now_ns), *moved]
        return [*effects, fx.CancelTimer(Timer.ACK), *moved]

    def _on_epoch_refused(self, event: ev.EpochRefused, now_ns: int) -> list[Effect]:
        if self.link is Link.DOWN:
            # It was said of a session that is over, and may be said again and again.
            return []
        dropped = self._drop_link(f"epoch {event.epoch} not committed: {event.detail}", now_ns)
        return [*dropped, *self._go_alone(), fx.Reconnect()]

    # COLO.

    def _on_channel_lost(self, event: ev.ChannelLost, now_ns: int) -> list[Effect]:
        """Another session brings another channel."""
        if self.link is Link.DOWN:
            return []
        return [*self._drop_link(event.reason, now_ns), fx.Reconnect()]

    def _on_vm_suspended(self, event: ev.SecondaryVmSuspended, _: int) -> list[Effect]:
        if event.session != self.session or self.link is not Link.READY:
            return []
        effects = self.pipeline.handle_vm_suspended(event)
        return effects if self.pipeline.awaits_secondary else [*effects, fx.CancelTimer(Timer.ACK)]

    def _on_vm_resumed(self, event: ev.SecondaryVmResumed, now_ns: int) -> list[Effect]:
        if event.session != self.session or self.link is not Link.READY:
            return []
        if self.life is Life.RUNNING:
            effects = self.pipeline.handle_vm_resumed(event, now_ns)
        else:
            # Mute, there is nothing to compare; but the next epoch need not wait for this word once more.
            effects = self.pipeline.note_vm_resumed(event)
        return effects if self.pipeline.awaits_secondary else [*effects, fx.CancelTimer(Timer.ACK)]

    # Bar and output.

    def _go_alone(self) -> list[Effect]:
        if self.bar in (Bar.BARRED, Bar.BARRING) or self.life in (Life.FENCED, Life.ENDED):
            return []
        self.bar = Bar.BARRING
        return [fx.RequestAlone()]

    def _pass_output(self) -> list[Effect]:
        if self._passing:
            return []
        self._passing = True
        return [fx.PassOutput()]

    def _on_alone_granted(self, _: ev.AloneGranted, now_ns: int) -> list[Effect]:
        self.bar = Bar.BARRED
        effects: list[Effect] = [fx.CancelTimer(Timer.RETRY)]
        if self.link is Link.DOWN:
            # In the other states it watches over the peer's next answer.
            effects.append(fx.CancelTimer(Timer.ACK))
        if self.link is not Link.READY:
            effects += self._pass_output()
        if self._waiting_for is not None and self.link is Link.GREETING:
            base, self._waiting_for = self._waiting_for, None
            effects += self._begin(base, now_ns)
        return effects

    def _on_bar_lifted(self, _: ev.BarLifted, __: int) -> list[Effect]:
        if self.bar is Bar.LIFTING:
            self.bar = Bar.LIFTED
        return [fx.CancelTimer(Timer.RETRY)]

    def _on_arbiter_failed(self, event: ev.ArbiterFailed, now_ns: int) -> list[Effect]:
        self.trouble = event.reason
        if self.bar is Bar.BARRING and not self._settings.has_arbiter:
            # Only the operator can grant it; output stays held until then.
            return []
        if self.bar in (Bar.LIFTING, Bar.BARRING) or self.life is Life.STOPPING:
            return [fx.ArmTimer(Timer.RETRY, now_ns + RETRY_ARBITER_NS)]
        return []

    def _on_retry_due(self, _: ev.RetryDue, __: int) -> list[Effect]:
        if self.life is Life.STOPPING:
            return [fx.StandDown(self.trouble, hand_over=False)]
        if self.bar is Bar.BARRING:
            return [fx.RequestAlone()]
        if self.bar is Bar.LIFTING and self.acked:
            return [fx.LiftBar(self.session, self.acked)]
        return []

    # Lease.

    def _on_lease_lapsed(self, event: ev.LeaseLapsed, now_ns: int) -> list[Effect]:
        if self.life is Life.STOPPING:
            # The end could not be recorded: what is held stays unsaid.
            self.life = Life.ENDED
            return [fx.EndGuest(graceful=False)]
        if self.life is not Life.RUNNING:
            return []
        aborted = self.move.abort(event.reason, now_ns)
        self.life, self.trouble = Life.FROZEN, event.reason
        return [*aborted, *([] if self.pipeline.guest_paused else [fx.FreezeGuest()])]

    def _on_lease_regained(self, _: ev.LeaseRegained, now_ns: int) -> list[Effect]:
        if self.life is not Life.FROZEN:
            return []
        self.life, self.trouble = Life.RUNNING, ""
        paused = self.pipeline.guest_paused
        effects: list[Effect] = self.pipeline.retry_resume() if paused else [fx.ThawGuest()]
        if self._waiting_for is not None and self.link is Link.READY:
            base, self._waiting_for = self._waiting_for, None
            return [*effects, *self.pipeline.start(base, now_ns)]
        return effects if paused else [*effects, *self.pipeline.handle_due(now_ns)]

    def _on_lease_taken(self, event: ev.LeaseTaken, now_ns: int) -> list[Effect]:
        return [*self.move.end(Outcome.ENDED, event.reason, now_ns), *self._fence(event.reason)]

    def _fence(self, reason: str) -> list[Effect]:
        self.life, self.trouble, self._passing = Life.FENCED, reason, False
        return [fx.Fence(reason)]

    # Ends.

    def _on_guest_ended(self, event: ev.GuestEnded, now_ns: int) -> list[Effect]:
        self.trouble = event.reason
        reported = self.move.end(Outcome.ENDED, event.reason, now_ns)
        if event.died and self.bar is not Bar.BARRED:
            # Whether the replica may go on is the arbiter's to say, which knows the outcome of what we asked last.
            self.life = Life.ENDED
            return [*reported, fx.StandDown(event.reason, hand_over=True), fx.EndGuest(graceful=False)]
        self.life = Life.STOPPING
        self._stop_shuts_down = True
        return [*reported, fx.StandDown(event.reason, hand_over=False)]

    def _on_stop_ordered(self, event: ev.StopOrdered, now_ns: int) -> list[Effect]:
        reported = self.move.end(Outcome.ABORTED, STOPPED, now_ns)
        self.life, self._stop_shuts_down = Life.STOPPING, event.shut_down
        return [*reported, *self.pipeline.stop(), fx.StandDown(STOPPED, hand_over=False)]

    def _on_stand_down_settled(self, _: ev.StandDownSettled, __: int) -> list[Effect]:
        """Nobody may promote any more: what the guest said last may leave."""
        self.bar, self.link = Bar.BARRED, Link.DOWN
        passed = self._pass_output()
        if self._stop_shuts_down:
            self.life = Life.ENDED
            return [*passed, fx.EndGuest(graceful=True)]
        self.life = Life.UNPROTECTED
        return passed

    # Switchover.

    @property
    def is_movable(self) -> bool:
        """Whether there is a replica to go on with the guest, and a secondary to be told so."""
        agreed = self.life is Life.RUNNING and self.bar is Bar.LIFTED and self.link is Link.READY
        return agreed and not self.peer_silent and self.pipeline.running

    def _on_switchover_ordered(self, event: ev.SwitchoverOrdered, now_ns: int) -> list[Effect]:
        obstacle = "" if self.is_movable else self.trouble or "the guest is not protected"
        return self.move.order(event.policy, now_ns, obstacle=obstacle)

    def _on_output_left(self, event: ev.OutputLeft, now_ns: int) -> list[Effect]:
        if not self.move.left(event.epoch):
            return []
        self.life = Life.HANDING_OVER
        self.hand_over = HandOver(self.session, event.epoch, has_arbiter=self._settings.has_arbiter)
        return [fx.CancelTimer(Timer.MOVE), *self.hand_over.begin(now_ns)]

    def _hand_over(self, event: ev.Event, now_ns: int) -> list[Effect]:
        """Every event while this side is mute, paused, and the guest not known to be anybody else's."""
        hand_over = self._under_way()
        if isinstance(event, ev.LeaseTaken):
            return self._on_lease_taken(event, now_ns)
        if isinstance(event, ev.StopOrdered):
            self.life, self.trouble = Life.ENDED, STOPPED
            return [*self.move.end(Outcome.ENDED, STOPPED, now_ns), fx.EndGuest(graceful=False)]
        if isinstance(event, ev.LinkLost):
            self.link = Link.DOWN
        effects = hand_over.handle(event, now_ns)
        self.trouble = hand_over.trouble or hand_over.stage.value
        if hand_over.stage in (Stage.MOVED, Stage.LEFT):
            self.life = Life.MOVED
            outcome = Outcome.MOVED if hand_over.stage is Stage.MOVED else Outcome.ENDED
            return [*self.move.end(outcome, hand_over.trouble, now_ns), *effects]
        return [*effects, *self._run_again(now_ns)] if hand_over.stage is Stage.TAKEN_BACK else effects

    def _under_way(self) -> HandOver:
        if self.hand_over is None:
            raise InvariantError("no hand-over has begun")
        return self.hand_over

    def _run_again(self, now_ns: int) -> list[Effect]:
        """The guest is this side's again. In a term of its own it is alone: the replica it had was handed back with it."""
        hand_over = self._under_way()
        self.life = Life.RUNNING
        if not hand_over.same_term:
            self.bar = Bar.BARRED
        reported = self.move.end(Outcome.TAKEN_BACK, hand_over.trouble, now_ns)
        return [*reported, *self._leave_session(now_ns), fx.Reconnect()]
