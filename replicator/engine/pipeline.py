"""Steps of one epoch on the primary, from the timer to the moment its parts can be sent.

    WAITING -> [LIVE ...] -> PAUSING -> COPYING -> SAVING -> RESUMING -> WAITING

An epoch starts LIVE (copied while the guest runs, round after round) when much is owed: at a synchronisation, and
after a pause that found more dirty pages than staging holds. Live rounds are bounded; then the guest stays paused
until the rest is copied, however long the link takes, so every epoch commits.

Rules: 1. An epoch number is used for one pause only and never again, so a barrier never moves. 2. At most
`in_flight_max` epochs are closed and not yet acked. 3. Whatever happens to an epoch, a paused guest is resumed.
This file does not know about sessions, leases or where pages go.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from replicator.engine import effects as fx
from replicator.engine import events as ev
from replicator.engine.effects import Effect, Timer
from replicator.errors import require
from replicator.units import Epoch


class Step(Enum):
    IDLE = "idle"
    WAITING = "waiting"
    LIVE = "live"
    PAUSING = "pausing"
    COPYING = "copying"
    SAVING = "saving"
    RESUMING = "resuming"


@dataclass(frozen=True, slots=True)
class PipelineSettings:
    interval_ns: int
    #: Dirty pages above which a pause is given up for live rounds, at most once an epoch.
    staging_pages: int
    in_flight_max: int = 2
    #: The tracker proves itself in the live rounds of a synchronisation.
    live_rounds_min: int = 1
    live_rounds_max: int = 8
    #: A live round that copied at most this many pages may be the last.
    live_pages_small: int = 2048


class EpochPipeline:
    """One epoch at a time. `handle_*` return effects; the owner feeds events and keeps what was sent."""

    def __init__(self, settings: PipelineSettings, first_epoch: int = 1) -> None:
        self._settings = settings
        self.step = Step.IDLE
        #: Number of the newest epoch that was started.
        self.epoch = Epoch(first_epoch - 1)
        #: What the next epoch builds upon: the newest closed one, 0 for a full synchronisation.
        self.base = Epoch(0)
        #: Closed and not acked, in order.
        self.in_flight: list[Epoch] = []
        #: From the next barrier on output is held.
        self.hold = True
        self._live_next = False
        self._rounds = 0
        self._opened = False
        self._abandoned = False
        self._due = False
        self._started_ns = 0

    @property
    def guest_paused(self) -> bool:
        """Whether this pipeline has the guest stopped, or is about to."""
        return self.step in (Step.PAUSING, Step.COPYING, Step.SAVING, Step.RESUMING)

    @property
    def running(self) -> bool:
        return self.step is not Step.IDLE and not self._abandoned

    def start(self, base: Epoch, now_ns: int) -> list[Effect]:
        """Begin with epochs on top of `base`; the first one is copied live."""
        self.base, self._live_next, self._due, self.in_flight = base, True, False, []
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
        if self.step is not Step.WAITING:
            effects.append(fx.AbandonEpoch(self.epoch))
        self.in_flight, self._live_next, self._due = [], False, False
        if self.guest_paused:
            self._abandoned = True
        else:
            self.step = Step.IDLE
        return effects

    def acked(self, epoch: Epoch) -> None:
        """All epochs up to this one left the flight."""
        self.in_flight = [other for other in self.in_flight if other > epoch]

    def handle_overdue(self, now_ns: int) -> list[Effect]:
        """Start the epoch that was due when too many were in flight."""
        return self.handle_due(now_ns) if self._due else []

    def handle_due(self, now_ns: int) -> list[Effect]:
        if self.step is not Step.WAITING:
            return []
        if len(self.in_flight) >= self._settings.in_flight_max:
            self._due = True
            return []
        self._due = False
        self._started_ns = now_ns
        return self._start_live() if self._live_next else self._pause()

    def _start_live(self) -> list[Effect]:
        self.epoch = Epoch(self.epoch + 1)
        self.step, self._rounds, self._opened = Step.LIVE, 0, True
        return [fx.OpenEpoch(self.epoch, self.base), fx.CopyLive(self.epoch)]

    def _pause(self) -> list[Effect]:
        if self.step is not Step.LIVE:
            self.epoch = Epoch(self.epoch + 1)
            self._opened = False
        self.step = Step.PAUSING
        return [fx.PauseGuest(self.epoch, self.hold)]

    def handle_live_copied(self, event: ev.LiveCopied) -> list[Effect]:
        if self.step is not Step.LIVE or event.epoch != self.epoch:
            return []
        self._rounds += 1
        settings = self._settings
        shrinking = event.pages > settings.live_pages_small and self._rounds < settings.live_rounds_max
        if shrinking or self._rounds < settings.live_rounds_min:
            return [fx.CopyLive(self.epoch)]
        return self._pause()

    def handle_paused(self, event: ev.GuestPaused) -> list[Effect]:
        self._expect(Step.PAUSING, event.epoch)
        if self._abandoned:
            return self._resume()
        if event.dirty_pages > self._settings.staging_pages and not self._opened:
            # Too much for a short pause: run on and copy live first. The number is spent.
            self._live_next = True
            return [fx.AbandonEpoch(self.epoch), *self._resume()]
        self.step = Step.COPYING
        opening: list[Effect] = [] if self._opened else [fx.OpenEpoch(self.epoch, self.base)]
        self._opened = True
        return [*opening, fx.CopyPages(self.epoch)]

    def handle_copied(self, event: ev.PagesCopied) -> list[Effect]:
        self._expect(Step.COPYING, event.epoch)
        if self._abandoned:
            return self._resume()
        self.step = Step.SAVING
        return [fx.SaveDeviceState(self.epoch)]

    def handle_saved(self, event: ev.DeviceStateSaved) -> list[Effect]:
        self._expect(Step.SAVING, event.epoch)
        return self._resume()

    def _resume(self) -> list[Effect]:
        self.step = Step.RESUMING
        return [fx.ResumeGuest(self.epoch)]

    def retry_resume(self) -> list[Effect]:
        """The lease is back: run the guest that was denied to resume."""
        return [fx.ResumeGuest(self.epoch)] if self.step is Step.RESUMING else []

    def handle_resumed(self, event: ev.GuestResumed, now_ns: int) -> list[Effect]:
        self._expect(Step.RESUMING, event.epoch)
        if self._abandoned:
            return self._after_abandoned(now_ns)
        self.step = Step.WAITING
        if not self._opened:
            return self.handle_due(now_ns)
        self._live_next = False
        self.in_flight.append(self.epoch)
        self.base = self.epoch
        return [fx.SendEpoch(self.epoch), self._arm(now_ns)]

    def _after_abandoned(self, now_ns: int) -> list[Effect]:
        self._abandoned = False
        self.step = Step.WAITING if self._live_next else Step.IDLE
        return self.handle_due(now_ns)

    def fail_step(self, event: ev.StepFailed) -> list[Effect]:
        """A step failed at the guest: give the epoch up, run the guest if it was to be paused."""
        if event.epoch != self.epoch or self.step in (Step.IDLE, Step.WAITING):
            return []
        was_paused = self.guest_paused
        effects = self.stop()
        return [*effects, *(self._resume() if was_paused else [])]

    def _arm(self, now_ns: int) -> Effect:
        """The next epoch: an interval after this one's start, but the guest runs for a quarter of it at least."""
        interval_ns = self._settings.interval_ns
        return fx.ArmTimer(Timer.EPOCH, max(self._started_ns + interval_ns, now_ns + interval_ns // 4))

    def _expect(self, step: Step, epoch: Epoch) -> None:
        require(
            self.step is step and epoch == self.epoch,
            f"epoch {epoch} reported in step {self.step.value} of epoch {self.epoch}",
        )
