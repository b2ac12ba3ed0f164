"""Drift adds up as the guest's own clock says, and the wall clock is set forward only, and not too often."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from replicator.engine.guest_clock import (
    RETRY_NS_MAX,
    RETRY_NS_MIN,
    STEP_INTERVAL_NS,
    STEP_NS_MIN,
    STEP_ROUND_TRIPS,
    WINDOW_NS,
    CatchUp,
    ClockPolicy,
    ClockSettings,
    DriftMeter,
    Reading,
)
from replicator.units import NS_PER_MS, NS_PER_S

SETTINGS = ClockSettings(ClockPolicy.CATCH_UP, 500 * NS_PER_MS)
#: (run, order to pause until it stops, stopped, order to go on until it runs), each in nanoseconds.
SPANS = st.lists(st.tuples(*[st.integers(0, 100 * NS_PER_MS)] * 4), min_size=1, max_size=40)


class World:
    """A guest whose clock is known, and a meter that sees only what a daemon sees."""

    def __init__(self, behind_ns: int = 0) -> None:
        self.now_ns = self.running_ns = 0
        self.meter = DriftMeter(0, behind_ns)

    def run(self, span_ns: int) -> None:
        self.now_ns += span_ns
        self.running_ns += span_ns

    def epoch(self, run_ns: int, stopping_ns: int, stopped_ns: int, starting_ns: int, *, exact: bool) -> None:
        self.run(run_ns)
        self.meter.stop(self.now_ns)
        self.run(stopping_ns)
        if exact:
            self.meter.measure(self.running_ns)
        self.now_ns += stopped_ns
        self.meter.start(self.now_ns)
        self.now_ns += starting_ns

    @property
    def lost_ns(self) -> int:
        return self.now_ns - self.running_ns


@given(SPANS)
def test_the_guests_own_clock_makes_it_exact_at_each_checkpoint(
    spans: list[tuple[int, int, int, int]],
) -> None:
    world = World()
    for run_ns, stopping_ns, stopped_ns, starting_ns in spans:
        world.epoch(run_ns, stopping_ns, stopped_ns, starting_ns, exact=True)
    lost_ns = world.lost_ns
    world.meter.stop(world.now_ns)
    world.meter.measure(world.running_ns)
    # What the first measurement cannot know is how long the stop before it took.
    assert world.meter.behind_ns(world.now_ns) == lost_ns + spans[0][1]


@given(SPANS)
def test_without_it_the_error_is_what_orders_take(spans: list[tuple[int, int, int, int]]) -> None:
    world = World()
    for run_ns, stopping_ns, stopped_ns, starting_ns in spans:
        world.epoch(run_ns, stopping_ns, stopped_ns, starting_ns, exact=False)
    error_ns = world.meter.behind_ns(world.now_ns) - world.lost_ns
    assert error_ns == sum(stopping_ns - starting_ns for _, stopping_ns, _, starting_ns in spans)


@given(SPANS, st.integers(-NS_PER_S, NS_PER_S), st.integers(0, NS_PER_S))
def test_a_correction_moves_what_is_behind_and_not_the_drift(
    spans: list[tuple[int, int, int, int]], found_ns: int, before_ns: int
) -> None:
    world, plain = World(before_ns), World()
    for index, span in enumerate(spans):
        for each in (world, plain):
            each.epoch(*span, exact=index % 2 == 0)
        if index == 0:
            lost_then_ns = plain.meter.behind_ns(plain.now_ns)
            world.meter.correct(found_ns, world.now_ns)
    since_ns = plain.meter.behind_ns(plain.now_ns) - lost_then_ns
    assert world.meter.behind_ns(world.now_ns) == found_ns + since_ns
    assert world.meter.drift_ppm(world.now_ns) == plain.meter.drift_ppm(plain.now_ns)


def test_a_stop_counts_while_it_lasts_and_once() -> None:
    meter = DriftMeter(0)
    meter.stop(10)
    meter.stop(20)
    assert meter.is_stopped and meter.behind_ns(110) == 100
    meter.start(120)
    meter.start(130)
    assert not meter.is_stopped and meter.behind_ns(500) == 110


def test_a_running_time_that_went_back_is_not_believed() -> None:
    meter = DriftMeter(0)
    for stopped_ns, running_ns in ((0, 1_000), (100, 50)):
        meter.stop(stopped_ns)
        meter.measure(running_ns)
        meter.start(stopped_ns + 10)
    assert meter.behind_ns(1_000) == 20


def test_the_drift_is_that_of_the_newest_minute() -> None:
    world = World()
    for _ in range(2 * WINDOW_NS // NS_PER_S):
        world.epoch(900 * NS_PER_MS, 0, 100 * NS_PER_MS, 0, exact=True)
    assert abs(world.meter.drift_ppm(world.now_ns) - 100_000) < 2_000
    world.run(2 * WINDOW_NS)
    for _ in range(2 * WINDOW_NS // NS_PER_S):
        world.epoch(NS_PER_S, 0, 0, 0, exact=True)
    assert world.meter.drift_ppm(world.now_ns) == 0
    assert DriftMeter(5).drift_ppm(5) == 0


@given(
    st.integers(0, 10 * NS_PER_S),
    st.integers(-10 * NS_PER_S, 10 * NS_PER_S),
    st.integers(0, NS_PER_S),
    st.integers(0, NS_PER_S),
)
def test_a_step_is_forward_even_if_it_takes_much_longer_than_the_reading_did(
    asked_ns: int, behind_ns: int, there_ns: int, back_ns: int
) -> None:
    """The guest's clock is host time less `behind_ns`, whatever the two ways of the question took."""
    guest_ns = asked_ns + there_ns - behind_ns
    reading = Reading(asked_ns, guest_ns, asked_ns + there_ns + back_ns)
    assert reading.behind_ns <= behind_ns <= reading.behind_ns + reading.round_trip_ns
    if reading.is_worth_a_step:
        set_to_ns = reading.answered_ns
        guest_at_step_ns = set_to_ns + STEP_ROUND_TRIPS * reading.round_trip_ns - behind_ns
        assert set_to_ns > guest_at_step_ns
        assert behind_ns > STEP_NS_MIN


