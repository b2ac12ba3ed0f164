"""Medians and spreads of repeated measurements. Nothing here knows what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from replicator.errors import require


@dataclass(frozen=True, slots=True)
class Spread:
    """Of the repeats of one figure: the median, the middle half and the extremes."""

    median: float
    low: float
    q1: float
    q3: float
    high: float
    count: int


def spread_of(values: Sequence[float]) -> Spread:
    """The spread of at least one value. Quartiles are those of the sample itself (inclusive)."""
    require(bool(values), "a spread needs a value")
    median, low, high = statistics.median(values), min(values), max(values)
    if len(values) == 1:
        return Spread(median, low, low, high, high, 1)
    q1, _, q3 = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, q1, q3, high, len(values))


def percentile(values: Sequence[float], share: float) -> float:
    """Nearest rank: the smallest value that `share` (0..1) of all do not exceed. 0 when there is none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    rank = max(1, -(-len(ordered) * round(share * 10_000) // 10_000))
    return ordered[rank - 1]


def ranges_overlap(one: Spread, other: Spread) -> bool:
    """Whether lowest..highest of both have a value in common.

    Of two samples of five from the same distribution one lies wholly beyond the other once in 126 times."""
    return one.low <= other.high and other.low <= one.high


def line_through(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """(slope, intercept) of the least-squares line; two points with different x at least."""
    slope, intercept = statistics.linear_regression([x for x, _ in points], [y for _, y in points])
    return slope, intercept
