"""Two results of one benchmark side by side: the ratio of each figure, and whether it is more than noise. Pure.

A figure differs when lowest..highest of its repeats of one run lies wholly beyond the other run's. With five repeats
each that happens by chance once in 126 times, so of hundreds of figures a few will be marked for nothing: look at the
size of the ratio as well. Fewer than MIN_REPEATS values on a side prove nothing and are never marked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from replicator.bench.figures.metrics import Better
from replicator.bench.figures.result import BenchResult, Figure
from replicator.bench.figures.stats import ranges_overlap
from replicator.errors import ConfigError

MIN_REPEATS: Final = 3


@dataclass(frozen=True, slots=True)
class Change:
    """One figure of both results."""

    before: Figure
    after: Figure

    @property
    def ratio(self) -> float | None:
        """After over before; None when there was nothing before."""
        base = self.before.spread.median
        return self.after.spread.median / base if base else None

    @property
    def is_real(self) -> bool:
        """Whether it is more than noise."""
        before, after = self.before.spread, self.after.spread
        return min(before.count, after.count) >= MIN_REPEATS and not ranges_overlap(before, after)

    @property
    def worse_percent(self) -> float:
        """How much worse it became; 0 or less when it did not, or when neither way is better.

        For rates: how much longer the same work takes, so that doubling a latency and halving a rate weigh the same."""
        better, ratio = self.before.metric.better, self.ratio
        if better is Better.NEITHER or ratio is None:
            return 0.0
        if better is Better.LOWER:
            return (ratio - 1) * 100
        return (1 / ratio - 1) * 100 if ratio else float("inf")

    @property
    def word(self) -> str:
        if not self.is_real:
            return ""
        if self.before.metric.better is Better.NEITHER:
            return "differs"
        return "worse" if self.worse_percent > 0 else "better"


@dataclass(frozen=True, slots=True)
class Comparison:
    """`only_before` and `only_after` have no counterpart."""

    changes: tuple[Change, ...]
    only_before: tuple[Figure, ...]
    only_after: tuple[Figure, ...]
    #: What differs in where or how they were measured, as "key: before -> after".
    circumstances: tuple[str, ...]

    def failed(self, fail_above_percent: float) -> list[Change]:
        """Changes for the worse beyond noise and by more than this."""
        return [
            change for change in self.changes if change.is_real and change.worse_percent > fail_above_percent
        ]


def compare_results(before: BenchResult, after: BenchResult) -> Comparison:
    """ConfigError when they are of different benchmarks or have no figure in common."""
    if before.bench != after.bench:
        raise ConfigError(
            f"a result of `bench {before.bench}` cannot be compared with one of `bench {after.bench}`",
            hint="name two results of the same benchmark",
        )
    old, new = _by_key(before.figures), _by_key(after.figures)
    changes = tuple(Change(figure, new[key]) for key, figure in old.items() if key in new)
    if not changes:
        raise ConfigError(
            "the two results have no figure in common", hint="measure the same settings and workloads in both"
        )
    return Comparison(
        changes,
        tuple(figure for key, figure in old.items() if key not in new),
        tuple(figure for key, figure in new.items() if key not in old),
        tuple(_circumstances(before, after)),
    )


def _by_key(figures: Sequence[Figure]) -> dict[tuple[object, str], Figure]:
    return {(frozenset(figure.cell), figure.metric.name): figure for figure in figures}


def _circumstances(before: BenchResult, after: BenchResult) -> list[str]:
    said = []
    for old, new in ((before.machine, after.machine), (before.options, after.options)):
        for key in dict.fromkeys([*old, *new]):
            if old.get(key) != new.get(key):
                said.append(f"{key}: {old.get(key, '-')} -> {new.get(key, '-')}")
    return said
