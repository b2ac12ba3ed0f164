"""When the next epoch closes.

`fixed` closes one an interval. `adaptive` closes one soon when output waits, and rarely while nothing does, under a
goal: a latency that a held frame shall not exceed, or a share of its time that the guest may stand still.

    earliest = the guest has run long enough (overhead), and the link could commit meanwhile
    idle     = `interval_max` after the last one
    output   = when the guest has nothing to do any more, for whoever asked it waits for what is held; at the latest
               where wait + pause + commit is the goal latency: one epoch for all is worth more than one for each

Rules: 1. Never before `earliest`; a goal that cannot be kept is told, and what is nearest to it done. 2. Times come
from outside and are medians of the newest epochs. This file does not know what an epoch is made of.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from replicator.engine.measures import Measures
from replicator.errors import ConfigError
from replicator.units import NS_PER_MS, NS_PER_S

#: Without a goal for it, the guest runs for as long as it stands still at least.
OVERHEAD_MAX = 0.5
#: No share makes output wait for longer: the newest pause may be one that hung, and the only one there is.
RUN_MAX_NS = 2 * NS_PER_S
#: An answer may be more than one frame.
SETTLE_NS = NS_PER_MS // 4
#: So long a guest with many clients may wait for the next request, while its network or its clients are slow.
QUIET_NS = 6 * NS_PER_MS // 5
#: So many frames an epoch are one client's, from FRAMES_MANY on many clients'.
FRAMES_FEW, FRAMES_MANY = 2, 8
#: A fixed interval is stretched until the guest has run for this part of it after a pause.
RUN_SHARE_MIN = 0.25
#: A share of waiting, or an excess over the goal, below this is noise.
NOTABLE = 0.05
_GOAL = re.compile(r"\s*(?:(latency)\s*=\s*(\d+(?:\.\d+)?)\s*ms|(overhead)\s*=\s*(\d+(?:\.\d+)?)\s*%)\s*")


class Mode(Enum):
    FIXED = "fixed"
    ADAPTIVE = "adaptive"


@dataclass(frozen=True, slots=True)
class Goal:
    """One of both is above zero."""

    latency_ns: int = 0
    #: Of the time of the guest, 0 to 1.
    overhead: float = 0.0

    def __str__(self) -> str:
        if self.latency_ns:
            return f"latency={self.latency_ns / NS_PER_MS:g}ms"
        return f"overhead={100 * self.overhead:g}%"


def parse_goal(text: str) -> Goal:
    """Of "latency=10ms" or "overhead=5%". ConfigError for anything else, and for what no guest could reach."""
    found = _GOAL.fullmatch(text)
    if found is None:
        raise ConfigError(f"goal {text!r} is not understood", hint='write "latency=10ms" or "overhead=5%"')
    if found[1]:
        goal = Goal(latency_ns=round(float(found[2]) * NS_PER_MS))
        if not NS_PER_MS <= goal.latency_ns <= 10_000 * NS_PER_MS:
            raise ConfigError(
                f"goal {text!r} is not in 1..10000 ms", hint="a pause alone takes some milliseconds"
            )
        return goal
    goal = Goal(overhead=float(found[4]) / 100)
    if not 0.001 <= goal.overhead <= OVERHEAD_MAX:
        raise ConfigError(
            f"goal {text!r} is not in 0.1..{100 * OVERHEAD_MAX:g} %",
            hint="it is the share of its time in which the guest may stand still",
        )
    return goal


@dataclass(frozen=True, slots=True)
class PacingSettings:
    """ConfigError for bounds that contradict each other."""

    interval_ns: int
    mode: Mode = Mode.FIXED
    interval_min_ns: int = 5 * NS_PER_MS
    interval_max_ns: int = 100 * NS_PER_MS
    goal: Goal = Goal(latency_ns=10 * NS_PER_MS)

    def __post_init__(self) -> None:
        low, high = self.interval_min_ns / NS_PER_MS, self.interval_max_ns / NS_PER_MS
        if not 0 < low <= high:
            raise ConfigError(
                f"interval_min_ms = {low:g} and interval_max_ms = {high:g} are no range",
                hint="the first one must be above 0 and not above the second",
            )
        if self.mode is Mode.ADAPTIVE and 0 < self.goal.latency_ns < self.interval_min_ns:
            raise ConfigError(
                f"goal {self.goal} is shorter than interval_min_ms = {low:g}, the time between two epochs",
                hint="lower interval_min_ms or allow a longer latency",
            )

    def __str__(self) -> str:
        if self.mode is Mode.FIXED:
            return f"fixed {self.interval_ns / NS_PER_MS:g} ms"
        low, high = self.interval_min_ns / NS_PER_MS, self.interval_max_ns / NS_PER_MS
        return f"adaptive {low:g}..{high:g} ms, {self.goal}"

    def check_against(self, measures: Measures) -> None:
        """ConfigError when what was measured shows that the goal can never be kept."""
        if self.mode is not Mode.ADAPTIVE or not measures.has_paused:
            return
        least_ns = measures.fixed_ns
        if 0 < self.goal.latency_ns < least_ns:
            raise ConfigError(
                f"goal {self.goal} can never be kept: a pause without a single page takes "
                f"{least_ns / NS_PER_MS:.1f} ms here",
                hint=f"allow latency={2 * least_ns / NS_PER_MS + 1:.0f}ms at least",
            )
        overhead = least_ns / (least_ns + self.interval_max_ns)
        if 0 < self.goal.overhead < overhead:
            raise ConfigError(
                f"goal {self.goal} can never be kept: a pause takes {least_ns / NS_PER_MS:.1f} ms here, which is "
                f"{100 * overhead:.1f} % with interval_max_ms = {self.interval_max_ns / NS_PER_MS:g}",
                hint="raise interval_max_ms or allow more overhead",
            )


@dataclass(frozen=True, slots=True)
class Throttle:
    """What keeps the pace from its goal. Shares are of the guest's time, 0 to 1."""

    #: "" while the goal is kept.
    reason: str = ""
    paused_share: float = 0.0
    #: An epoch was due and had to wait for those in flight.
    waiting_share: float = 0.0


