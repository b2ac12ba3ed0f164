"""What a daemon writes into its journal: the events and effects of its machines, as they are handled.

The runners hand over each event before the machine gets it, and each effect before it is carried out. One table says
which line it makes; what a line must say and the event does not (a session, a term) is remembered from the lines
before. What repeats while nothing changes is said once. This file decides nothing and knows no file.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from replicator.arbiter.base import Lease
from replicator.arbiter.keeper import LeaseDeadline
from replicator.clock import Clock
from replicator.engine import effects as fx
from replicator.engine import events as ev
from replicator.observe.journal import Journal
from replicator.service.epoch_writer import Sealed
from replicator.units import Epoch

#: A line: the event's name and its fields.
Line = tuple[str, dict[str, Any]]
Watch = Callable[[object], None]


def _of_session(happened: Any) -> dict[str, Any]:
    return {"session": happened.session.hex(), "epoch": happened.epoch}


#: Lines that need nothing but the event or effect itself.
_PLAIN: Final[dict[type, Callable[[Any], Line]]] = {
    ev.LinkUp: lambda _: ("link-up", {}),
    ev.LinkLost: lambda e: ("link-down", {"reason": e.reason}),
    ev.PeerAccepted: lambda e: (
        "accepted", {"session": e.session.hex(), "epoch": e.committed, "digest": e.digest.hex()}
    ),
    ev.PeerRefused: lambda e: ("refused", {"code": e.code, "detail": e.detail}),
    ev.PauseOverrun: lambda e: ("overrun", {"epoch": e.epoch, "dirty_pages": e.dirty_pages}),
    ev.GuestResumed: lambda e: ("resumed", {"epoch": e.epoch}),
    ev.ResumeDenied: lambda e: ("denied", {"epoch": e.epoch}),
    ev.StepFailed: lambda e: ("failed", {"epoch": e.epoch, "reason": e.reason}),
    ev.EpochAcked: lambda e: (
        "acked", {"session": e.session.hex(), "epoch": e.epoch, "digest": e.digest.hex()}
    ),
    ev.EpochRefused: lambda e: ("not-committed", {"epoch": e.epoch, "detail": e.detail}),
    ev.AloneGranted: lambda _: ("alone", {}),
    ev.BarLifted: lambda _: ("lifted", {}),
    ev.LeaseLapsed: lambda e: ("lapsed", {"reason": e.reason}),
    ev.LeaseRegained: lambda _: ("regained", {}),
    ev.LeaseTaken: lambda e: ("lost", {"reason": e.reason}),
    ev.GuestEnded: lambda e: ("guest-ended", {"reason": e.reason, "died": e.died}),
    ev.StopOrdered: lambda e: ("stopping", {"shut_down": e.shut_down}),
    ev.TuneOrdered: lambda e: ("tuned", {"retry": e.retry}),
    ev.StandDownSettled: lambda _: ("stood-down", {}),
    ev.EpochFailed: lambda e: ("failed", {"epoch": e.epoch, "reason": e.reason}),
    ev.StoodDown: lambda e: ("told-to-stand-down", {"reason": e.reason}),
    ev.TakeOverRefused: lambda e: ("not-granted", {"reason": e.reason}),
    ev.ActivationFailed: lambda e: ("not-activated", {"reason": e.reason}),
    fx.OpenEpoch: lambda e: ("opened", {"epoch": e.epoch, "base": e.base, "runs_vm": e.runs_vm}),
    fx.AbandonEpoch: lambda e: ("abandoned", {"epoch": e.epoch}),
    fx.ReleaseOutput: lambda e: ("released", {"epoch": e.epoch}),
    fx.RequestAlone: lambda _: ("asking-alone", {}),
    fx.LiftBar: lambda e: ("lifting", {"session": e.session.hex(), "epoch": e.epoch}),
    fx.Fence: lambda e: ("fenced", {"reason": e.reason}),
    fx.StandDown: lambda e: ("standing-down", {"hand_over": e.hand_over, "reason": e.reason}),
    fx.Refuse: lambda e: ("refusing", {"code": e.code, "detail": e.detail}),
    fx.DiscardReplica: lambda e: ("discarding", {"reason": e.reason}),
    fx.SendAck: lambda e: (
        "acking", {"session": e.session.hex(), "epoch": e.epoch, "digest": e.digest.hex()}
    ),
    ev.SwitchoverOrdered: lambda e: ("moving", {"max_downtime_ns": e.policy.max_downtime_ns}),
    ev.HandOverRecorded: lambda _: ("handed-over", {}),
    ev.HandOverAnswered: lambda e: (
        "offer-answered", {"epoch": e.epoch, "taken": e.taken, "detail": e.detail}
    ),
    ev.TakeBackRefused: lambda e: ("not-taken-back", {"reason": e.reason}),
    ev.HandOverReceived: lambda e: (
        "offered", {"session": e.session.hex(), "term": e.term, "epoch": e.epoch}
    ),
    fx.AwaitOutput: lambda e: ("emptying", {"epoch": e.epoch}),
    fx.HandOver: lambda e: ("handing-over", {"session": e.session.hex(), "epoch": e.epoch}),
    fx.OfferGuest: lambda e: ("offering", {"session": e.session.hex(), "epoch": e.epoch}),
    fx.TakeBack: lambda e: (
        "taking-back", {"session": e.session.hex(), "epoch": e.epoch, "force": e.force}
    ),
    fx.LeaveGuest: lambda _: ("leaving", {}),
    fx.ReportMove: lambda e: (
        "move",
        {
            "outcome": e.report.outcome.value,
            "reason": e.report.reason,
            "downtime_ns": e.report.downtime_ns,
            "promised_ns": e.report.promised_ns,
        },
    ),
    fx.AnswerHandOver: lambda e: (
        "answering-offer", {"epoch": e.epoch, "taken": e.taken, "detail": e.detail}
    ),
    fx.HandBack: lambda e: ("handing-back", {"session": e.session.hex(), "epoch": e.epoch}),
    fx.AbortStore: lambda _: ("aborted", {}),
    fx.SendAbort: lambda e: (
        "aborting", {"session": e.session.hex(), "epoch": e.epoch, "detail": e.detail}
    ),
    ev.CheckpointAsked: lambda e: (
        "checkpoint-asked", {"epoch": e.epoch, "difference": e.is_difference}
    ),
    ev.SecondaryVmSuspended: lambda e: ("vm-suspended", _of_session(e)),
    ev.SecondaryVmResumed: lambda e: ("vm-resumed", _of_session(e)),
    ev.ChannelLost: lambda e: ("channel-lost", {"reason": e.reason}),
    fx.SuspendSecondaryVm: lambda e: ("suspending-vm", _of_session(e)),
    fx.CompareOutput: lambda e: ("comparing", {"epoch": e.epoch}),
    fx.StopComparing: lambda _: ("not-comparing", {}),
    ev.SuspendOrdered: lambda e: ("suspend-ordered", _of_session(e)),
    ev.VmFailed: lambda e: ("vm-failed", {"reason": e.reason}),
    fx.SuspendVm: lambda _: ("vm-suspending", {}),
    fx.TellVmSuspended: lambda e: ("answering-suspend", _of_session(e)),
    fx.LoadVm: lambda e: ("vm-loading", {"epoch": e.epoch}),
    fx.RunVm: lambda e: ("vm-starting", {"epoch": e.epoch}),
    fx.TellVmState: lambda e: ("vm-running" if e.runs else "vm-ready", _of_session(e)),
    fx.EndVm: lambda _: ("vm-ending", {}),
}  # fmt: skip


class Chronicle:
    """Writes the journal of one daemon, over all its roles. `watch` is what the runners call, in their thread."""

    def __init__(self, journal: Journal, deadline: LeaseDeadline, clock: Clock) -> None:
        self._journal = journal
        self._deadline = deadline
        self._clock = clock
        self._is_silent = False
        self._is_holding = False
        self._pausing = fx.PauseGuest(Epoch(0), hold=False)
        #: Session of the primary's epochs.
        self._session = b""
        self._sending = Epoch(0)
        self._hello_term = 0
        self._begun: fx.BeginStore | None = None
        #: Of the epoch that is about to begin.
        self._runs_vm = False
        self._committing: fx.CommitEpoch | None = None
        self._asking: fx.TakeOver | None = None
        self._term = 0
        #: What was said last of things that repeat: kind -> text without its numbers.
        self._said: dict[str, str] = {}
        self._told_deadline_ns = 0
        self._remembering: dict[type, Callable[[Any], None]] = {
            ev.PeerSilent: lambda _: self._tell_heard(is_silent=True),
            ev.PeerSpoke: lambda _: self._tell_heard(is_silent=False),
            fx.Greet: self._greet,
            fx.PauseGuest: self._pause,
            ev.GuestPaused: self._tell_paused,
            fx.PassOutput: self._tell_passing,
            fx.SendEpoch: self._note_sending,
            Sealed: self._tell_sealed,
            ev.GuestTakenBack: self._tell_taken_back,
            ev.ArbiterFailed: lambda e: self._tell_change("arbiter-failed", e.reason),
            ev.HelloReceived: self._tell_hello,
            fx.Accept: self._tell_accepting,
            ev.EpochBegun: self._note_arriving,
            fx.BeginStore: self._tell_begun,
            fx.CommitEpoch: self._note_committing,
            ev.EpochCommitted: self._tell_committed,
            fx.TakeOver: self._tell_asking,
            ev.TakeOverGranted: self._tell_granted,
            ev.TakeOverPostponed: lambda e: self._tell_change("postponed", e.reason),
            fx.ActivateGuest: lambda e: self._tell_activating(e.epoch, vm=False),
            fx.ActivateVm: lambda e: self._tell_activating(e.epoch, vm=True),
        }

    def watch(self, happened: object) -> None:
        """An event that is about to be handled, or an effect that is about to be carried out."""
        if not self._journal.is_open:
            return
        kind = type(happened)
        if (plain := _PLAIN.get(kind)) is not None:
            name, fields = plain(happened)
            self._say(name, **fields)
        elif (remember := self._remembering.get(kind)) is not None:
            remember(happened)

    # What the daemon tells itself.

    def tell_secondary(self, term: int, session: bytes, epoch: int, digest: bytes) -> None:
        """A secondary begins, with what its store holds."""
        self._say("secondary", term=term, session=session.hex(), epoch=epoch, digest=digest.hex())

    def tell_primary(self, lease: Lease, *, promoted: bool) -> None:
        """This side has a new term and may run the guest."""
        self._is_holding, self._is_silent, self._term = False, False, lease.term
        self._said.pop("arbiter-failed", None)
        deadline_ns = self._told_deadline_ns = lease.deadline_boottime_ns
        now_ns = self._clock.boottime_ns()
        self._say("primary", term=lease.term, promoted=promoted, deadline_ns=deadline_ns, boottime_ns=now_ns)

    def tell_running(self, epoch: int, replayed_inputs: int) -> None:
        """The guest that was taken over runs here."""
        self._say("running", term=self._term, epoch=epoch, replayed_inputs=replayed_inputs)

    def tell_ended(self, reason: str) -> None:
        self._say("ended", reason=reason)

    def tick(self, word: str) -> None:
        """Called some times in each lease: what may have changed without an event."""
        self._tell_change("state", word, field="word")
        deadline_ns = self._deadline.deadline_ns
        if deadline_ns and deadline_ns != self._told_deadline_ns:
            self._told_deadline_ns = deadline_ns
            now_ns = self._clock.boottime_ns()
            self._say("lease", term=self._term, deadline_ns=deadline_ns, boottime_ns=now_ns)

    # Lines with a memory.

    def _say(self, name: str, **fields: Any) -> None:
        self._journal.say(name, **fields)

    def _tell_change(self, name: str, text: str, *, field: str = "reason") -> None:
        coarse = re.sub(r"\d+", "", text)
        if self._said.get(name) != coarse:
            self._said[name] = coarse
            self._say(name, **{field: text})

    def _tell_heard(self, *, is_silent: bool) -> None:
        if is_silent is not self._is_silent:
            self._is_silent = is_silent
            self._say("silent" if is_silent else "heard")

    def _greet(self, effect: fx.Greet) -> None:
        self._session = effect.session
        self._say("greeting", session=effect.session.hex())

    def _pause(self, effect: fx.PauseGuest) -> None:
        self._pausing = effect
        self._say("pausing", epoch=effect.epoch)

    def _tell_paused(self, event: ev.GuestPaused) -> None:
        if self._pausing.hold and not self._is_holding:
            self._is_holding = True
            self._say("holding", epoch=event.epoch)
        self._say("paused", epoch=event.epoch, dirty_pages=event.dirty_pages)

    def _tell_taken_back(self, event: ev.GuestTakenBack) -> None:
        """With the deadline that the keeper has published: from now on this side may speak again."""
        self._term = event.term
        deadline_ns = self._told_deadline_ns = self._deadline.deadline_ns
        now_ns = self._clock.boottime_ns()
        self._say(
            "taken-back",
            same_term=event.same_term,
            term=event.term,
            deadline_ns=deadline_ns,
            boottime_ns=now_ns,
        )

    def _tell_passing(self, _: fx.PassOutput) -> None:
        self._is_holding = False
        self._say("passing")

    def _note_sending(self, effect: fx.SendEpoch) -> None:
        self._sending = effect.epoch

    def _tell_sealed(self, sealed: Sealed) -> None:
        self._say(
            "sealed",
            session=self._session.hex(),
            epoch=self._sending,
            digest=sealed.digest.hex(),
            parts=sealed.parts,
            bytes=sealed.size,
        )

    def _tell_hello(self, event: ev.HelloReceived) -> None:
        self._hello_term = event.term
        self._say("hello", session=event.session.hex(), term=event.term, mismatch=event.mismatch)

    def _tell_accepting(self, effect: fx.Accept) -> None:
        self._say(
            "accepting",
            session=effect.session.hex(),
            term=self._hello_term,
            epoch=effect.committed,
            digest=effect.digest.hex(),
        )

    def _note_arriving(self, event: ev.EpochBegun) -> None:
        self._runs_vm = event.runs_vm

    def _tell_begun(self, effect: fx.BeginStore) -> None:
        self._begun = effect
        self._say(
            "begun",
            session=effect.session.hex(),
            term=effect.term,
            epoch=effect.epoch,
            full=effect.full,
            runs_vm=self._runs_vm,
        )

    def _note_committing(self, effect: fx.CommitEpoch) -> None:
        self._committing = effect

    def _tell_committed(self, event: ev.EpochCommitted) -> None:
        begun, committing = self._begun, self._committing
        if begun is None or committing is None:
            return
        self._say(
            "committed",
            session=begun.session.hex(),
            term=begun.term,
            epoch=event.epoch,
            digest=event.digest.hex(),
            parts=committing.parts,
            bytes=committing.size,
        )

    def _tell_asking(self, effect: fx.TakeOver) -> None:
        """It is repeated until there is an answer that counts."""
        if effect != self._asking:
            self._asking = effect
            self._said.pop("postponed", None)
            self._say("asking", session=effect.session.hex(), epoch=effect.epoch, force=effect.force)

    def _tell_granted(self, event: ev.TakeOverGranted) -> None:
        asked, self._term = self._asking, event.term
        if asked is not None:
            session, force = asked.session.hex(), asked.force
            self._say("granted", term=event.term, epoch=asked.epoch, session=session, force=force)

    def _tell_activating(self, epoch: Epoch, *, vm: bool) -> None:
        self._say("activating", term=self._term, epoch=epoch, vm=vm)
