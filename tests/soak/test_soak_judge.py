"""The judge of a soak on made samples: it finds what grows, and lets pass what only wavers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from soak_judge import (
    BOUNDS,
    DAEMON,
    HOSTS,
    QEMU,
    SAMPLES_MIN,
    Sample,
    Verdict,
    find_left_behind,
    judge,
    worst_of_each,
)

STEADY = {
    DAEMON: {"anon_kib": 40_000, "fds": 62, "threads": 13},
    QEMU: {"anon_kib": 110_000, "fds": 17, "threads": 4},
    HOSTS: {"processes": 4, "interfaces": 12, "namespaces": 4, "files": 28, "scratch_kib": 600_000},
}
SAMPLES = 60
WARM_UP_S = 10.0
Change = Callable[[int], int]


def series(kind: str, **changes: Change) -> list[Sample]:
    """A sample a second; `changes`: metric -> what is added in which second."""
    return [
        Sample(
            float(second),
            kind,
            "role",
            f"{kind} 1",
            {name: value + changes.get(name, lambda _: 0)(second) for name, value in STEADY[kind].items()},
        )
        for second in range(SAMPLES)
    ]


def verdict(*changed: Sequence[Sample], **options: Sequence[str]) -> Verdict:
    """On steady samples of each kind, but for the kinds that are given."""
    given = {samples[0].kind for samples in changed}
    steady = [series(kind) for kind in STEADY if kind not in given]
    samples = [sample for part in (*steady, *changed) for sample in part]
    return judge(samples, warm_up_s=WARM_UP_S, **options)


def test_what_is_steady_is_good() -> None:
    assert verdict().problems == []
    assert len(verdict().trends) == sum(len(metrics) for metrics in BOUNDS.values())


@pytest.mark.parametrize(
    ("kind", "metric", "per_second"),
    [
        (DAEMON, "anon_kib", 200),
        (DAEMON, "fds", 1),
        (DAEMON, "threads", 1),
        (QEMU, "anon_kib", 1000),
        (QEMU, "fds", 1),
        (HOSTS, "scratch_kib", 2000),
        (HOSTS, "files", 1),
    ],
)
def test_what_grows_is_found_and_named(kind: str, metric: str, per_second: int) -> None:
    (problem,) = verdict(series(kind, **{metric: lambda second: per_second * second})).problems
    assert problem.startswith(f"{kind} 1: {metric} grew from ")


@pytest.mark.parametrize("metric", ["processes", "interfaces", "namespaces"])
def test_a_single_one_more_on_the_hosts_is_found(metric: str) -> None:
    (problem,) = verdict(series(HOSTS, **{metric: lambda second: int(second > 40)})).problems
    assert metric in problem


def test_a_step_within_the_bound_a_peak_and_a_warm_up_are_no_growth() -> None:
    def wavers(second: int) -> int:
        return {30: 500, 31: 500}.get(second, second % 3 - 1)

    assert verdict(series(DAEMON, fds=wavers)).problems == []
    assert verdict(series(DAEMON, anon_kib=lambda second: 3000 * (second > 30))).problems == []
    assert verdict(series(DAEMON, anon_kib=lambda second: 50_000 * (second >= WARM_UP_S - 1))).problems == []


def test_what_shrinks_is_no_problem() -> None:
    assert verdict(series(QEMU, anon_kib=lambda second: -1000 * second)).problems == []


def test_each_life_is_judged_by_itself() -> None:
    """A new daemon may have more than the one before it; one that leaks is found among others that do not."""
    second_life = [
        sample._replace(at_s=sample.at_s + 100, subject="daemon 2", values={**sample.values, "fds": 90})
        for sample in series(DAEMON)
    ]
    assert verdict(series(DAEMON) + second_life).problems == []
    leaky = [sample._replace(subject="daemon 3") for sample in series(DAEMON, fds=lambda second: second)]
    (problem,) = verdict(series(DAEMON) + leaky).problems
    assert problem.startswith("daemon 3: fds grew")


def test_the_worst_of_each_is_shown() -> None:
    other = [
        sample._replace(subject="daemon 2") for sample in series(DAEMON, fds=lambda second: second // 30)
    ]
    lives, worst = next(
        (lives, trend)
        for lives, trend in worst_of_each(verdict(series(DAEMON) + other).trends)
        if (trend.kind, trend.metric) == (DAEMON, "fds")
    )
    assert (lives, worst.subject, worst.growth) == (2, "daemon 2", 1)


@pytest.mark.parametrize("kind", STEADY)
def test_a_run_too_short_to_judge_is_no_good_run(kind: str) -> None:
    few = series(kind)[: int(WARM_UP_S) + SAMPLES_MIN - 1]
    found = verdict(few)
    assert found.unjudged == [f"{kind} 1"]
    assert found.problems == [f"no {kind} was there long enough to be judged"]


def test_what_is_left_behind_and_what_went_wrong_are_problems() -> None:
    found = verdict(left_behind=["TAP left0 on host-b"], troubles=["the client has no report"])
    assert found.problems == ["left behind: TAP left0 on host-b", "the client has no report"]


def test_only_what_was_not_there_before_is_left_behind() -> None:
    before = {"TAP": frozenset({"tap0"}), "process": frozenset({"1 init"})}
    after = {"TAP": frozenset({"tap0", "left0"}), "process": frozenset(), "namespace": frozenset({"x"})}
    assert find_left_behind(before, after) == ["TAP left0", "namespace x"]
