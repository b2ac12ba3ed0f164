"""Medians, spreads and percentiles."""

from __future__ import annotations

import itertools
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.bench.figures.stats import line_through, percentile, ranges_overlap, spread_of
from replicator.errors import InvariantError

numbers = st.floats(-1e9, 1e9)
samples = st.lists(numbers, min_size=1, max_size=60)


def test_a_spread_has_median_quartiles_and_extremes():
    spread = spread_of([5.0, 1.0, 3.0, 2.0, 4.0])
    assert (spread.median, spread.low, spread.q1, spread.q3, spread.high, spread.count) == (3, 1, 2, 4, 5, 5)


def test_a_single_value_is_its_own_spread():
    spread = spread_of([2.5])
    assert {spread.median, spread.low, spread.q1, spread.q3, spread.high} == {2.5}


def test_no_value_has_no_spread():
    with pytest.raises(InvariantError):
        spread_of([])


@given(samples)
def test_a_spread_is_in_order(values):
    spread = spread_of(values)
    slack = 1e-6 * (1 + abs(spread.high) + abs(spread.low))
    ordered = [spread.low, spread.q1, spread.median, spread.q3, spread.high]
    assert all(below <= above + slack for below, above in itertools.pairwise(ordered))
    assert spread.median == statistics.median(values)


@given(samples, st.integers(0, 1000))
def test_a_percentile_is_the_smallest_value_that_enough_do_not_exceed(values, per_mille):
    share = per_mille / 1000
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) * 1000 >= per_mille * len(values)
    smaller = [value for value in values if value < found]
    if smaller:
        assert len(smaller) * 1000 < per_mille * len(values)


def test_percentiles_of_a_hundred():
    values = [float(number) for number in range(1, 101)]
    assert [percentile(values, share) for share in (0.5, 0.99, 0.999, 1.0)] == [50, 99, 100, 100]
    assert percentile([], 0.5) == 0


def test_ranges_that_touch_overlap():
    low, middle, high = spread_of([1, 2]), spread_of([2, 3]), spread_of([4, 5])
    assert ranges_overlap(low, middle)
    assert not ranges_overlap(middle, high)
    assert not ranges_overlap(high, low)


@given(st.floats(-100, 100), st.floats(-100, 100))
def test_a_line_is_found_again(slope, intercept):
    points = [(x, slope * x + intercept) for x in (0.25, 1.0, 4.0, 8.0)]
    found_slope, found_intercept = line_through(points)
    assert found_slope == pytest.approx(slope, abs=1e-6)
    assert found_intercept == pytest.approx(intercept, abs=1e-6)
