"""The verdict passes only a run that proves every promise."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from replicator.demo import timeline
from replicator.demo.promises import Report
from replicator.demo.timeline import (
    GRANTED,
    KILLED,
    RUNNING,
    Event,
    Protection,
    judge,
    parse_event,
)

MS = 1_000_000
REPORT = Report(
    increments_acked=1700,
    first_value=1,
    last_value=1700,
    increments_lost=0,
    increments_repeated=0,
    consecutive=True,
    longest_gap_ms=310.5,
    longest_gap_from_ns=9_000 * MS,
    longest_gap_to_ns=9_310 * MS,
    connection_survived=True,
    sets_acked=900,
    sets_missing=0,
    broken=(),
)
PROTECTION = Protection(
    epochs=140,
    pause_ms_p50=2.1,
    pause_ms_p99=4.8,
    bytes_total=50_000_000,
    duration_ns=10_000 * MS,
    increments_before_kill=1100,
)
EVENTS = [
    Event(10_000 * MS, "demo", KILLED, {"pids": [1, 2]}),
    Event(10_150 * MS, "host-b", GRANTED, {"term": 2}),
    Event(10_160 * MS, "host-b", RUNNING),
    Event(10_200 * MS, "client", "gap", {"ms": 310.5, "from_ns": 1}),
]


def test_a_whole_run_is_kept_and_measured() -> None:
    verdict = judge(EVENTS, REPORT, PROTECTION)
    assert verdict.kept and verdict.exit_code == 0
    values = {promise.name: promise.value for promise in verdict.promises}
    assert values["detection (dead -> granted)"] == "150.0 ms"
    assert values["granted -> running"] == "10.0 ms"
    assert values["dead -> running"] == "160.0 ms"
    assert values["replication traffic"] == "5.00 MB/s"
    assert values["pause p50 / p99"] == "2.10 / 4.80 ms"
    assert values["client's gap at the death"] == "310.5 ms"
    assert values["client's longest gap ever"] == "310.5 ms"
    assert timeline.render_verdict(verdict)[-1] == "verdict: every promise kept"


@pytest.mark.parametrize(
    ("changes", "promise"),
    [
        ({"increments_lost": 1}, "acknowledged increments lost"),
        ({"increments_repeated": 2}, "increments repeated"),
        ({"consecutive": False}, "replies strictly consecutive"),
        ({"connection_survived": False}, "connection survived"),
        ({"sets_missing": 1}, "acknowledged SETs readable"),
        ({"sets_acked": 0}, "acknowledged SETs readable"),
        ({"increments_acked": 1599}, "acknowledged increments"),
        (
            {"broken": ("the counter could not be read in the end",)},
            "client's own word",
        ),
    ],
)
def test_each_broken_promise_breaks_the_verdict(changes: dict[str, object], promise: str) -> None:
    report = replace(REPORT, **changes)  # type: ignore[arg-type]
    verdict = judge(EVENTS, report, PROTECTION)
    assert [line.name for line in verdict.promises if line.kept is False] == [promise]
    assert verdict.exit_code == 1
    assert timeline.render_verdict(verdict)[-1] == "verdict: BROKEN"
    assert any("BROKEN" in line and promise in line for line in timeline.render_verdict(verdict))


@pytest.mark.parametrize("missing", [KILLED, GRANTED, RUNNING])
def test_a_moment_that_nobody_saw_breaks_the_verdict(missing: str) -> None:
    verdict = judge([event for event in EVENTS if event.name != missing], REPORT, PROTECTION)
    assert not verdict.kept
    assert "not seen" in [promise.value for promise in verdict.promises]


def test_a_grant_before_the_kill_is_not_its_detection() -> None:
    early = [Event(1, "host-a", GRANTED), Event(2, "host-a", RUNNING), *EVENTS]
    assert judge(early, REPORT, PROTECTION) == judge(EVENTS, REPORT, PROTECTION)


def test_too_few_epochs_or_increments_prove_nothing() -> None:
    assert not judge(EVENTS, REPORT, replace(PROTECTION, epochs=99)).kept
    assert not judge(EVENTS, REPORT, replace(PROTECTION, increments_before_kill=999)).kept
    assert not judge(EVENTS, REPORT, None).kept
    assert not judge(EVENTS, None, PROTECTION).kept
    assert not judge([], None, None).kept


def test_lines_become_events_and_other_lines_do_not() -> None:
    line = json.dumps({"event": "granted", "at_ns": 5, "term": 2})
    assert parse_event(line, "host-b") == Event(5, "host-b", "granted", {"term": 2})
    assert parse_event(line.encode(), "host-b") == parse_event(line, "host-b")
    for other in (
        "",
        "plain words",
        "[1]",
        "3",
        '{"event": "x"}',
        '{"at_ns": 4}',
        '{"event": 3, "at_ns": 4}',
        b"\xff",
    ):
        assert parse_event(other, "host-b") is None


def test_timeline_is_one_story_relative_to_the_kill() -> None:
    noise = [
        Event(9_900 * MS, "client", "progress", {"increments": 3}),
        Event(9_000 * MS, "client", "connected"),
    ]
    assert timeline.render_timeline([*reversed(EVENTS), *noise]) == [
        "     -1000.0 ms  client  connected",
        "        +0.0 ms  demo    killed pids=[1, 2]",
        "      +150.0 ms  host-b  granted term=2",
        "      +160.0 ms  host-b  running",
        "      +200.0 ms  client  gap ms=310.5",
    ]
    assert timeline.render_timeline([]) == []


def test_timeline_without_a_kill_starts_at_its_first_event() -> None:
    (line,) = timeline.render_timeline([Event(77 * MS, "demo", "interrupted")])
    assert line == "        +0.0 ms  demo  interrupted"


def test_traffic_of_no_time_is_no_division_by_zero() -> None:
    assert replace(PROTECTION, duration_ns=0).bytes_per_second == 0.0
