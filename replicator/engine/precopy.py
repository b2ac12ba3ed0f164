"""Pre-copy: pages are copied pass after pass while the guest runs; when may it be paused for the rest?

    pass -> still dirty: R pages -> forecast of the pause = R x bytes a page / rate + fixed part
         fits, or R is small enough   PAUSE
         still shrinking              CONTINUE
         busy                         PAUSE (complete), ABORT (abort) or CONTINUE (continue), as the policy says

Busy is a guest that writes pages as fast as they are copied: for some passes in a row the dirty set has not shrunk. So
is one that still does not fit when passes or time are used up. What is dirty then is its writable working set.

Rules: 1. Under `abort` and `continue` no pause is advised that is not forecast to fit, but of a set that is as small as
`min_remaining_pages` already. 2. `complete` and `abort` come to an end after `max_iterations` passes at the latest,
each policy with the first pass after `max_time_ns`. This file does not know what a pass is made of, or who measures the
rates.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum

from replicator.errors import ConfigError
from replicator.units import NS_PER_MS, NS_PER_S, PAGE_SIZE

#: A dirty set that is not below this part of the one before does not shrink.
SHRINK = 0.9
#: So many passes in a row without shrinking, and the guest is busy: one may be a burst.
STALLED_PASSES = 3
#: Pauses that found more than was forecast, after which the guest counts as busy.
MISSED_PAUSES = 3
#: Forecast without a known rate: longer than any bound.
UNKNOWN_NS = 1 << 62
_MIB = 1 << 20


class OnBusy(Enum):
    """What becomes of a guest that dirties pages faster than they can be copied."""

    #: Pause it in any case, however long that takes.
    COMPLETE = "complete"
    #: Leave it alone.
    ABORT = "abort"
    #: Go on until it calms down.
    CONTINUE = "continue"


@dataclass(frozen=True, slots=True)
class DowntimePolicy:
    """Bounds of one pre-copy. ConfigError for such as can never be kept."""

    #: The pause may take so long.
    max_downtime_ns: int = 300 * NS_PER_MS
    max_iterations: int = 8
    #: A dirty set of so few pages needs no forecast: another pass would not make it smaller.
    min_remaining_pages: int = 256
    max_time_ns: int = 300 * NS_PER_S
    on_busy: OnBusy = OnBusy.COMPLETE
    #: Passes that are made in any case.
    min_iterations: int = 1

    def __post_init__(self) -> None:
        if self.max_downtime_ns <= 0 or self.max_time_ns <= 0:
            raise ConfigError(
                f"max_downtime {self.max_downtime_ns} ns and max_time {self.max_time_ns} ns must be above zero",
                hint="allow some milliseconds of pause, and some seconds for all of it",
            )
        if self.max_downtime_ns > self.max_time_ns:
            raise ConfigError(
                f"max_downtime = {self.max_downtime_ns / NS_PER_MS:g} ms is longer than "
                f"max_time = {self.max_time_ns / NS_PER_S:g} s, of which it is a part",
                hint="raise max_time or lower max_downtime",
            )
        if not 1 <= self.min_iterations <= self.max_iterations:
            raise ConfigError(
                f"max_iterations = {self.max_iterations} is below the {self.min_iterations} passes that are made in "
                "any case",
                hint=f"set max_iterations to {self.min_iterations} at least",
            )
        if self.min_remaining_pages < 0:
            raise ConfigError(
                f"min_remaining_pages = {self.min_remaining_pages} is negative", hint="set it to 0 or more"
            )

    def check_against(self, fixed_ns: int) -> None:
        """ConfigError when not even a guest without a dirty page could keep `max_downtime`."""
        if self.max_downtime_ns < fixed_ns:
            raise ConfigError(
                f"max_downtime = {self.max_downtime_ns / NS_PER_MS:.1f} ms can never be kept: a pause without a single "
                f"page takes {fixed_ns / NS_PER_MS:.1f} ms here",
                hint=f"allow {fixed_ns / NS_PER_MS + 1:.0f} ms at least",
            )


@dataclass(frozen=True, slots=True)
class Rates:
    """What was measured of the stretch in which the guest will stand still."""

    #: Of what limits it: the link, or the copying where nothing is sent. 0 when nothing was measured yet.
    bytes_per_s: float
    #: The part that does not depend on pages.
    fixed_ns: int = 0
    bytes_per_page: float = PAGE_SIZE

    def stretch_ns(self, pages: int) -> int:
        """Forecast for so many pages; UNKNOWN_NS without a rate."""
        if not pages:
            return self.fixed_ns
        if self.bytes_per_s <= 0:
            return UNKNOWN_NS
        return self.fixed_ns + round(pages * self.bytes_per_page / self.bytes_per_s * NS_PER_S)

    def pages_within(self, downtime_ns: int) -> int:
        """The largest number of pages that is forecast to fit; -1 when not even none fits."""
        if downtime_ns < self.fixed_ns:
            return -1
        pages = int(
            (downtime_ns - self.fixed_ns) / NS_PER_S * max(0.0, self.bytes_per_s) / self.bytes_per_page
        )
        # Rounding may be a page off either way.
        while pages and self.stretch_ns(pages) > downtime_ns:
            pages -= 1
        return pages


@dataclass(frozen=True, slots=True)
class Forecast:
    remaining_pages: int
    downtime_ns: int
    fits: bool


class Verdict(Enum):
    CONTINUE = "continue"
    PAUSE = "pause"
    ABORT = "abort"


@dataclass(frozen=True, slots=True)
class Decision:
    verdict: Verdict
    #: For the operator.
    reason: str
    forecast: Forecast


@dataclass(frozen=True, slots=True)
class PrecopyReport:
    """Figures of the passes so far. Rates are those of the newest passes."""

    passes: int = 0
    missed_pauses: int = 0
    elapsed_ns: int = 0
    copied_pages: int = 0
    remaining_pages: int = 0
    copied_pages_per_s: float = 0.0
    #: Distinct pages that became dirty.
    dirtied_pages_per_s: float = 0.0
    #: What stays dirty however often it is copied.
    working_set_pages: int = 0
    max_downtime_ns: int = 0
    downtime_ns: int = 0
    #: One of both would make the working set fit; 0 where none can.
    needed_downtime_ns: int = 0
    needed_bytes_per_s: float = 0.0
    bytes_per_s: float = 0.0

    def describe(self) -> str:
        """One sentence with what was measured, one with what would help."""
        measured = (
            f"{self.passes} passes at {self.bytes_per_s / _MIB:.0f} MiB/s leave {self.remaining_pages} pages dirty "
            f"({self.dirtied_pages_per_s:.0f} pages/s are written, working set {self.working_set_pages} pages); "
            f"{_pause_of(self.downtime_ns)}, allowed are {self.max_downtime_ns / NS_PER_MS:.0f} ms"
        )
        remedies = []
        if 0 < self.needed_downtime_ns < UNKNOWN_NS:
            remedies.append(f"max_downtime {self.needed_downtime_ns / NS_PER_MS + 1:.0f} ms")
        if self.needed_bytes_per_s:
            remedies.append(f"{self.needed_bytes_per_s / _MIB + 1:.0f} MiB/s")
        return f"{measured}; it fits with {' or '.join(remedies)}" if remedies else measured


def _pause_of(downtime_ns: int) -> str:
    if downtime_ns >= UNKNOWN_NS:
        return "no rate is known"
    return f"the pause would take {downtime_ns / NS_PER_MS:.0f} ms"


@dataclass(frozen=True, slots=True)
class _Pass:
    copied: int
    remaining: int
    elapsed_ns: int
    #: With the scans, in which the guest goes on writing.
    spent_ns: int


class Precopy:
    """One pre-copy. `started_ns` and `now_ns` are of one clock."""

    def __init__(self, policy: DowntimePolicy, started_ns: int) -> None:
        self.policy = policy
        self.passes = 0
        #: Busy was said and the policy completes: the pause is made whatever it finds.
        self.completing = False
        self._started_ns = started_ns
        self._now_ns = started_ns
        self._recent: deque[_Pass] = deque(maxlen=STALLED_PASSES)
        self._copied = 0
        self._stalled = 0
        self._missed = 0
        self._rates = Rates(0.0)

    def round_done(
        self, copied_pages: int, remaining_pages: int, elapsed_ns: int, rates: Rates, now_ns: int
    ) -> Decision:
        """A pass has copied so much while the guest ran, and left so much dirty."""
        self.passes += 1
        spent_ns = max(elapsed_ns, now_ns - self._now_ns)
        self._note(_Pass(copied_pages, remaining_pages, elapsed_ns, spent_ns), rates, now_ns)
        forecast = self._forecast(remaining_pages)
        fits = forecast.fits or self._is_small(remaining_pages)
        self._stalled = 0 if fits or remaining_pages < SHRINK * copied_pages else self._stalled + 1
        if self.completing:
            return Decision(Verdict.PAUSE, "completed in spite of a busy guest", forecast)
        if self.passes < self.policy.min_iterations and not self._is_out_of_time:
            return Decision(Verdict.CONTINUE, "too few passes yet", forecast)
        if fits:
            return Decision(Verdict.PAUSE, "the rest fits", forecast)
        return self._decide_busy(forecast) or Decision(Verdict.CONTINUE, "the dirty set shrinks", forecast)

    def check_paused(self, dirty_pages: int, rates: Rates) -> Decision:
        """The guest stands still and this is all that is dirty. PAUSE: finish; CONTINUE: let it run and copy on."""
        self._rates = rates
        forecast = self._forecast(dirty_pages)
        if forecast.fits or self._is_small(dirty_pages):
            return Decision(Verdict.PAUSE, "it fits", forecast)
        if self.completing:
            return Decision(Verdict.PAUSE, "completed in spite of a busy guest", forecast)
        self._missed += 1
        missed = Decision(Verdict.CONTINUE, "the pause found more than was forecast", forecast)
        return self._decide_busy(forecast) or missed

    def report(self) -> PrecopyReport:
        recent, rates, policy = self._recent, self._rates, self.policy
        elapsed_s = max(1, sum(one.elapsed_ns for one in recent)) / NS_PER_S
        spent_s = max(1, sum(one.spent_ns for one in recent)) / NS_PER_S
        remaining = recent[-1].remaining if recent else 0
        working_set = max((one.remaining for one in recent), default=0)
        spare_s = (policy.max_downtime_ns - rates.fixed_ns) / NS_PER_S
        return PrecopyReport(
            self.passes,
            self._missed,
            self._now_ns - self._started_ns,
            self._copied,
            remaining,
            sum(one.copied for one in recent) / elapsed_s,
            sum(one.remaining for one in recent) / spent_s,
            working_set,
            policy.max_downtime_ns,
            rates.stretch_ns(remaining),
            rates.stretch_ns(working_set),
            working_set * rates.bytes_per_page / spare_s if spare_s > 0 else 0.0,
            rates.bytes_per_s,
        )

    def _note(self, one: _Pass, rates: Rates, now_ns: int) -> None:
        self._recent.append(one)
        self._rates, self._now_ns = rates, now_ns
        self._copied += one.copied

    def _forecast(self, pages: int) -> Forecast:
        downtime_ns = self._rates.stretch_ns(pages)
        return Forecast(pages, downtime_ns, downtime_ns <= self.policy.max_downtime_ns)

    def _is_small(self, pages: int) -> bool:
        return pages <= self.policy.min_remaining_pages

    @property
    def _is_out_of_time(self) -> bool:
        return self._now_ns - self._started_ns >= self.policy.max_time_ns

    def _busy(self) -> str:
        """Why the guest counts as busy, "" if it does not."""
        if self._is_out_of_time:
            return f"{self.policy.max_time_ns / NS_PER_S:g} s are over"
        if self._stalled >= STALLED_PASSES:
            return f"the dirty set has not shrunk for {self._stalled} passes"
        if self._missed >= MISSED_PAUSES:
            return f"{self._missed} pauses found more than was forecast"
        if self.passes >= self.policy.max_iterations:
            return f"{self.passes} passes were not enough"
        return ""

    def _decide_busy(self, forecast: Forecast) -> Decision | None:
        """None while the guest is not busy."""
        why, policy = self._busy(), self.policy
        if not why:
            return None
        reason = f"the VM is too active: {why}; {self.report().describe()}"
        if policy.on_busy is OnBusy.COMPLETE:
            self.completing = True
            return Decision(Verdict.PAUSE, reason, forecast)
        if policy.on_busy is OnBusy.ABORT or self._is_out_of_time:
            return Decision(Verdict.ABORT, reason, forecast)
        return Decision(Verdict.CONTINUE, reason, forecast)