class Pacer:
    """Of one pipeline. `measures` is the pipeline's to fill. After each resume `resumed`, then the two questions."""

    def __init__(self, settings: PacingSettings, measures: Measures, in_flight_max: int) -> None:
        self.settings = settings
        self.in_flight_max = in_flight_max
        self._measures = measures
        self._started_ns = self._resumed_ns = 0

    def resumed(self, started_ns: int, now_ns: int) -> None:
        """The guest runs again after the pause that began at `started_ns`."""
        self._started_ns, self._resumed_ns = started_ns, now_ns

    def due_ns(self) -> int:
        """When the next epoch closes if no output waits."""
        settings = self.settings
        if settings.mode is Mode.FIXED:
            run_ns = int(settings.interval_ns * RUN_SHARE_MIN)
            return max(self._started_ns + settings.interval_ns, self._resumed_ns + run_ns)
        return max(self.earliest_ns(), self._started_ns + settings.interval_max_ns)

    def due_for_output_ns(self, waits_since_ns: int) -> int:
        """The same when a frame has waited since then; never later than `due_ns`."""
        if self.settings.mode is Mode.FIXED:
            return self.due_ns()
        wanted_ns = waits_since_ns + self.patience_ns()
        return min(self.due_ns(), max(self.earliest_ns(), wanted_ns))

    def earliest_ns(self) -> int:
        """Before that neither the guest's share of its time nor the link allows an epoch (adaptive only)."""
        settings, measures = self.settings, self._measures
        overhead = settings.goal.overhead or OVERHEAD_MAX
        run_ns = min(measures.pauses_ns.median() * (1 / overhead - 1), RUN_MAX_NS)
        link_ns = measures.commits_ns.median() / self.in_flight_max
        spacing_ns = max(settings.interval_min_ns, int(link_ns))
        return max(self._resumed_ns + int(run_ns), self._started_ns + spacing_ns)

    def patience_ns(self) -> int:
        """How long the first held frame of an epoch waits for others while the guest is busy."""
        return max(SETTLE_NS, self._budget_ns())

    def quiet_ns(self) -> int | None:
        """A guest that does nothing for so long while output waits has no more to say; 0: one that sleeps after a settle
        delay. None when that changes nothing."""
        return None if self.settings.mode is Mode.FIXED else int(self._many() * QUIET_NS)

    @property
    def gathers(self) -> bool:
        """More than one client waits for each epoch, so that one epoch for all of them is worth some waiting."""
        return self._many() > 0

    def _many(self) -> float:
        frames = self._measures.held_frames.median()
        return min(1.0, max(0.0, (frames - FRAMES_FEW) / (FRAMES_MANY - FRAMES_FEW)))

    def _budget_ns(self) -> int:
        """What pause and commit leave of the goal latency; negative when they take more than that."""
        measures = self._measures
        return self.settings.goal.latency_ns - int(measures.pauses_ns.median() + measures.commits_ns.median())

    def throttle(self) -> Throttle:
        measures = self._measures
        paused, waiting = measures.paused_share, measures.waiting_share
        return Throttle(self._why_slow(paused, waiting), paused, waiting)

    def _why_slow(self, paused: float, waiting: float) -> str:
        measures, goal = self._measures, self.settings.goal
        commit_ms = measures.commits_ns.median() / NS_PER_MS
        pause_ms = measures.pauses_ns.median() / NS_PER_MS
        if waiting > NOTABLE:
            return f"{100 * waiting:.0f} % of the time an epoch waits for those in flight: a commit takes {commit_ms:.1f} ms"
        if self.settings.mode is Mode.FIXED:
            return ""
        if goal.overhead and paused > goal.overhead * (1 + NOTABLE):
            return f"the guest stands still for {100 * paused:.1f} % of the time: a pause takes {pause_ms:.1f} ms"
        if goal.latency_ns and self._budget_ns() < 0:
            return f"pause {pause_ms:.1f} ms and commit {commit_ms:.1f} ms are more than the goal {goal}"
        return ""
