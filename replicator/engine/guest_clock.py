"""How far a guest's clocks are behind its host's, and when its wall clock may be set. Pure.

Each pause holds the guest's clocks still, and a failover sets them back to the last checkpoint, so a protected guest is
ever later. `DriftMeter` adds this up. Two measures go into it: our own watch (from the order to pause to the order to go
on), which errs by the time that the orders take, and the guest's running time in each device state, which is exact. Where
there is the second one, only what has happened since the newest checkpoint is by the first.

`CatchUp` decides when the wall clock is to be set. Rules: never back, never more often than STEP_INTERVAL_NS, and less
and less often while the agent fails. A monotonic clock of the guest is never touched; nobody could without its harm.

Host times are CLOCK_MONOTONIC unless they are named wall times; all are nanoseconds.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum

from replicator.errors import require
from replicator.units import NS_PER_MS, NS_PER_S

#: The drift is told over this much of the past.
WINDOW_NS = 60 * NS_PER_S
_SAMPLE_NS = NS_PER_S
#: Less than this is not worth a step, and the scatter of a reading is not far below it.
STEP_NS_MIN = 20 * NS_PER_MS
#: The clock must be behind by so many times what a reading takes: setting it may take as long or longer.
STEP_ROUND_TRIPS = 4
STEP_INTERVAL_NS = NS_PER_S
RETRY_NS_MIN, RETRY_NS_MAX = NS_PER_S, 30 * NS_PER_S


class ClockPolicy(Enum):
    #: The clocks go on from where they were.
    CONTINUE = "continue"
    #: The wall clock is set forward to the host's.
    CATCH_UP = "catch-up"


@dataclass(frozen=True, slots=True)
class ClockSettings:
    policy: ClockPolicy = ClockPolicy.CONTINUE
    #: With CATCH_UP the wall clock is set when it is further behind.
    max_behind_ns: int = 500 * NS_PER_MS


class DriftMeter:
    """Of a guest that runs when the meter is made and is `behind_ns` late."""

    def __init__(self, now_ns: int, behind_ns: int = 0) -> None:
        #: Time that the guest did not have since the meter was made; without that of the present stop.
        self._lost_ns = 0
        #: `lost_ns` less this is how far the wall clock is behind.
        self._caught_up_ns = -behind_ns
        self._stopped_ns: int | None = None
        #: Of the newest checkpoint: when it stopped, its running time, what was lost by then.
        self._anchor: tuple[int, int, int] | None = None
        self._samples = deque([(now_ns, 0)])

    @property
    def is_stopped(self) -> bool:
        return self._stopped_ns is not None

    def stop(self, now_ns: int) -> None:
        """The guest is told to pause. Once more does no harm."""
        if self._stopped_ns is None:
            self._stopped_ns = now_ns

    def measure(self, running_ns: int) -> None:
        """The guest's running time at the present stop; it grows only while the guest runs."""
        require(self._stopped_ns is not None, "a checkpoint is taken while the guest is stopped")
        stopped_ns = self._stopped_ns or 0
        if self._anchor is not None and running_ns >= self._anchor[1]:
            since_ns, ran_ns, lost_ns = self._anchor
            self._lost_ns = lost_ns + (stopped_ns - since_ns) - (running_ns - ran_ns)
        self._anchor = (stopped_ns, running_ns, self._lost_ns)

    def start(self, now_ns: int) -> None:
        """The guest is told to go on. Once more does no harm."""
        if self._stopped_ns is None:
            return
        self._lost_ns += now_ns - self._stopped_ns
        self._stopped_ns = None
        if now_ns - self._samples[-1][0] >= _SAMPLE_NS:
            self._samples.append((now_ns, self._lost_ns))
        while len(self._samples) > 2 and now_ns - self._samples[1][0] >= WINDOW_NS:
            self._samples.popleft()

    def behind_ns(self, now_ns: int) -> int:
        """How late the wall clock is; below 0 when it was found to be early."""
        return self._lost(now_ns) - self._caught_up_ns

    def correct(self, behind_ns: int, now_ns: int) -> None:
        """Somebody has read the wall clock: it is so late at present."""
        self._caught_up_ns = self._lost(now_ns) - behind_ns

    def drift_ppm(self, now_ns: int) -> float:
        """Microseconds lost a second, over the newest WINDOW_NS."""
        since_ns, lost_ns = self._samples[0]
        passed_ns = now_ns - since_ns
        return max(0.0, (self._lost(now_ns) - lost_ns) * 1e6 / passed_ns) if passed_ns > 0 else 0.0

    def _lost(self, now_ns: int) -> int:
        return self._lost_ns + (0 if self._stopped_ns is None else now_ns - self._stopped_ns)


@dataclass(frozen=True, slots=True)
class Reading:
    """The guest's wall clock was `guest_ns` at some instant between two of the host's wall clock."""

    asked_ns: int
    guest_ns: int
    answered_ns: int

    @property
    def round_trip_ns(self) -> int:
        return self.answered_ns - self.asked_ns

    @property
    def behind_ns(self) -> int:
        """At least; it is up to `round_trip_ns` more."""
        return self.asked_ns - self.guest_ns

    @property
    def likely_behind_ns(self) -> int:
        """As if the clock had been read half way."""
        return self.behind_ns + self.round_trip_ns // 2

    @property
    def is_worth_a_step(self) -> bool:
        """Whether the host's time is sure to be a step forward, even when it takes long to get into the guest."""
        return self.behind_ns > max(STEP_NS_MIN, STEP_ROUND_TRIPS * self.round_trip_ns)


class CatchUp:
    """When to look at the wall clock of one guest, and how often at most."""

    def __init__(self, *, is_ordered: bool = False) -> None:
        #: Something has set the guest back: a look is due whatever the meter says.
        self._is_ordered = is_ordered
        self._not_before_ns = 0
        self._retry_ns = RETRY_NS_MIN

    def order(self) -> None:
        """After a take-over or a long stop: do not wait until it is too far behind."""
        self._is_ordered = True

    def is_due(self, settings: ClockSettings, behind_ns: int, now_ns: int) -> bool:
        if settings.policy is not ClockPolicy.CATCH_UP or now_ns < self._not_before_ns:
            return False
        return self._is_ordered or behind_ns > settings.max_behind_ns

    def succeeded(self, now_ns: int) -> None:
        """The wall clock was looked at, and set if that was worth it."""
        self._is_ordered = False
        self._retry_ns = RETRY_NS_MIN
        self._not_before_ns = now_ns + STEP_INTERVAL_NS

    def failed(self, now_ns: int) -> None:
        self._not_before_ns = now_ns + self._retry_ns
        self._retry_ns = min(2 * self._retry_ns, RETRY_NS_MAX)
