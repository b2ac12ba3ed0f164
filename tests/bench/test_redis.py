"""redis-benchmark's report, and how many requests it is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from replicator.bench.loads import redis
from replicator.bench.loads.redis import RedisLoad, find_percentile, parse_report, run_for
from replicator.errors import ConfigError, GuestError

REPORT = (Path(__file__).parent / "golden" / "redis-benchmark.txt").read_text()


def test_a_real_report_is_read():
    assert parse_report(REPORT) == {
        "rate": 643.92, "latency avg": 75.906, "latency p50": 72.831, "latency p99": 212.991,
        "latency p99.9": 214.143, "latency max": 214.143,
    }  # fmt: skip


@pytest.mark.parametrize("text", ["", "Could not connect to Redis", REPORT[: len(REPORT) // 2]])
def test_what_is_no_report_is_refused(text):
    with pytest.raises(GuestError, match="no report"):
        parse_report(text)


def test_a_percentile_beyond_the_distribution_is_the_highest_latency():
    text = (
        "50.000% <= 1.0 milliseconds (cumulative count 5)\n99.902% <= 2.5 milliseconds (cumulative count 9)\n"
    )
    assert find_percentile(text, 99.9, 7.0) == 2.5
    assert find_percentile(text, 99.99, 7.0) == 7.0


@pytest.mark.parametrize(("seconds", "requests"), [(0.001, "200"), (10, "6439")])
def test_a_first_run_says_how_many_requests_fill_the_time(seconds, requests):
    lines: list[list[str]] = []

    def run(argv):
        lines.append(list(argv))
        return REPORT

    run_for(seconds, RedisLoad("set"), "10.0.0.1", run)
    counts = [line[line.index("-n") + 1] for line in lines]
    assert counts == ["200", requests]
    assert lines[1][lines[1].index("-t") + 1] == "set"


def test_a_client_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(redis, "PROGRAM", "no-such-program")
    with pytest.raises(ConfigError) as refused:
        redis.require_redis_benchmark()
    assert "redis-tools" in refused.value.hint
