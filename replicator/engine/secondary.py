"""Secondary side of a pair: takes epochs into the store, and takes the guest over when the arbiter grants it.

    EMPTY --full epoch committed--> WHOLE --PeerSilent--> ASKING --TakeOverGranted--> PROMOTING --> PROMOTED
    any --HelloReceived of another session--> EMPTY          ASKING --TakeOverRefused--> WHOLE, barred
    WHOLE --HandOverReceived--> ASKING, until it is granted, refused, or the primary runs the guest again

Rules: 1. Only a WHOLE replica asks for the guest. 2. An ack is sent after the commit, never before. 3. An epoch counts
only if its session is the agreed one and its base is what was committed last. 4. A primary that did not say whose
successor it is may not make us throw a promotable replica away. 5. Who stood down never promotes by itself. 6. In COLO
a VM runs on the replica (secondary_vm.py): what it was an epoch of is then only where it came from. 7. That a replica
is lost is told with each beat of the primary until it greets anew: it may wait for no other word of ours for long.
This file does not know what carries messages, how the store keeps its promises, or which guest waits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from replicator.engine import effects as fx
from replicator.engine import events as ev
from replicator.engine.effects import Effect, Timer
from replicator.engine.secondary_vm import VmKeeper
from replicator.units import NS_PER_MS, Epoch

RETRY_TAKE_OVER_NS = 10 * NS_PER_MS
NO_EPOCH = Epoch(0)


class Replica(Enum):
    EMPTY = "empty"
    WHOLE = "whole"


class Life(Enum):
    FOLLOWING = "following"
    ASKING = "asking"
    PROMOTING = "promoting"
    PROMOTED = "promoted"
    STOOD_DOWN = "stood down"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Holding:
    """What the store had at start: the newest whole epoch, or nothing."""

    session: bytes = b""
    term: int = 0
    epoch: Epoch = NO_EPOCH
    digest: bytes = b""


class SecondaryMachine:
    """`handle(event, now_ns)` returns the effects of one event."""

    def __init__(self, holding: Holding, *, has_arbiter: bool = True) -> None:
        self._has_arbiter = has_arbiter
        self.session, self.term = holding.session, holding.term
        self.committed, self.digest = holding.epoch, holding.digest
        self.life = Life.FOLLOWING
        #: Why this side would not or could not take over, "" if it could.
        self.trouble = "" if holding.epoch else "no epoch was committed yet"
        self.primary_alive = False
        #: The arbiter refused this replica; only a new epoch changes that.
        self.barred = False
        self._heard_since_barred = False
        #: The epoch at which the primary has handed over, while that is not settled.
        self._handed: Epoch | None = None
        self._open: Epoch | None = None
        #: Whether the open epoch is one that our VM runs on from.
        self._runs_vm = False
        self.vm = VmKeeper()
        #: Says that the replica was lost with its VM, None once the primary is known to have heard so.
        self._loss: fx.SendAbort | None = None
        self._next_part = 0
        self._input_seq = 0
        self._handlers: dict[type[ev.Event], Callable[[Any, int], list[Effect]]] = {
            ev.HelloReceived: self._on_hello,
            ev.EpochBegun: self._on_begun,
            ev.PartReceived: self._on_part,
            ev.EpochEnded: self._on_ended,
            ev.EpochCommitted: self._on_committed,
            ev.EpochFailed: self._on_failed,
            ev.BulkBroken: self._on_bulk_broken,
            ev.LinkLost: self._on_link_lost,
            ev.PeerSilent: self._on_peer_silent,
            ev.PeerSpoke: self._on_peer_spoke,
            ev.StoodDown: self._on_stood_down,
            ev.HandOverReceived: self._on_hand_over,
            ev.SuspendOrdered: self._on_suspend_ordered,
            ev.VmLoaded: lambda _, __: self.vm.loaded(self.session, self.committed),
            ev.VmResumed: lambda _, __: self.vm.resumed(self.session, self.committed),
            ev.VmFailed: self._on_vm_failed,
            ev.PromoteOrdered: self._on_promote_ordered,
            ev.RetryDue: self._on_retry_due,
            ev.TakeOverGranted: self._on_granted,
            ev.TakeOverPostponed: self._on_postponed,
            ev.TakeOverRefused: self._on_refused,
            ev.GuestActivated: self._on_activated,
            ev.ActivationFailed: self._on_activation_failed,
        }

    @property
    def replica(self) -> Replica:
        return Replica.WHOLE if self.committed else Replica.EMPTY

    @property
    def receiving(self) -> Epoch | None:
        """The epoch that is arriving."""
        return self._open

    def handle(self, event: ev.Event, now_ns: int) -> list[Effect]:
        if self.life in (Life.PROMOTING, Life.PROMOTED, Life.FAILED) and not isinstance(
            event, ev.GuestActivated | ev.ActivationFailed
        ):
            return self._turn_away(event)
        return self._handlers[type(event)](event, now_ns)

    def _turn_away(self, event: ev.Event) -> list[Effect]:
        if isinstance(event, ev.HelloReceived):
            return [fx.Refuse("stale-term", f"this side took the guest over in term {self.term}")]
        return []

    # Session.

    def _on_hello(self, event: ev.HelloReceived, _: int) -> list[Effect]:
        if event.mismatch:
            return [fx.Refuse("wrong-guest", event.mismatch)]
        if event.term < self.term:
            return [
                fx.Refuse("stale-term", f"term {event.term} is over, this side knows of term {self.term}")
            ]
        effects = self._abort_open()
        if event.session != self.session:
            if self.committed and event.term != self.term and not event.may_discard:
                return [*effects, fx.Refuse("has-replica", self._describe_replica())]
            effects += self._discard("a new synchronisation begins")
            self.session = event.session
        self.term = event.term
        self.life, self.primary_alive, self._handed, self._loss = Life.FOLLOWING, True, None, None
        return [*effects, fx.CancelTimer(Timer.RETRY), fx.Accept(self.session, self.committed, self.digest)]

    def _describe_replica(self) -> str:
        return f"a promotable replica of term {self.term}, epoch {self.committed} would be lost"

    def _discard(self, reason: str) -> list[Effect]:
        self.committed, self.digest, self.trouble = Epoch(0), b"", reason
        return [*self.vm.end(), fx.DiscardReplica(reason)]

    def _on_link_lost(self, _: ev.LinkLost, __: int) -> list[Effect]:
        return self._abort_open()

    def _abort_open(self) -> list[Effect]:
        if self._open is None:
            return []
        self._open = None
        return [fx.AbortStore()]

    # Epochs.

    def _on_begun(self, event: ev.EpochBegun, _: int) -> list[Effect]:
        if event.session != self.session or event.term != self.term:
            return []
        effects = [*self._forget_hand_over(event.epoch), *self._abort_open()]
        if self.life is not Life.FOLLOWING:
            return []
        if event.base != self.committed or event.epoch <= self.committed:
            detail = f"it builds upon epoch {event.base}, this side holds epoch {self.committed}"
            return [*effects, fx.SendAbort(self.session, event.epoch, detail)]
        self._open, self._next_part, self._runs_vm = event.epoch, 0, event.runs_vm
        begin = fx.BeginStore(self.term, event.epoch, self.session, full=event.base == 0)
        return [*effects, *self.vm.stand_still(), begin]

    def _on_part(self, event: ev.PartReceived, _: int) -> list[Effect]:
        if event.session != self.session or event.epoch != self._open:
            return []
        if event.index != self._next_part:
            return self._give_up(f"part {event.index} came where part {self._next_part} was due")
        self._next_part += 1
        return [fx.StorePart(event.epoch, event.index)]

    def _on_ended(self, event: ev.EpochEnded, _: int) -> list[Effect]:
        if event.session != self.session or event.epoch != self._open:
            return []
        self._input_seq = event.input_seq
        return [fx.CommitEpoch(event.epoch, event.parts, event.size, event.digest)]

    def _on_committed(self, event: ev.EpochCommitted, _: int) -> list[Effect]:
        self._open = None
        self.committed, self.digest = event.epoch, event.digest
        self.trouble, self.barred = "", False
        acked = [fx.SendAck(self.session, event.epoch, event.digest), fx.TrimInputs(self._input_seq)]
        return [*acked, *self.vm.committed(event.epoch, runs=self._runs_vm)]

    def _on_failed(self, event: ev.EpochFailed, _: int) -> list[Effect]:
        if event.epoch != self._open:
            return []
        return self._give_up(event.reason)

    def _on_bulk_broken(self, event: ev.BulkBroken, _: int) -> list[Effect]:
        """Which epoch it was is not known if none is open: none of those under way will arrive."""
        if not self.session:
            return []
        if self._open is None:
            return [fx.SendAbort(self.session, Epoch(self.committed + 1), event.reason)]
        return self._give_up(event.reason)

    def _give_up(self, reason: str) -> list[Effect]:
        epoch, self._open = self._open, None
        if epoch is None:
            return []
        self.trouble = reason if not self.committed else self.trouble
        return [fx.AbortStore(), fx.SendAbort(self.session, epoch, reason)]

    # COLO.

    def _on_suspend_ordered(self, event: ev.SuspendOrdered, _: int) -> list[Effect]:
        if event.session != self.session or self.life is not Life.FOLLOWING or event.epoch <= self.committed:
            return []
        return self.vm.ordered(event.session, event.epoch)

    def _on_vm_failed(self, event: ev.VmFailed, _: int) -> list[Effect]:
        if not self.vm.owns_replica:
            return self.vm.end()
        aborted = self._abort_open()
        self._loss = told = fx.SendAbort(self.session, Epoch(self.committed + 1), event.reason)
        return [*aborted, *self._discard(event.reason), told]

    # Taking over.

    def _on_hand_over(self, event: ev.HandOverReceived, _: int) -> list[Effect]:
        if why := self._why_not_handed(event):
            return [fx.AnswerHandOver(event.session, event.epoch, False, why)]
        self._handed = event.epoch
        # Without an arbiter the primary's word is the grant.
        return [*self._abort_open(), *self._ask(force=not self._has_arbiter)]

    def _why_not_handed(self, event: ev.HandOverReceived) -> str:
        if (event.session, event.term) != (self.session, self.term):
            return f"this side follows another session, of term {self.term}"
        if event.epoch != self.committed:
            return f"this side holds epoch {self.committed}, not epoch {event.epoch}"
        if self.life not in (Life.FOLLOWING, Life.ASKING):
            return f"this side is {self.life.value}"
        return self.trouble if self.barred else ""

    def _forget_hand_over(self, begun: Epoch) -> list[Effect]:
        """The primary runs the guest again if it has begun an epoch after the one at which it had handed over."""
        if self._handed is None or begun <= self._handed:
            return []
        self._handed, self.life = None, Life.FOLLOWING
        return [fx.CancelTimer(Timer.RETRY)]

    def _on_peer_silent(self, _: ev.PeerSilent, __: int) -> list[Effect]:
        self.primary_alive = False
        if (
            not self._has_arbiter
            or self.life is not Life.FOLLOWING
            or not self.committed
            or self._is_still_barred
        ):
            return self._abort_open()
        return [*self._abort_open(), *self._ask(force=False)]

    @property
    def _is_still_barred(self) -> bool:
        """As far as is known: a primary that came back for a moment may have lifted the bar."""
        return self.barred and not self._heard_since_barred

    def _ask(self, *, force: bool) -> list[Effect]:
        self.life = Life.ASKING
        return [fx.TakeOver(self.session, self.committed, force)]

    def _on_peer_spoke(self, _: ev.PeerSpoke, __: int) -> list[Effect]:
        self.primary_alive = self._heard_since_barred = True
        # What was said of it may not have arrived, and the primary would count on what is not there.
        told = [] if self._loss is None else [self._loss]
        if self.life is not Life.ASKING or self._handed is not None:
            return [*told]
        self.life = Life.FOLLOWING
        return [fx.CancelTimer(Timer.RETRY), *told]

    def _on_retry_due(self, _: ev.RetryDue, __: int) -> list[Effect]:
        return self._ask(force=False) if self.life is Life.ASKING and self.committed else []

    def _on_granted(self, event: ev.TakeOverGranted, _: int) -> list[Effect]:
        """Whatever was heard meanwhile, the guest is ours now: the other side is mute."""
        self.term, self.life = event.term, Life.PROMOTING
        effects = [*self._abort_open(), fx.CancelTimer(Timer.RETRY)]
        if self.vm.owns_replica:
            return [*effects, fx.ActivateVm(self.committed)]
        return [*effects, *self.vm.end(), fx.ActivateGuest(self.committed)]

    def _on_postponed(self, event: ev.TakeOverPostponed, now_ns: int) -> list[Effect]:
        if self.life is not Life.ASKING:
            return []
        self.trouble = event.reason
        return [fx.ArmTimer(Timer.RETRY, now_ns + RETRY_TAKE_OVER_NS)]

    def _on_refused(self, event: ev.TakeOverRefused, _: int) -> list[Effect]:
        if self.life is Life.ASKING:
            self.life = Life.FOLLOWING
        self.trouble, self.barred, self._heard_since_barred = event.reason, True, False
        return self._answer_handed(False, event.reason)

    def _answer_handed(self, taken: bool, detail: str) -> list[Effect]:
        handed, self._handed = self._handed, None
        return [] if handed is None else [fx.AnswerHandOver(self.session, handed, taken, detail)]

    def _on_promote_ordered(self, event: ev.PromoteOrdered, _: int) -> list[Effect]:
        if not self.committed or (self.primary_alive and not event.force):
            return []
        return [*self._abort_open(), *self._ask(force=True)]

    def _on_stood_down(self, event: ev.StoodDown, _: int) -> list[Effect]:
        self.life, self._loss = Life.STOOD_DOWN, None
        return [*self._abort_open(), *self._discard(event.reason)]

    def _on_activated(self, _: ev.GuestActivated, __: int) -> list[Effect]:
        self.life, self.trouble = Life.PROMOTED, ""
        return self._answer_handed(True, "")

    def _on_activation_failed(self, event: ev.ActivationFailed, _: int) -> list[Effect]:
        self.life, self.trouble = Life.FAILED, event.reason
        failed = fx.EndFailed(event.reason)
        if self._handed is None or event.may_have_run:
            # Whoever keeps an older state of a guest that ran must not hear that it did not.
            return [failed]
        back = fx.HandBack(self.session, self._handed)
        return [back, *self._answer_handed(False, event.reason), failed]
