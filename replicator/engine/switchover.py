"""A planned move of the guest, up to the moment at which nothing of it is left on this side but the paused guest itself.

    NONE --ordered--> SHRINKING --an epoch that fits--> CLOSING --sent--> COMMITTING --ack--> EMPTYING --output left--> (over)
         <------------------------------------- abort: the guest runs on, protected as before

While it shrinks, the usual epochs go on, one at a time and without a rest, each a pass of the pre-copy; in each pause the
dirty set is known, and the pause of the first that fits is not ended. From then on the guest stands still, but all of it
is still an ordinary epoch: until the hand-over begins (hand_over.py) this side resumes it whenever anything goes wrong,
and nothing is lost. What may be moved, and what a hand-over is, is not known here.
"""

from __future__ import annotations

from enum import Enum

from replicator.engine import effects as fx
from replicator.engine import events as ev
from replicator.engine.effects import Effect, Timer
from replicator.engine.move_report import MoveReport, Outcome
from replicator.engine.pipeline import EpochPipeline
from replicator.engine.precopy import Decision, DowntimePolicy, Precopy, Verdict
from replicator.engine.stretch import Stretch
from replicator.units import NS_PER_MS, Epoch

#: Beyond what was promised, before a last epoch is taken for a usual one: late is better than once more.
PATIENCE_NS = 50 * NS_PER_MS


class Phase(Enum):
    NONE = "none"
    SHRINKING = "shrinking"
    CLOSING = "closing"
    COMMITTING = "committing"
    EMPTYING = "emptying"


class Switchover:
    """Of the guest whose epochs `pipeline` makes. Methods with `now_ns` return effects. `stretch` sees every event."""

    def __init__(self, pipeline: EpochPipeline, stretch: Stretch) -> None:
        self._pipeline = pipeline
        self._stretch = stretch
        #: How the last one ended.
        self.report: MoveReport | None = None
        self.phase = Phase.NONE
        #: The last epoch, from CLOSING on.
        self.epoch = Epoch(0)
        self._ordered_ns = 0
        self._last_pass_ns = 0
        self._copied = 0
        self._pages = self._bytes = 0
        self._decision: Decision | None = None
        self._precopy: Precopy | None = None

    @property
    def is_under_way(self) -> bool:
        return self.phase is not Phase.NONE

    def order(self, policy: DowntimePolicy, now_ns: int, *, obstacle: str) -> list[Effect]:
        """Begin; `obstacle` says why it cannot be, and ends it at once. A second order changes nothing."""
        if self.is_under_way:
            return []
        self.phase, self._precopy = Phase.SHRINKING, Precopy(policy, now_ns)
        self._ordered_ns = self._last_pass_ns = now_ns
        self._copied = self._pages = self._bytes = 0
        if obstacle:
            return self.end(Outcome.ABORTED, obstacle, now_ns)
        self._pipeline.hurries = True
        return self._pipeline.handle_due(now_ns)

    def paused(self, event: ev.GuestPaused, now_ns: int) -> list[Effect]:
        """The guest stands still: is this the last epoch? One before it that is still on its way would come on top."""
        pipeline, precopy = self._pipeline, self._precopy
        if (
            self.phase is not Phase.SHRINKING
            or not pipeline.knows_its_pages
            or pipeline.in_flight
            or not precopy
        ):
            return []
        elapsed_ns, self._last_pass_ns = now_ns - self._last_pass_ns, now_ns
        pages, rates = event.dirty_pages, self._stretch.rates
        decision = precopy.round_done(self._copied or pages, pages, elapsed_ns, rates, now_ns)
        self._copied = self._pages = pages
        if decision.verdict is Verdict.ABORT:
            return self.abort(decision.reason, now_ns)
        if decision.verdict is Verdict.PAUSE:
            self.phase, self.epoch, self._decision = Phase.CLOSING, event.epoch, decision
            pipeline.last = True
        return []

    def sent(self, epoch: Epoch) -> list[Effect]:
        """An epoch is on its way. For what follows on the last one there is a limit."""
        if self.phase is not Phase.CLOSING or epoch != self.epoch:
            return []
        self.phase = Phase.COMMITTING
        return [fx.ArmTimer(Timer.MOVE, self._step_by_ns)]

    def sealed(self, event: ev.EpochSealed) -> None:
        if event.epoch == self.epoch:
            self._bytes = event.size

    def acked(self, epoch: Epoch) -> list[Effect]:
        """The output of the last epoch may leave now, and must before anything else happens."""
        if self.phase is not Phase.COMMITTING or epoch < self.epoch:
            return []
        self.phase = Phase.EMPTYING
        return [fx.AwaitOutput(epoch)]

    def left(self, epoch: Epoch) -> bool:
        """True when all output is gone: the hand-over begins."""
        return self.phase is Phase.EMPTYING and epoch == self.epoch

    def overdue(self, now_ns: int) -> list[Effect]:
        return self.abort(f"{self.phase.value} epoch {self.epoch} takes longer than was promised", now_ns)

    @property
    def _step_by_ns(self) -> int:
        """The time until which ack and output are waited for, so that the take-over still fits what was promised."""
        return self._stretch.pausing_ns + self._allowed_ns - self._stretch.take_over_ns + PATIENCE_NS

    @property
    def _allowed_ns(self) -> int:
        return max(self._max_downtime_ns, self._promised_ns)

    @property
    def _max_downtime_ns(self) -> int:
        return 0 if self._precopy is None else self._precopy.policy.max_downtime_ns

    @property
    def _promised_ns(self) -> int:
        closing = self.phase not in (Phase.NONE, Phase.SHRINKING)
        return self._decision.forecast.downtime_ns if closing and self._decision is not None else 0

    def abort(self, reason: str, now_ns: int) -> list[Effect]:
        """The guest runs on here, protected as before."""
        if not self.is_under_way:
            return []
        return [*self._pipeline.go_on(now_ns), *self.end(Outcome.ABORTED, reason, now_ns)]

    def end(self, outcome: Outcome, reason: str, now_ns: int) -> list[Effect]:
        """The switchover is over, one way or the other; what becomes of the guest is the caller's."""
        if not self.is_under_way:
            return []
        self.report = self._sum_up(outcome, reason, now_ns)
        self.phase, self._precopy, self._decision = Phase.NONE, None, None
        return [fx.CancelTimer(Timer.MOVE), fx.ReportMove(self.report)]

    def _sum_up(self, outcome: Outcome, reason: str, now_ns: int) -> MoveReport:
        stood_still = self.phase in (Phase.COMMITTING, Phase.EMPTYING)
        return MoveReport(
            outcome,
            reason,
            0 if self._precopy is None else self._precopy.passes,
            self._pages,
            self._bytes,
            self._max_downtime_ns,
            self._promised_ns,
            now_ns - self._stretch.pausing_ns if stood_still else 0,
            now_ns - self._stretch.acked_ns if self.phase is Phase.EMPTYING else 0,
            now_ns - self._ordered_ns,
        )

    def describe(self) -> str:
        """For the status: how far it is, or how the last one ended; "" before the first."""
        if self._precopy is None:
            return "" if self.report is None else f"{self.report.outcome.value}: {self.report.reason}"
        if self.phase is Phase.SHRINKING:
            return f"pass {self._precopy.passes + 1}, {self._pages} pages were dirty in the last pause"
        return f"{self.phase.value} epoch {self.epoch}"
