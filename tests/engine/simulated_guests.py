"""Guests that dirty pages by simple laws, and a copier with a constant rate: what pre-copies are tried upon."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from replicator.engine.precopy import Decision, Precopy, Rates, Verdict
from replicator.units import NS_PER_MS, NS_PER_S, PAGE_SIZE

#: No pass is shorter, for it scans.
PASS_NS_MIN = 5 * NS_PER_MS

#: Takes (since_ns, until_ns), gives how many distinct pages were written in that time.
Dirtying = Callable[[int, int], int]


def constant(pages_per_s: float, ram_pages: int) -> Dirtying:
    """Never the same page twice, until all are dirty."""
    return lambda since, until: min(ram_pages, round((until - since) / NS_PER_S * pages_per_s))


def hot_set(pages: int, pages_per_s: float) -> Dirtying:
    """The same pages again and again."""
    return lambda since, until: min(pages, round((until - since) / NS_PER_S * pages_per_s))


def bursts(pages: int, every_ns: int) -> Dirtying:
    """Many pages at once, and nothing between."""
    return lambda since, until: pages if until // every_ns > since // every_ns else 0


@dataclass
class Copier:
    """Copies `ram_pages` of a guest pass after pass. The pause is made where a decision says so."""

    ram_pages: int
    dirtying: Dirtying
    rates: Rates
    now_ns: int = 0
    passes: int = 0
    #: A pause takes this long to take effect; what is written meanwhile is found in it.
    pause_lag_ns: int = 0
    #: (decision, what the pause really took) of each pause that was made, given up ones included.
    pauses: list[tuple[Decision, int]] = field(default_factory=list)

    def run(self, precopy: Precopy, passes_max: int = 20_000) -> Verdict:
        """PAUSE when it came to an end that way, else ABORT. CONTINUE after `passes_max` passes."""
        owed = self.ram_pages
        for _ in range(passes_max):
            decision, owed = self._pass(precopy, owed)
            if decision.verdict is Verdict.ABORT:
                return Verdict.ABORT
            if decision.verdict is Verdict.PAUSE:
                owed += self._dirty_for(self.pause_lag_ns)
                found = precopy.check_paused(owed, self.rates)
                self.pauses.append((found, self.rates.stretch_ns(owed)))
                if found.verdict is not Verdict.CONTINUE:
                    return found.verdict
        return Verdict.CONTINUE

    def _pass(self, precopy: Precopy, owed: int) -> tuple[Decision, int]:
        elapsed_ns = max(PASS_NS_MIN, round(owed * PAGE_SIZE / self.rates.bytes_per_s * NS_PER_S))
        remaining = self._dirty_for(elapsed_ns)
        self.passes += 1
        return precopy.round_done(owed, remaining, elapsed_ns, self.rates, self.now_ns), remaining

    def _dirty_for(self, span_ns: int) -> int:
        since_ns, self.now_ns = self.now_ns, self.now_ns + span_ns
        return min(self.ram_pages, self.dirtying(since_ns, self.now_ns))
