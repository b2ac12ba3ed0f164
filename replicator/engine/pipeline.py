"""Steps of one epoch on the primary, from the timer to the moment its parts can be sent.

    WAITING -> [LIVE ...] -> PAUSING -> COPYING -> SAVING -> RESUMING -> WAITING
    WAITING -> [EARLY]    -> PAUSING -> ...
                          ... SAVING -> STANDING -> RESUMING when the epoch is `last`: sent, and not resumed until it is
                told; in COLO it is sent when it is saved, too, but the guest goes on at once
                PAUSING -> JOINING -> COPYING in COLO, until the secondary's VM stands still and its pages are owed too

An epoch starts LIVE (copied while the guest runs, pass after pass) when much is owed: at a synchronisation, and after a
pause that found more dirty pages than staging holds. When the guest is paused for the rest says engine/precopy.py; a
pause that finds more than was forecast is given up and copying goes on, in the same epoch. A guest that is too busy for
the policy of a synchronisation makes it give up (`gave_up`); a protected one is paused until all is copied.

EARLY is one pass before the pause of an epoch that will be large, without the pages that are dirty every time.

Rules: 1. A barrier is marked once for an epoch's number, so it never moves. 2. At most `in_flight_max` epochs are
closed and not yet acked. 3. Whatever happens to an epoch, a paused guest is resumed. 4. In COLO no page of an epoch is
copied before the secondary's VM stands still: deltas build upon what it has written. And no guest is paused while that VM
is loaded: it could not stand still before it runs. This file does not know about
sessions, leases or where pages go; when an epoch is due says engine/pacing.py, or in COLO engine/colo.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum

from replicator.engine import effects as fx
from replicator.engine import events as ev
from replicator.engine.colo import Colo, ColoPacer
from replicator.engine.effects import Effect, Timer
from replicator.engine.live_copy import LiveCopy
from replicator.engine.measures import Measures
from replicator.engine.pacing import Pacer, PacingSettings
from replicator.engine.precopy import Decision, DowntimePolicy, PrecopyReport, Verdict
from replicator.errors import require
from replicator.units import Epoch

#: Of the time to the next epoch, what is left when its early pass begins.
EARLY_SHARE = 0.25


class Step(Enum):
    IDLE = "idle"
    WAITING = "waiting"
    EARLY = "early"
    LIVE = "live"
    PAUSING = "pausing"
    #: The guest stands still; the secondary's VM is to tell what it has written.
    JOINING = "joining"
    COPYING = "copying"
    SAVING = "saving"
    RESUMING = "resuming"
    #: The last epoch is closed and sent, the guest stands still after it.
    STANDING = "standing"


@dataclass(frozen=True, slots=True)
class PipelineSettings:
    pacing: PacingSettings
    #: Dirty pages above which a pause is given up for live rounds, at most once an epoch.
    staging_pages: int
    in_flight_max: int = 2
    #: Of a synchronisation. The tracker proves itself in its `min_iterations`.
    sync: DowntimePolicy = field(default_factory=DowntimePolicy)
    #: An epoch that will have so many dirty pages is copied early in part; 0: none is.
    early_pages: int = 0


_PAUSED = (Step.PAUSING, Step.JOINING, Step.COPYING, Step.SAVING, Step.RESUMING, Step.STANDING)


class EpochPipeline:
    """One epoch at a time. `handle_*` return effects; the owner feeds events and keeps what was sent."""

    def __init__(self, settings: PipelineSettings, first_epoch: int = 1, colo: Colo | None = None) -> None:
        self.settings = settings
        self.colo = colo
        #: The session whose secondary is asked to suspend its VM.
        self.session = b""
        self.step = Step.IDLE
        #: Number of the newest epoch that was started.
        self.epoch = Epoch(first_epoch - 1)
        #: What the next epoch builds upon: the newest closed one, 0 for a full synchronisation.
        self.base = Epoch(0)
        #: Closed and not acked, in order.
        self.in_flight: list[Epoch] = []
        #: From the next barrier on output is held.
        self.hold = True
        #: The guest is to move: one epoch follows the other, without a rest and without another one in flight.
        self.hurries = False
        #: The epoch under way is the last one before the guest moves; set in its pause.
        self.last = False
        #: Why the last synchronisation was given up, "" if it was not. Stays until the next one starts.
        self.gave_up = ""
        self.measures = Measures()
        in_flight_max = 1 if colo else settings.in_flight_max
        self._in_flight_max = in_flight_max
        self.pacer = (
            ColoPacer(settings.pacing, self.measures, in_flight_max, colo)
            if colo
            else Pacer(settings.pacing, self.measures, in_flight_max)
        )
        #: Newest epochs for which the secondary's VM was asked to stand still, and does.
        self._suspending = self._joined = Epoch(0)
        #: The newest epoch that the secondary's VM is to run on from, and whether it is being loaded there.
        self._vm_epoch = Epoch(0)
        self.is_loading = False
        self._live_copy: LiveCopy | None = None
        self._is_syncing = False
        self._live_next = False
        #: The newest number is that of an epoch that was begun and is not closed.
        self._opened = False
        #: Its pages are copied pass after pass.
        self._is_live = False
        #: The guest was found with too many dirty pages and runs on; copying continues when it does.
        self._overran = False
        self._abandoned = False
        #: What became of the resume under way: it was denied, and that the lease has come back since it began.
        self._is_denied = self._is_regained = False
        #: The epoch whose pause is about to end is closed and sent already.
        self._is_sent = False
        #: The secondary's VM runs from it, and our guest is not known to run yet.
        self._twin_runs = False
        self._due = False
        self._due_since_ns = 0
        self._output_waits = False
        self._started_ns = 0

    @property
    def guest_paused(self) -> bool:
        """Whether this pipeline has the guest stopped, or is about to."""
        return self.step in _PAUSED

    @property
    def running(self) -> bool:
        return self.step is not Step.IDLE and not self._abandoned

    @property
    def awaits_secondary(self) -> bool:
        """An epoch waits for its ack, or for the secondary's VM."""
        return bool(self.in_flight) or self._is_joining or self.is_loading

    @property
    def knows_its_pages(self) -> bool:
        """In a pause: whether all pages that the epoch is to have are owed, though in COLO the secondary has yet to say so
        of a VM that did not run."""
        return self.step is Step.COPYING or (self.step is Step.JOINING and self._vm_epoch < self.base)

    @property
    def precopy(self) -> PrecopyReport | None:
        """Figures of the newest pre-copy."""
        return self._live_copy.report() if self._live_copy is not None else None

    def start(self, base: Epoch, now_ns: int) -> list[Effect]:
        """Begin with epochs on top of `base`; the first one is copied live."""
        self.base, self._live_next, self._due, self.in_flight = base, True, False, []
        self._is_syncing, self.gave_up, self._output_waits = True, "", False
        # Whether the VM runs was said on a connection that is gone.
        self.is_loading = False
        self.measures.restart()
        if self.guest_paused:
            # The pause of an abandoned epoch is still going on; its resume starts us.
            return []
        self.step, self._abandoned = Step.WAITING, False
        return self.handle_due(now_ns)

    def stop(self) -> list[Effect]:
        """Abandon the open epoch. A paused guest is resumed when the step under way reports."""
        if self.step is Step.IDLE:
            return []
        effects: list[Effect] = [fx.CancelTimer(Timer.EPOCH)]
        if self.settings.early_pages:
            effects.append(fx.CancelTimer(Timer.EARLY))
        if self._opened or not (self._is_sent or self.step in (Step.WAITING, Step.STANDING)):
            effects.append(fx.AbandonEpoch(self.epoch))
        if self.colo is not None:
            self.colo.compared_from, self.is_loading = None, False
            effects.append(fx.StopComparing())
        self.in_flight, self._live_next, self._due = [], False, False
        self._opened = self._is_live = self._overran = self.hurries = self.last = False
        self._twin_runs = False
        if not self.guest_paused:
            self.step = Step.IDLE
            return effects
        self._abandoned = True
        # Nothing is under way that would report.
        idle = self.step in (Step.STANDING, Step.JOINING)
        return [*effects, *(self._resume() if idle else [])]

    def go_on(self, now_ns: int) -> list[Effect]:
        """The guest does not move after all: at the usual pace, and if it stands still already let it run."""
        self.hurries = self.last = False
        if self.step is Step.STANDING:
            self._is_sent = True
            return self._resume()
        return self._arm(now_ns) if self.step is Step.WAITING and not self._due else []

    def acked(self, epoch: Epoch, now_ns: int) -> None:
        """All epochs up to this one left the flight."""
        self.in_flight = [other for other in self.in_flight if other > epoch]
        self.is_loading = self.is_loading or (epoch == self._vm_epoch and self.colo is not None)
        self.measures.acked(epoch, now_ns)

    def tune(self, order: ev.TuneOrdered, now_ns: int) -> list[Effect]:
        """Change the pace at once, the policy from the next pre-copy on."""
        settings = self.settings
        self.settings = settings = replace(
            settings,
            pacing=order.pacing or settings.pacing,
            sync=order.sync or settings.sync,
            early_pages=settings.early_pages if order.early_pages is None else order.early_pages,
        )
        self.pacer.settings = settings.pacing
        return self._arm(now_ns) if self.step is Step.WAITING and not self._due else []

    # When.

    def handle_overdue(self, now_ns: int) -> list[Effect]:
        """Start the epoch that was due when too many were in flight; if none was, see what the released output brings."""
        if self._due or self.hurries:
            return self.handle_due(now_ns)
        return self._watch() if self.step is Step.WAITING else []

    def handle_due(self, now_ns: int) -> list[Effect]:
        if self.step not in (Step.WAITING, Step.EARLY):
            return []
        if not self._due:
            self._due, self._due_since_ns = True, now_ns
        in_flight_max = 1 if self.hurries else self._in_flight_max
        if self.step is Step.EARLY or self.is_loading or len(self.in_flight) >= in_flight_max:
            return []
        self._due = False
        self._started_ns = now_ns
        return self._start_live(now_ns) if self._live_next else self._pause(now_ns)

    def handle_output_waits(self, now_ns: int) -> list[Effect]:
        """A frame that came before the barrier is not known from one after it until the guest runs again."""
        if self.step not in (Step.WAITING, Step.EARLY, Step.RESUMING) or self._output_waits:
            return []
        self._output_waits = True
        if self.step is Step.RESUMING or self._due or self._live_next:
            return []
        return [fx.ArmTimer(Timer.EPOCH, self.pacer.due_for_output_ns(now_ns)), *self._watch()]

    def _watch(self) -> list[Effect]:
        quiet_ns = self.pacer.quiet_ns() if self._output_waits else None
        return [] if quiet_ns is None else [fx.WatchIdle(quiet_ns)]

    def handle_idle(self, now_ns: int) -> list[Effect]:
        """Nothing would be gained by waiting for more output, but where others wait for what is in flight: its release
        will bring more."""
        if self.step not in (Step.WAITING, Step.EARLY) or not self._output_waits or self._due:
            return []
        if self._live_next or (self.in_flight and self.pacer.gathers):
            return []
        earliest_ns = self.pacer.earliest_ns()
        return self.handle_due(now_ns) if now_ns >= earliest_ns else [fx.ArmTimer(Timer.EPOCH, earliest_ns)]

    def _arm(self, now_ns: int) -> list[Effect]:
        due_ns = self.pacer.due_for_output_ns(now_ns) if self._output_waits else self.pacer.due_ns()
        effects: list[Effect] = [fx.ArmTimer(Timer.EPOCH, due_ns)]
        if self._expects_many and not self._opened:
            effects.append(fx.ArmTimer(Timer.EARLY, due_ns - int((due_ns - now_ns) * EARLY_SHARE)))
        return [*effects, *self._watch()]

    # Copying while the guest runs.

    @property
    def _expects_many(self) -> bool:
        # In COLO an early pass would have to stop the secondary's VM.
        threshold = 0 if self.colo else self.settings.early_pages
        return 0 < threshold <= self.measures.dirty_pages.median()

    def handle_early_due(self, now_ns: int) -> list[Effect]:
        if self.step is not Step.WAITING or self._opened or self._due or not self._expects_many:
            return []
        self.epoch = Epoch(self.epoch + 1)
        self.step, self._opened = Step.EARLY, True
        return [*self._open(now_ns), fx.CopyEarly(self.epoch)]

    def handle_early_copied(self, event: ev.EarlyCopied, now_ns: int) -> list[Effect]:
        if self.step is not Step.EARLY or event.epoch != self.epoch:
            return []
        self.step = Step.WAITING
        return self.handle_overdue(now_ns)

    def _start_live(self, now_ns: int) -> list[Effect]:
        self._live_copy = LiveCopy(
            self.settings.sync,
            self.measures,
            staging_pages=self.settings.staging_pages,
            is_syncing=self._is_syncing,
            now_ns=now_ns,
        )
        self.step, self._is_live = Step.LIVE, True
        opening: list[Effect] = []
        if not self._opened:
            self.epoch = Epoch(self.epoch + 1)
            self._opened = True
            opening += self._open(now_ns)
        if self._must_join:
            return [*opening, *self._suspend_vm()]
        return [*opening, fx.CopyLive(self.epoch)]

    def _open(self, now_ns: int) -> list[Effect]:
        runs_vm = self.colo is not None and not self.hurries and self.colo.runs_vm(now_ns)
        opened = fx.OpenEpoch(self.epoch, self.base, runs_vm)
        if runs_vm:
            self._vm_epoch = self.epoch
        return [opened] if runs_vm or self.colo is None else [opened, fx.StopComparing()]

    def handle_live_copied(self, event: ev.LiveCopied, now_ns: int) -> list[Effect]:
        copy = self._live_copy
        if self.step is not Step.LIVE or event.epoch != self.epoch or copy is None:
            return []
        decision = copy.passed(event, now_ns)
        if decision.verdict is Verdict.CONTINUE:
            return [fx.CopyLive(self.epoch)]
        if decision.verdict is Verdict.ABORT:
            return self._give_up(decision)
        return self._pause(now_ns, copy.pages_max)

    def _give_up(self, decision: Decision) -> list[Effect]:
        """The owner sees `gave_up` and says what that means."""
        was_paused = self.guest_paused
        effects = self.stop()
        self.gave_up = decision.reason
        return [*effects, *(self._resume() if was_paused else [])]

    # The pause.

    def _pause(self, now_ns: int, pages_max: int | None = None) -> list[Effect]:
        if not self._opened:
            self.epoch = Epoch(self.epoch + 1)
        elif self.step is Step.WAITING:
            # Opened by an early pass: more than staging may take is copied live, in the same epoch.
            pages_max = self.settings.staging_pages
        self.measures.pausing(now_ns, now_ns - self._due_since_ns if self.step is Step.WAITING else 0)
        self.step = Step.PAUSING
        pause = fx.PauseGuest(self.epoch, self.hold, pages_max)
        return [*self._suspend_vm(), pause] if self._must_join else [pause]

    def handle_paused(self, event: ev.GuestPaused, now_ns: int) -> list[Effect]:
        self._expect(Step.PAUSING, event.epoch)
        self._output_waits = False
        self.measures.paused(now_ns, event.dirty_pages, event.held_frames)
        if self._abandoned:
            return self._resume()
        if event.dirty_pages > self.settings.staging_pages and not self._opened:
            # Too much for a short pause: run on and copy live first. The number is spent.
            self._live_next = True
            ended: list[Effect] = [fx.StopComparing()] if self.colo else []
            return [*ended, fx.AbandonEpoch(self.epoch), *self._resume()]
        opening: list[Effect] = [] if self._opened else self._open(now_ns)
        self._opened = True
        if self._must_join:
            self.step = Step.JOINING
            return opening
        return [*opening, *self._copy_paused()]

    def _copy_paused(self) -> list[Effect]:
        self.step = Step.COPYING
        return [fx.CopyPages(self.epoch)]

    # COLO.

    @property
    def _must_join(self) -> bool:
        """A full epoch overwrites all that the secondary's VM may have written."""
        return self.colo is not None and self.base > 0 and self._joined != self.epoch

    @property
    def _is_joining(self) -> bool:
        return self.running and self._must_join and self._suspending == self.epoch

    def _suspend_vm(self) -> list[Effect]:
        """At the same time as our guest, so that neither runs for long without the other."""
        if self.colo is not None:
            self.colo.compared_from = None
        if self._suspending == self.epoch:
            return []
        self._suspending = self.epoch
        return [fx.SuspendSecondaryVm(self.session, self.epoch)]

    def handle_vm_suspended(self, event: ev.SecondaryVmSuspended) -> list[Effect]:
        if event.epoch != self.epoch or not self._must_join:
            return []
        self._joined = self.epoch
        if self.step is Step.LIVE:
            return [fx.CopyLive(self.epoch)]
        return self._copy_paused() if self.step is Step.JOINING and not self._abandoned else []

    def handle_vm_resumed(self, event: ev.SecondaryVmResumed, now_ns: int) -> list[Effect]:
        """From its newest epoch on, and not while the next one is being made."""
        if self.colo is None or event.epoch != self.base or self._opened:
            return []
        if self.step is Step.RESUMING:
            self.is_loading, self._twin_runs = False, True
        return self._compare(self.colo, now_ns) if self.step is Step.WAITING else []

    def _compare(self, colo: Colo, now_ns: int) -> list[Effect]:
        self.is_loading, colo.compared_from = False, self.base
        if self.hurries:
            return self.handle_overdue(now_ns)
        # An epoch that was due meanwhile is not: what waits is compared now.
        self._due = False
        return [fx.CompareOutput(self.base), *self._arm(now_ns)]

    def note_vm_resumed(self, event: ev.SecondaryVmResumed) -> list[Effect]:
        """The owner is not to go on with its epochs at present: output waits for the next commit."""
        if event.epoch == self._vm_epoch:
            self.is_loading = False
        return []

    def handle_asked(self, event: ev.CheckpointAsked, now_ns: int) -> list[Effect]:
        if self.colo is None or not isinstance(self.pacer, ColoPacer):
            return []
        if event.is_difference:
            self.colo.differed(now_ns)
        # Later than its pause the checkpoint that was asked for is under way, or made.
        if self.step is not Step.WAITING or event.epoch != self.epoch + 1:
            return []
        self.pacer.asked()
        # Before the VM runs it is kept: nothing more leaves of this epoch, and nobody asks twice.
        return [] if self._due or self.colo.compared_from is None else self._arm(now_ns)

    def handle_overrun(self, event: ev.PauseOverrun) -> list[Effect]:
        """Run on and copy live; the open epoch stays, for no barrier was marked with its number."""
        self._expect(Step.PAUSING, event.epoch)
        if self._abandoned:
            return self._resume()
        copy = self._live_copy if self._is_live else None
        decision = copy.overran(event) if copy is not None else None
        if decision is not None and decision.verdict is Verdict.ABORT:
            return self._give_up(decision)
        self._overran = True
        return self._resume()

    def handle_copied(self, event: ev.PagesCopied, now_ns: int) -> list[Effect]:
        self._expect(Step.COPYING, event.epoch)
        self.measures.copied(now_ns)
        if self._abandoned:
            return self._resume()
        self.step = Step.SAVING
        return [fx.SaveDeviceState(self.epoch, runs_on=not self.last)]

    def handle_saved(self, event: ev.DeviceStateSaved, now_ns: int) -> list[Effect]:
        self._expect(Step.SAVING, event.epoch)
        if self.last and not self._abandoned:
            self.step = Step.STANDING
            return self._close(now_ns)
        if self.colo is None or self._abandoned:
            return self._resume()
        # Both guests' output waits for it: it begins to travel while ours is told to go on.
        self._is_sent = True
        return [*self._close(now_ns), *self._resume()]

    def _resume(self) -> list[Effect]:
        self.step = Step.RESUMING
        return self._order_resume()

    def _order_resume(self) -> list[Effect]:
        self._is_denied = self._is_regained = False
        return [fx.ResumeGuest(self.epoch)]

    def retry_resume(self) -> list[Effect]:
        """The lease is back: run the guest that was denied to resume. Of a resume that is under way nobody knows yet
        whether it was denied, and two of them would report twice."""
        if self.step is not Step.RESUMING:
            return []
        self._is_regained = True
        return self._order_resume() if self._is_denied else []

    def handle_denied(self, event: ev.ResumeDenied) -> list[Effect]:
        """The guest stands still until the lease is back, which it may be by now."""
        if self.step is not Step.RESUMING or event.epoch != self.epoch:
            return []
        self._is_denied = True
        return self._order_resume() if self._is_regained else []

    def handle_resumed(self, event: ev.GuestResumed, now_ns: int) -> list[Effect]:
        self._expect(Step.RESUMING, event.epoch)
        self.measures.resumed(now_ns)
        if self._abandoned:
            return self._after_abandoned(now_ns)
        if self._overran:
            return self._copy_on(now_ns)
        self.step = Step.WAITING
        self.pacer.resumed(self._started_ns, now_ns)
        if self._is_sent:
            return self._go_on_sent(now_ns)
        return [*self._close(now_ns), *self._arm(now_ns)] if self._opened else self.handle_due(now_ns)

    def _go_on_sent(self, now_ns: int) -> list[Effect]:
        twin_runs, self._is_sent, self._twin_runs = self._twin_runs, False, False
        return self._compare(self.colo, now_ns) if self.colo and twin_runs else self._arm(now_ns)

    def _copy_on(self, now_ns: int) -> list[Effect]:
        self._overran = False
        if not self._is_live:
            return self._start_live(now_ns)
        self.step = Step.LIVE
        return [] if self._must_join else [fx.CopyLive(self.epoch)]

    def _close(self, now_ns: int) -> list[Effect]:
        self._live_next = self._is_syncing = self._opened = self._is_live = False
        self.in_flight.append(self.epoch)
        self.base = self.epoch
        self.measures.sent(self.epoch, now_ns)
        return [fx.SendEpoch(self.epoch)]

    def _after_abandoned(self, now_ns: int) -> list[Effect]:
        self._abandoned = self._is_sent = False
        self.step = Step.WAITING if self._live_next else Step.IDLE
        return self.handle_due(now_ns)

    def fail_step(self, event: ev.StepFailed) -> list[Effect]:
        """A step failed at the guest: give the epoch up, run the guest if it was to be paused."""
        if event.epoch != self.epoch or self.step in (Step.IDLE, Step.WAITING):
            return []
        was_paused = self.guest_paused
        effects = self.stop()
        return [*effects, *(self._resume() if was_paused else [])]

    def _expect(self, step: Step, epoch: Epoch) -> None:
        require(
            self.step is step and epoch == self.epoch,
            f"epoch {epoch} reported in step {self.step.value} of epoch {self.epoch}",
        )
