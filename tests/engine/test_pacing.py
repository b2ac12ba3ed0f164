"""When an epoch closes: a simulated guest under every goal, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.engine.measures import Measures
from replicator.engine.pacing import (
    FRAMES_FEW,
    FRAMES_MANY,
    OVERHEAD_MAX,
    QUIET_NS,
    RUN_MAX_NS,
    SETTLE_NS,
    Goal,
    Mode,
    Pacer,
    PacingSettings,
    parse_goal,
)
from replicator.errors import ConfigError
from replicator.units import NS_PER_MS

MS = NS_PER_MS
INTERVAL_NS = 50 * MS


class Guest:
    """Pauses when the pacer says so. Each pause and each commit takes the same time; `frames` are held an epoch."""

    def __init__(self, settings: PacingSettings, *, pause_ns: int, commit_ns: int, frames: int = 0) -> None:
        self.measures = Measures()
        self.pacer = Pacer(settings, self.measures, in_flight_max=2)
        self.pause_ns, self.commit_ns, self.frames = pause_ns, commit_ns, frames
        self.now_ns = self.epoch = 0
        for _ in range(40):
            self.checkpoint(self.now_ns + settings.interval_max_ns)

    def checkpoint(self, at_ns: int) -> None:
        self.measures.pausing(at_ns, 0)
        self.measures.paused(at_ns, 10, self.frames)
        self.measures.copied(at_ns)
        self.now_ns = at_ns + self.pause_ns
        self.measures.resumed(self.now_ns)
        self.epoch += 1
        self.measures.sent(self.epoch, self.now_ns)
        self.measures.acked(self.epoch, self.now_ns + self.commit_ns)
        self.pacer.resumed(at_ns, self.now_ns)


def adaptive(goal: Goal, low_ms: int = 3, high_ms: int = 100) -> PacingSettings:
    return PacingSettings(INTERVAL_NS, Mode.ADAPTIVE, low_ms * MS, high_ms * MS, goal)


goals = st.one_of(
    st.builds(Goal, latency_ns=st.integers(3 * MS, 100 * MS)),
    st.builds(Goal, overhead=st.floats(0.01, OVERHEAD_MAX)),
)
guests = st.builds(
    lambda goal, pause, commit, frames: Guest(
        adaptive(goal), pause_ns=pause, commit_ns=commit, frames=frames
    ),
    goals,
    st.integers(MS // 2, 20 * MS),
    st.integers(MS // 2, 60 * MS),
    st.integers(0, 100),
)


@given(guests, st.lists(st.integers(0, 200 * MS), min_size=40, max_size=60))
def test_the_guest_never_stands_still_for_more_than_its_goal(
    guest: Guest, output_after_ns: list[int]
) -> None:
    began_ns, paused_ns = guest.now_ns, 0
    for after_ns in output_after_ns:
        waits_ns = guest.now_ns + after_ns
        due_ns = guest.pacer.due_ns()
        guest.checkpoint(due_ns if waits_ns >= due_ns else guest.pacer.due_for_output_ns(waits_ns))
        paused_ns += guest.pause_ns
    goal = guest.pacer.settings.goal.overhead or OVERHEAD_MAX
    assert paused_ns <= goal * (guest.now_ns - began_ns) * 1.001


def test_after_a_pause_that_hung_the_goal_makes_nobody_wait_for_long() -> None:
    guest = Guest(adaptive(Goal(overhead=0.1)), pause_ns=3_000 * MS, commit_ns=MS)
    assert guest.pacer.due_ns() == guest.now_ns + RUN_MAX_NS


@given(guests, st.integers(0, 200 * MS))
def test_output_never_waits_for_longer_than_nothing_would(guest: Guest, after_ns: int) -> None:
    waits_ns = guest.now_ns + after_ns
    due_ns = guest.pacer.due_for_output_ns(waits_ns)
    assert guest.pacer.earliest_ns() <= due_ns <= guest.pacer.due_ns()


@given(guests, st.integers(0, 50 * MS))
def test_a_held_frame_leaves_within_the_goal_if_it_can(guest: Guest, after_ns: int) -> None:
    goal_ns = guest.pacer.settings.goal.latency_ns
    if not goal_ns:
        return
    waits_ns = guest.now_ns + after_ns
    leaves_ns = guest.pacer.due_for_output_ns(waits_ns) + guest.pause_ns + guest.commit_ns
    nearest_ns = max(waits_ns + SETTLE_NS, guest.pacer.earliest_ns()) + guest.pause_ns + guest.commit_ns
    assert leaves_ns <= max(waits_ns + goal_ns, nearest_ns)


@given(guests)
def test_epochs_do_not_close_faster_than_the_link_commits_them(guest: Guest) -> None:
    began_ns = guest.now_ns
    for _ in range(20):
        guest.checkpoint(guest.pacer.due_for_output_ns(guest.now_ns))
    assert (guest.now_ns - began_ns) / 20 >= guest.commit_ns // 2


def test_an_idle_guest_is_paused_rarely() -> None:
    guest = Guest(adaptive(Goal(latency_ns=10 * MS)), pause_ns=2 * MS, commit_ns=2 * MS)
    assert guest.pacer.due_ns() == guest.now_ns - 2 * MS + 100 * MS


def latency_guest(frames: int, *, goal_ms: int = 10) -> Guest:
    return Guest(adaptive(Goal(latency_ns=goal_ms * MS)), pause_ns=2 * MS, commit_ns=3 * MS, frames=frames)


@pytest.mark.parametrize("frames", [0, 1, FRAMES_MANY, 500])
def test_a_busy_guest_may_go_on_up_to_the_goal(frames: int) -> None:
    guest = latency_guest(frames)
    waits_ns = guest.now_ns + 5 * MS
    assert guest.pacer.due_for_output_ns(waits_ns) == waits_ns + 5 * MS


def test_a_goal_that_pause_and_commit_exceed_leaves_time_to_settle() -> None:
    guest = latency_guest(1, goal_ms=4)
    waits_ns = guest.now_ns + 5 * MS
    assert guest.pacer.due_for_output_ns(waits_ns) == waits_ns + SETTLE_NS


def test_the_guest_of_one_client_is_idle_at_once_and_that_of_many_a_moment_later() -> None:
    few, some, many = (
        latency_guest(frames).pacer.quiet_ns()
        for frames in (FRAMES_FEW, (FRAMES_FEW + FRAMES_MANY) // 2, FRAMES_MANY)
    )
    assert few == 0 and many == QUIET_NS == latency_guest(500).pacer.quiet_ns()
    assert some is not None and 0 < some < QUIET_NS
    assert not latency_guest(FRAMES_FEW).pacer.gathers and latency_guest(FRAMES_FEW + 1).pacer.gathers


def test_a_fixed_interval_does_not_look_at_what_the_guest_does() -> None:
    assert Guest(PacingSettings(INTERVAL_NS), pause_ns=MS, commit_ns=MS, frames=50).pacer.quiet_ns() is None


def test_a_fixed_interval_counts_from_pause_to_pause() -> None:
    guest = Guest(PacingSettings(INTERVAL_NS), pause_ns=2 * MS, commit_ns=2 * MS, frames=1)
    assert guest.pacer.due_ns() == guest.now_ns - 2 * MS + INTERVAL_NS
    assert guest.pacer.due_for_output_ns(guest.now_ns) == guest.pacer.due_ns()


def test_a_guest_with_long_pauses_runs_for_a_part_of_the_fixed_interval() -> None:
    guest = Guest(PacingSettings(INTERVAL_NS), pause_ns=70 * MS, commit_ns=2 * MS)
    assert guest.pacer.due_ns() == guest.now_ns + INTERVAL_NS // 4


@pytest.mark.parametrize(
    ("goal", "pause_ms", "commit_ms", "said"),
    [
        (Goal(latency_ns=10 * MS), 2, 3, ""),
        (
            Goal(latency_ns=10 * MS),
            4,
            8,
            "pause 4.0 ms and commit 8.0 ms are more than the goal latency=10ms",
        ),
        (Goal(overhead=0.05), 4, 8, ""),
        (Goal(overhead=0.01), 4, 8, "stands still for 3.8 % of the time: a pause takes 4.0 ms"),
    ],
)
def test_a_goal_that_is_not_kept_is_told(goal: Goal, pause_ms: int, commit_ms: int, said: str) -> None:
    guest = Guest(adaptive(goal), pause_ns=pause_ms * MS, commit_ns=commit_ms * MS)
    assert said in guest.pacer.throttle().reason
    assert bool(said) is bool(guest.pacer.throttle().reason)


def test_waiting_for_epochs_in_flight_is_told_with_its_share() -> None:
    guest = Guest(PacingSettings(INTERVAL_NS), pause_ns=2 * MS, commit_ns=90 * MS)
    for _ in range(40):
        guest.measures.pausing(guest.now_ns + 40 * MS, 20 * MS)
        guest.measures.resumed(guest.now_ns + 42 * MS)
        guest.now_ns += 42 * MS
    throttle = guest.pacer.throttle()
    assert throttle.waiting_share == pytest.approx(20 / 42)
    assert throttle.reason.startswith("48 % of the time an epoch waits") and "90.0 ms" in throttle.reason


@pytest.mark.parametrize(
    ("text", "goal"),
    [("latency=10ms", Goal(latency_ns=10 * MS)), (" overhead = 2.5 % ", Goal(overhead=0.025))],
)
def test_goals_are_read_and_said_alike(text: str, goal: Goal) -> None:
    assert parse_goal(text) == goal
    assert parse_goal(str(goal)) == goal


@pytest.mark.parametrize(
    "text", ["", "10ms", "latency=10", "latency=0ms", "overhead=0%", "overhead=51%", "latency=-1ms"]
)
def test_goals_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        parse_goal(text)
    assert repr(text) in str(refusal.value) and refusal.value.hint


@pytest.mark.parametrize(
    ("goal", "said"),
    [(Goal(latency_ns=4 * MS), "takes 5.0 ms here"), (Goal(overhead=0.02), "which is 4.8 %")],
)
def test_a_goal_below_what_was_measured_is_refused_with_the_figures(goal: Goal, said: str) -> None:
    settings = adaptive(goal)
    settings.check_against(Measures())
    guest = Guest(settings, pause_ns=5 * MS, commit_ns=MS)
    with pytest.raises(ConfigError, match=said) as refusal:
        settings.check_against(guest.measures)
    assert "allow" in refusal.value.hint
