"""COLO at the primary: when the two guests run compared, and when checkpoints come at the pace of Remus instead.

    COMPARED --asked too often--> PACED --after a while--> COMPARED

While compared, an epoch closes when the comparison asks for a checkpoint, not sooner than `interval_min` after the
guest has run on, and after `interval_max` in any case. A pair whose outputs differ more often than `differences_max`
a second gains nothing by comparing: its epochs come at Remus's pace, the secondary's VM stands still, and comparing is
tried again after `retry`, twice as late each time it fails at once.

Rules: 1. Whether the secondary's VM runs on from an epoch is said when the epoch opens, and holds for it. 2. The pair is
compared from the secondary's word that its VM runs until the pause of the next epoch; the relay's comparison goes on over
the checkpoint, and ends with an epoch from which no VM runs on. This file does not know what is compared, nor how an
epoch is made.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum

from replicator.engine.measures import Measures
from replicator.engine.pacing import Pacer, PacingSettings
from replicator.errors import ConfigError
from replicator.units import NS_PER_MS, NS_PER_S, Epoch

#: In which differences are counted.
WINDOW_NS = 2 * NS_PER_S
#: Comparing that lasted for so long has worked: the next retry comes early again.
PROVEN_NS = 10 * NS_PER_S
RETRY_MAX_NS = 60 * NS_PER_S


class ColoState(Enum):
    COMPARED = "compared"
    PACED = "paced"


@dataclass(frozen=True, slots=True)
class ColoSettings:
    """ConfigError for bounds that contradict each other."""

    #: The guest has run for so long before the next checkpoint that is asked for.
    interval_min_ns: int = 5 * NS_PER_MS
    #: A checkpoint comes without being asked for: what a take-over after a lost twin would go back to.
    interval_max_ns: int = 5 * NS_PER_S
    #: A second; 0: comparing is never given up.
    differences_max: float = 8.0
    retry_ns: int = 5 * NS_PER_S

    def __post_init__(self) -> None:
        low, high = self.interval_min_ns / NS_PER_MS, self.interval_max_ns / NS_PER_MS
        if not 0 <= low <= high or high <= 0:
            raise ConfigError(
                f"[colo] interval_min_ms = {low:g} and interval_max_ms = {high:g} are no range",
                hint="the first one may not be above the second, which is above 0",
            )
        if self.differences_max < 0 or self.retry_ns <= 0:
            raise ConfigError(
                f"[colo] differences_max = {self.differences_max:g} and retry_ms = {self.retry_ns / NS_PER_MS:g}",
                hint="differences_max is 0 or more a second, retry_ms is above 0",
            )


class Colo:
    """Of one primary. Times are of the machine's clock."""

    def __init__(self, settings: ColoSettings) -> None:
        self.settings = settings
        self.state = ColoState.COMPARED
        #: The newest epoch from which both guests run; None while output waits for commits.
        self.compared_from: Epoch | None = None
        #: Checkpoints that a difference led to, since the start.
        self.differences = 0
        self._differed_ns: deque[int] = deque()
        self._since_ns = 0
        self._retry_ns = settings.retry_ns

    def differed(self, now_ns: int) -> None:
        """The guests have parted."""
        self.differences += 1
        self._differed_ns.append(now_ns)
        self._forget_old(now_ns)

    def rate(self, now_ns: int) -> float:
        """Differences a second of late."""
        self._forget_old(now_ns)
        return len(self._differed_ns) * NS_PER_S / WINDOW_NS

    def runs_vm(self, now_ns: int) -> bool:
        """Whether the secondary's VM is to run on from the epoch that opens now."""
        if self.state is ColoState.PACED:
            if now_ns - self._since_ns >= self._retry_ns:
                self._enter(ColoState.COMPARED, now_ns)
        elif 0 < self.settings.differences_max < self.rate(now_ns):
            proven = now_ns - self._since_ns >= PROVEN_NS
            self._retry_ns = self.settings.retry_ns if proven else min(2 * self._retry_ns, RETRY_MAX_NS)
            self._enter(ColoState.PACED, now_ns)
        return self.state is ColoState.COMPARED

    def _enter(self, state: ColoState, now_ns: int) -> None:
        self.state, self._since_ns = state, now_ns
        self._differed_ns.clear()

    def _forget_old(self, now_ns: int) -> None:
        while self._differed_ns and now_ns - self._differed_ns[0] > WINDOW_NS:
            self._differed_ns.popleft()


class ColoPacer(Pacer):
    """Paces by the comparison while there is one, like Remus otherwise."""

    def __init__(self, settings: PacingSettings, measures: Measures, in_flight_max: int, colo: Colo) -> None:
        super().__init__(settings, measures, in_flight_max)
        self._colo = colo
        self._is_asked = False

    def resumed(self, started_ns: int, now_ns: int) -> None:
        super().resumed(started_ns, now_ns)
        self._is_asked = False

    def asked(self) -> None:
        """The comparison needs a checkpoint."""
        self._is_asked = True

    def due_ns(self) -> int:
        if self._colo.compared_from is None:
            return super().due_ns()
        if self._is_asked:
            return self._resumed_ns + self._colo.settings.interval_min_ns
        return self._started_ns + self._colo.settings.interval_max_ns

    def quiet_ns(self) -> int | None:
        return super().quiet_ns() if self._colo.compared_from is None else None

    def due_for_output_ns(self, waits_since_ns: int) -> int:
        if self._colo.compared_from is None:
            return super().due_for_output_ns(waits_since_ns)
        return self.due_ns()
