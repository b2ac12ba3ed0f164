"""When a guest may be paused for the rest of a copy: simulated guests of every temper, and what the reports say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulated_guests import Copier, bursts, constant, hot_set

from replicator.engine.precopy import (
    MISSED_PAUSES,
    STALLED_PASSES,
    DowntimePolicy,
    OnBusy,
    Precopy,
    Rates,
    Verdict,
)
from replicator.errors import ConfigError
from replicator.units import NS_PER_MS, NS_PER_S, PAGE_SIZE

RAM_PAGES = 100_000
#: 25,000 pages a second.
LINK = Rates(25_000 * PAGE_SIZE, 5 * NS_PER_MS)

rates = st.builds(
    Rates,
    st.floats(1e6, 1e10),
    st.integers(0, 20 * NS_PER_MS),
    st.floats(40, PAGE_SIZE),
)
policies = st.builds(
    DowntimePolicy,
    st.integers(NS_PER_MS, 2 * NS_PER_S),
    st.integers(5, 40),
    st.integers(0, 2000),
    st.integers(2, 60).map(lambda s: s * NS_PER_S),
    st.sampled_from(OnBusy),
    st.integers(1, 5),
)
guests = st.one_of(
    st.builds(constant, st.floats(0, 1e6), st.just(RAM_PAGES)),
    st.builds(hot_set, st.integers(0, RAM_PAGES), st.floats(1e3, 1e7)),
    st.builds(bursts, st.integers(0, RAM_PAGES), st.integers(NS_PER_MS, 5 * NS_PER_S)),
)


@given(policies, guests, rates, st.integers(0, 20 * NS_PER_MS))
def test_abort_and_continue_never_pause_for_longer_than_allowed(policy, guest, rates, lag_ns):
    copier = Copier(RAM_PAGES, guest, rates, pause_lag_ns=lag_ns)
    verdict = copier.run(Precopy(policy, 0))
    assert verdict is not Verdict.CONTINUE, "it comes to an end"
    if policy.on_busy is OnBusy.COMPLETE:
        assert verdict is Verdict.PAUSE
        return
    for found, took_ns in copier.pauses:
        small = found.forecast.remaining_pages <= policy.min_remaining_pages
        assert found.verdict is not Verdict.PAUSE or small or took_ns <= policy.max_downtime_ns


@given(policies, guests, rates)
def test_passes_and_time_are_bounded(policy, guest, rates):
    copier = Copier(RAM_PAGES, guest, rates)
    copier.run(Precopy(policy, 0))
    longest_ns = RAM_PAGES * PAGE_SIZE / rates.bytes_per_s * NS_PER_S
    assert copier.now_ns <= policy.max_time_ns + longest_ns * (1 + policy.min_iterations)
    if policy.on_busy is not OnBusy.CONTINUE:
        assert copier.passes <= policy.max_iterations


@given(st.floats(0, 20_000), st.integers(20, 2000))
def test_the_forecast_is_what_an_ideal_guests_pause_takes(pages_per_s, max_downtime_ms):
    policy = DowntimePolicy(max_downtime_ms * NS_PER_MS, 40, 0)
    copier = Copier(RAM_PAGES, constant(pages_per_s, RAM_PAGES), LINK)
    precopy = Precopy(policy, 0)
    assert copier.run(precopy) is Verdict.PAUSE
    (found, took_ns), *_ = copier.pauses
    assert found.forecast.downtime_ns == took_ns <= policy.max_downtime_ns
    assert precopy.report().downtime_ns == took_ns


@given(rates, st.integers(0, 4 * NS_PER_S))
def test_pages_within_a_downtime_is_the_inverse_of_the_forecast(rates, downtime_ns):
    pages = rates.pages_within(downtime_ns)
    if pages < 0:
        assert rates.fixed_ns > downtime_ns
        return
    assert rates.stretch_ns(pages) <= downtime_ns
    assert rates.stretch_ns(pages + 2) > downtime_ns


def test_a_calm_guest_needs_one_pass():
    copier = Copier(RAM_PAGES, constant(1000, RAM_PAGES), LINK)
    assert copier.run(Precopy(DowntimePolicy(), 0)) is Verdict.PAUSE
    assert copier.passes == 1


def test_a_shrinking_set_gets_the_passes_that_it_needs():
    copier = Copier(RAM_PAGES, constant(12_500, RAM_PAGES), LINK)
    policy = DowntimePolicy(50 * NS_PER_MS, 40, 0, on_busy=OnBusy.ABORT)
    assert copier.run(Precopy(policy, 0)) is Verdict.PAUSE
    assert copier.passes == 7, "half of it remains each time, until 1125 pages are left"


@pytest.mark.parametrize("pages_per_s", [25_000, 100_000])
def test_a_guest_faster_than_the_link_is_known_long_before_the_passes_are_used_up(pages_per_s):
    copier = Copier(RAM_PAGES, constant(pages_per_s, RAM_PAGES), LINK)
    policy = DowntimePolicy(max_iterations=1000, on_busy=OnBusy.ABORT)
    assert copier.run(Precopy(policy, 0)) is Verdict.ABORT
    assert copier.passes == STALLED_PASSES and not copier.pauses


def test_a_hot_set_that_is_too_large_aborts_with_what_would_make_it_fit():
    copier = Copier(RAM_PAGES, hot_set(20_000, 1e6), LINK)
    precopy = Precopy(DowntimePolicy(100 * NS_PER_MS, 50, 0, on_busy=OnBusy.ABORT), 0)
    assert copier.run(precopy) is Verdict.ABORT
    report = precopy.report()
    assert report.working_set_pages == 20_000
    assert report.needed_downtime_ns == LINK.stretch_ns(20_000) == 805 * NS_PER_MS
    assert report.copied_pages_per_s == pytest.approx(25_000, rel=0.01)
    for remedy in (
        DowntimePolicy(report.needed_downtime_ns, 50, 0, on_busy=OnBusy.ABORT),
        DowntimePolicy(100 * NS_PER_MS, 50, 0, on_busy=OnBusy.ABORT),
    ):
        rates = (
            LINK
            if remedy.max_downtime_ns > 100 * NS_PER_MS
            else Rates(report.needed_bytes_per_s, LINK.fixed_ns)
        )
        again = Copier(RAM_PAGES, hot_set(20_000, 1e6), rates)
        assert again.run(Precopy(remedy, 0)) is Verdict.PAUSE


def test_the_reason_names_rates_working_set_and_remedies():
    precopy = Precopy(DowntimePolicy(100 * NS_PER_MS, 50, 0, on_busy=OnBusy.ABORT), 0)
    for second in range(1, STALLED_PASSES + 1):
        decision = precopy.round_done(20_000, 20_000, 800 * NS_PER_MS, LINK, second * NS_PER_S)
    assert decision.verdict is Verdict.ABORT
    for said in (
        "the VM is too active",
        "has not shrunk for 3 passes",
        "98 MiB/s",
        "20000 pages dirty",
        "20000 pages/s",
        "805 ms",
        "allowed are 100 ms",
        "max_downtime 806 ms",
    ):
        assert said in decision.reason


def test_one_burst_is_no_busy_guest():
    precopy = Precopy(DowntimePolicy(20 * NS_PER_MS, 50, 0, on_busy=OnBusy.ABORT), 0)
    assert precopy.round_done(10_000, 1_000, NS_PER_S, LINK, NS_PER_S).verdict is Verdict.CONTINUE
    for second in range(2, STALLED_PASSES + 1):
        verdict = precopy.round_done(1_000, 30_000, NS_PER_S, LINK, second * NS_PER_S).verdict
        assert verdict is Verdict.CONTINUE
    assert precopy.round_done(30_000, 500, NS_PER_S, LINK, 9 * NS_PER_S).verdict is Verdict.CONTINUE
    assert precopy.round_done(500, 10, NS_PER_S, LINK, 10 * NS_PER_S).verdict is Verdict.PAUSE


def test_continue_goes_on_until_the_guest_calms_down():
    precopy = Precopy(DowntimePolicy(50 * NS_PER_MS, 5, 0, on_busy=OnBusy.CONTINUE), 0)
    for number in range(1, 60):
        decision = precopy.round_done(30_000, 30_000, NS_PER_S, LINK, number * NS_PER_S)
        assert decision.verdict is Verdict.CONTINUE
    assert "too active" in decision.reason
    assert precopy.round_done(30_000, 100, NS_PER_S, LINK, 60 * NS_PER_S).verdict is Verdict.PAUSE


def test_without_a_rate_only_an_empty_set_fits():
    precopy = Precopy(DowntimePolicy(min_remaining_pages=0), 0)
    assert precopy.round_done(10, 1, 0, Rates(0.0), 1).verdict is Verdict.CONTINUE
    assert "no rate is known" in precopy.report().describe()
    assert precopy.round_done(1, 0, 0, Rates(0.0), 2).verdict is Verdict.PAUSE


def test_a_pause_that_finds_too_much_is_given_up_a_few_times_only():
    precopy = Precopy(DowntimePolicy(50 * NS_PER_MS, 50, 0, on_busy=OnBusy.COMPLETE), 0)
    for number in range(1, MISSED_PAUSES + 1):
        assert precopy.round_done(10_000, 0, NS_PER_S, LINK, number).verdict is Verdict.PAUSE
        found = precopy.check_paused(90_000, LINK)
    assert found.verdict is Verdict.PAUSE and precopy.completing
    assert precopy.round_done(9, 90_000, NS_PER_S, LINK, 9).verdict is Verdict.PAUSE


def test_passes_that_are_made_in_any_case_are_made_even_if_the_rest_fits():
    precopy = Precopy(DowntimePolicy(min_iterations=3), 0)
    verdicts = [precopy.round_done(0, 0, 1, LINK, number).verdict for number in range(3)]
    assert verdicts == [Verdict.CONTINUE, Verdict.CONTINUE, Verdict.PAUSE]


@pytest.mark.parametrize(
    ("bounds", "said"),
    [
        ({"max_downtime_ns": 0}, "must be above zero"),
        ({"max_downtime_ns": 2 * NS_PER_S, "max_time_ns": NS_PER_S}, "2000 ms is longer than max_time = 1 s"),
        ({"max_iterations": 2, "min_iterations": 3}, "max_iterations = 2 is below the 3 passes"),
        ({"min_remaining_pages": -1}, "min_remaining_pages = -1 is negative"),
    ],
)
def test_bounds_that_contradict_each_other_are_refused_with_the_figures(bounds, said):
    with pytest.raises(ConfigError, match=said) as refusal:
        DowntimePolicy(**bounds)
    assert refusal.value.hint


def test_a_downtime_below_the_measured_fixed_part_is_refused():
    policy = DowntimePolicy(2 * NS_PER_MS)
    policy.check_against(2 * NS_PER_MS)
    with pytest.raises(ConfigError, match=r"2\.0 ms can never be kept: .* takes 2\.4 ms"):
        policy.check_against(2_400_000)