def test_catching_up_is_due_beyond_the_bound_only() -> None:
    catch_up = CatchUp()
    assert not catch_up.is_due(SETTINGS, SETTINGS.max_behind_ns, 0)
    assert catch_up.is_due(SETTINGS, SETTINGS.max_behind_ns + 1, 0)
    assert not catch_up.is_due(ClockSettings(), 10 * SETTINGS.max_behind_ns, 0)


def test_after_a_take_over_or_a_long_stop_it_is_due_once() -> None:
    catch_up = CatchUp(is_ordered=True)
    assert catch_up.is_due(SETTINGS, 0, 0)
    catch_up.succeeded(0)
    assert not catch_up.is_due(SETTINGS, 0, STEP_INTERVAL_NS)
    catch_up.order()
    assert catch_up.is_due(SETTINGS, 0, STEP_INTERVAL_NS)


def test_steps_keep_their_distance() -> None:
    catch_up = CatchUp()
    catch_up.succeeded(0)
    assert not catch_up.is_due(SETTINGS, NS_PER_S, STEP_INTERVAL_NS - 1)
    assert catch_up.is_due(SETTINGS, NS_PER_S, STEP_INTERVAL_NS)


def test_a_deaf_agent_is_asked_less_and_less_often() -> None:
    catch_up, now_ns, waits = CatchUp(is_ordered=True), 0, []
    for _ in range(8):
        catch_up.failed(now_ns)
        wait_ns = RETRY_NS_MIN
        while not catch_up.is_due(SETTINGS, 0, now_ns + wait_ns):
            wait_ns += NS_PER_S
        waits.append(wait_ns)
        now_ns += wait_ns
    assert waits == sorted(waits) and waits[0] == RETRY_NS_MIN and waits[-1] == RETRY_NS_MAX
    catch_up.succeeded(now_ns)
    catch_up.failed(now_ns)
    catch_up.order()
    assert catch_up.is_due(SETTINGS, 0, now_ns + RETRY_NS_MIN)
