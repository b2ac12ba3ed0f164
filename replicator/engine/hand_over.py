"""The hand-over of a paused guest whose last epoch is committed, and what becomes of it when something fails.

    RECORDING --HandOverRecorded--> OFFERED --taken--> MOVED
        | unknown for too long         | refused, silent, link lost
        +--------> TAKING_BACK <-------+
                     | given back -> TAKEN_BACK: it runs here again
                     | refused    -> TAKEN: waits for the other side's word that it runs
    any, when the paused guest dies and the hand-over is recorded -> LEFT to the replica

From the first moment on this side is mute, for its lease is given up, and only the arbiter's answer to `TakeBack` ends
that. It keeps the guest, whose state is exactly the replica's, until the other side is known to run its own: a planned
move never loses the guest to one failure. Whether it is taken over or taken back is one record at the arbiter, so never
both. Without an arbiter the word of the other side is all there is: while it is missing, only the operator decides.

This file does not know how the guest came to stand still, nor what it does once it runs again.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

from replicator.engine import effects as fx
from replicator.engine import events as ev
from replicator.engine.effects import Effect, Timer
from replicator.units import NS_PER_MS, Epoch

RETRY_NS = 50 * NS_PER_MS
#: Between two looks whether who has taken over has handed back.
LOOK_NS = 250 * NS_PER_MS
#: How long the record is tried, and then the secondary's word is waited for, before the guest is wanted back.
PATIENCE_NS = 1_000 * NS_PER_MS


class Stage(Enum):
    RECORDING = "recording the hand-over"
    OFFERED = "the other side takes over"
    TAKING_BACK = "taking the guest back"
    TAKEN = "the other side has taken over, and has not said that the guest runs"
    # The ends.
    MOVED = "moved"
    TAKEN_BACK = "taken back"
    LEFT = "left to the replica"


class HandOver:
    """`begin`, then `handle` until `stage` is one of its ends."""

    def __init__(self, session: bytes, epoch: Epoch, *, has_arbiter: bool) -> None:
        self.stage = Stage.RECORDING
        self.session, self.epoch = session, epoch
        #: What went wrong, "" while nothing has.
        self.trouble = ""
        #: How it was taken back: nobody else ever had it.
        self.same_term = True
        self._has_arbiter = has_arbiter
        self._guest_died = False
        self._give_up_ns = 0
        self._handlers: dict[type[ev.Event], Callable[[Any, int], list[Effect]]] = {
            ev.HandOverRecorded: self._on_recorded,
            ev.HandOverAnswered: self._on_answered,
            ev.PeerLeads: lambda _, __: self._leave(Stage.MOVED),
            ev.MoveOverdue: lambda _, __: self._doubt("the secondary does not answer"),
            ev.RetryDue: self._on_retry_due,
            ev.ArbiterFailed: self._on_arbiter_failed,
            ev.LinkUp: self._on_link_up,
            ev.LinkLost: lambda event, _: self._doubt(event.reason),
            ev.PeerSilent: lambda _, __: self._doubt("the secondary is silent"),
            ev.GuestTakenBack: self._on_taken_back,
            ev.TakeBackRefused: self._on_refused,
            ev.TakeBackOrdered: self._on_ordered_back,
            ev.GuestEnded: self._on_guest_ended,
        }

    def begin(self, now_ns: int) -> list[Effect]:
        self._give_up_ns = now_ns + PATIENCE_NS
        return [fx.HandOver(self.session, self.epoch)]

    def handle(self, event: ev.Event, now_ns: int) -> list[Effect]:
        """Effects of one event; of one that means nothing here, none."""
        handler = self._handlers.get(type(event))
        return [] if handler is None else handler(event, now_ns)

    # Recorded?

    def _on_recorded(self, _: ev.HandOverRecorded, now_ns: int) -> list[Effect]:
        if self.stage is not Stage.RECORDING:
            return []
        if self._guest_died:
            return self._leave(Stage.LEFT)
        self.stage = Stage.OFFERED
        return [
            fx.CancelTimer(Timer.RETRY),
            fx.OfferGuest(self.session, self.epoch),
            fx.ArmTimer(Timer.MOVE, now_ns + PATIENCE_NS),
        ]

    def _on_arbiter_failed(self, event: ev.ArbiterFailed, now_ns: int) -> list[Effect]:
        """Recorded or not, given back or not: it is asked again, mute meanwhile."""
        if self.stage not in (Stage.RECORDING, Stage.TAKING_BACK):
            return []
        self.trouble = event.reason
        return [fx.ArmTimer(Timer.RETRY, now_ns + RETRY_NS)]

    def _on_retry_due(self, _: ev.RetryDue, now_ns: int) -> list[Effect]:
        if self.stage is Stage.RECORDING and (now_ns < self._give_up_ns or self._guest_died):
            return [fx.HandOver(self.session, self.epoch)]
        if self.stage is Stage.OFFERED:
            return []
        return self._take_back("the arbiter does not say whether the hand-over is recorded")

    # Taken?

    def _on_answered(self, event: ev.HandOverAnswered, _: int) -> list[Effect]:
        if event.epoch != self.epoch:
            return []
        if event.taken:
            return self._leave(Stage.MOVED)
        if self.stage is not Stage.OFFERED:
            return []
        return self._take_back(f"the secondary does not take over: {event.detail}")

    def _on_link_up(self, _: ev.LinkUp, __: int) -> list[Effect]:
        return [fx.OfferGuest(self.session, self.epoch)] if self.stage is Stage.OFFERED else []

    def _doubt(self, reason: str) -> list[Effect]:
        """It may run there or not. The arbiter can tell; without one nobody can but the operator."""
        if self.stage is not Stage.OFFERED:
            return []
        if not self._has_arbiter:
            self.trouble = (
                f"{reason}; see whether the guest runs there: `promote` here takes it back if it does not"
            )
            return []
        return self._take_back(reason)

    def _leave(self, end: Stage) -> list[Effect]:
        self.stage = end
        return [fx.CancelTimer(Timer.MOVE), fx.CancelTimer(Timer.RETRY), fx.LeaveGuest()]

    # Back.

    def _take_back(self, reason: str, *, force: bool = False) -> list[Effect]:
        self.stage = Stage.TAKING_BACK
        self.trouble = self.trouble or reason
        return [fx.CancelTimer(Timer.MOVE), fx.TakeBack(self.session, self.epoch, force)]

    def _on_taken_back(self, event: ev.GuestTakenBack, _: int) -> list[Effect]:
        if self.stage is not Stage.TAKING_BACK:
            return []
        self.stage, self.same_term = Stage.TAKEN_BACK, event.same_term
        return [fx.CancelTimer(Timer.RETRY)]

    def _on_refused(self, event: ev.TakeBackRefused, now_ns: int) -> list[Effect]:
        """Final, unless who has it hands it back: that is looked for until its guest is heard of."""
        if self.stage is not Stage.TAKING_BACK:
            return []
        self.stage, self.trouble = Stage.TAKEN, event.reason
        return [fx.ArmTimer(Timer.RETRY, now_ns + LOOK_NS)]

    def _on_ordered_back(self, _: ev.TakeBackOrdered, __: int) -> list[Effect]:
        if self.stage not in (Stage.OFFERED, Stage.TAKEN):
            return []
        return self._take_back("the operator takes the guest back", force=True)

    def _on_guest_ended(self, event: ev.GuestEnded, _: int) -> list[Effect]:
        """There is nothing to take back any more; the replica is all that is left, if the arbiter is told so."""
        self._guest_died, self.trouble = True, event.reason
        return [] if self.stage is Stage.RECORDING else self._leave(Stage.LEFT)
