"""Stored records and timing rules, without any store."""

from __future__ import annotations

from typing import Any

import pytest

from replicator.arbiter.base import ArbiterRecord, Replica, check_timing, check_ttl
from replicator.arbiter.rules import record_from_fields, record_to_fields
from replicator.errors import ConfigError

RECORD = ArbiterRecord("g", 3, "a", False, Replica("b", "s", 9))


@pytest.mark.parametrize("record", [RECORD, ArbiterRecord("g", 1, "", True, None)])
def test_a_record_survives_being_stored(record: ArbiterRecord) -> None:
    assert record_from_fields(record_to_fields(record), "g") == record


@pytest.mark.parametrize(
    "change",
    [
        {"guest": "h"},
        {"term": 0},
        {"term": True},
        {"term": "1"},
        {"holder": None},
        {"barred": 1},
        {"replica": "b"},
        {"replica": []},
        {"replica": {"node": "b", "session": "s"}},
        {"replica": {"node": "b", "session": 1, "epoch": 1}},
    ],
)
def test_what_was_not_stored_by_us_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        record_from_fields({**record_to_fields(RECORD), **change}, "g")


@pytest.mark.parametrize("fields", [None, [], "g", 1])
def test_what_is_no_object_is_refused(fields: Any) -> None:
    with pytest.raises(ValueError):
        record_from_fields(fields, "g")


@pytest.mark.parametrize(
    ("heartbeat", "misses", "margin", "ttl"), [(50, 5, 50, 300), (20, 5, 30, 300), (1, 1, 0, 1)]
)
def test_a_timing_that_notices_in_time_is_accepted(
    heartbeat: int, misses: int, margin: int, ttl: int
) -> None:
    check_timing(heartbeat, misses, margin, ttl)


@pytest.mark.parametrize(
    ("heartbeat", "misses", "margin", "ttl", "message"),
    [
        (50, 5, 51, 300, "= 301 ms exceeds"),
        (301, 1, 0, 300, "exceeds"),
        (0, 5, 30, 300, "at least 1"),
        (50, 0, 30, 300, "at least 1"),
        (1, 1, 300, 300, "leaves nothing"),
        (1, 1, -1, 300, "leaves nothing"),
    ],
)
def test_a_timing_that_notices_too_late_is_refused(
    heartbeat: int, misses: int, margin: int, ttl: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_timing(heartbeat, misses, margin, ttl)


def test_a_refused_timing_says_what_would_do() -> None:
    with pytest.raises(ConfigError) as refusal:
        check_timing(100, 3, 50, 300)
    assert "ttl_ms to 350" in refusal.value.hint
    check_ttl(350, 50)
