"""The checker must see every kind of broken promise, and nothing where none was broken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.demo.promises import Acked, Recording, check_promises, load_report
from replicator.errors import ConfigError

MS = 1_000_000


def recording(values: Sequence[int], **changes: object) -> Recording:
    """Replies at 10 ms steps and everything else in order."""
    increments = [Acked(value, 10 * MS * n, 10 * MS * n + MS) for n, value in enumerate(values, start=1)]
    whole = Recording(
        increments=increments,
        began_ns=10 * MS,
        ended_ns=10 * MS * len(values) + 2 * MS,
        unanswered=0,
        counter_at_end=values[-1] if values else None,
        sets_acked=5,
        sets_missing=0,
    )
    return replace(whole, **changes)  # type: ignore[arg-type]


def test_a_whole_run_breaks_nothing() -> None:
    report = check_promises(recording(range(1, 101)))
    assert report.kept and report.consecutive and report.connection_survived
    assert (report.increments_acked, report.first_value, report.last_value) == (
        100,
        1,
        100,
    )
    assert (
        report.increments_lost,
        report.increments_repeated,
        report.sets_missing,
    ) == (0, 0, 0)


@given(st.integers(2, 200), st.integers(1, 50), st.integers(1, 300))
def test_a_guest_that_went_back_lost_what_it_had_acknowledged(before: int, lost: int, after: int) -> None:
    lost = min(lost, before)
    resumed = before - lost + 1
    report = check_promises(recording([*range(1, before + 1), *range(resumed, resumed + after)]))
    assert report.increments_lost == lost and report.increments_repeated == 0
    assert not report.consecutive and not report.kept


@given(st.integers(1, 200), st.integers(1, 50), st.integers(1, 300))
def test_an_increment_executed_twice_shows_as_a_skip(before: int, repeated: int, after: int) -> None:
    resumed = before + 1 + repeated
    report = check_promises(recording([*range(1, before + 1), *range(resumed, resumed + after)]))
    assert report.increments_repeated == repeated and report.increments_lost == 0
    assert not report.consecutive and not report.kept


def test_a_reply_given_twice_is_a_loss() -> None:
    report = check_promises(recording([1, 2, 2, 3]))
    assert report.increments_lost == 1 and not report.kept


@pytest.mark.parametrize(
    ("counter", "unanswered", "lost", "repeated"),
    [
        (10, 0, 0, 0),
        (11, 1, 0, 0),
        (10, 1, 0, 0),
        (11, 0, 0, 1),
        (12, 1, 0, 1),
        (7, 0, 3, 0),
        (0, 1, 10, 0),
    ],
)
def test_the_final_counter_betrays_loss_and_repetition(
    counter: int, unanswered: int, lost: int, repeated: int
) -> None:
    report = check_promises(recording(range(1, 11), counter_at_end=counter, unanswered=unanswered))
    assert (report.increments_lost, report.increments_repeated) == (lost, repeated)
    assert report.kept == (lost == repeated == 0)
    assert report.consecutive


def test_a_reset_connection_is_broken_even_when_nothing_was_lost() -> None:
    report = check_promises(recording(range(1, 11), breaks=("INCR: closed by the other side",)))
    assert not report.connection_survived and not report.kept
    assert report.broken == ("connection broken: INCR: closed by the other side",)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sets_missing": 2}, "2 acknowledged SETs are not readable"),
        ({"sets_missing": None}, "the acknowledged SETs could not be read in the end"),
        ({"counter_at_end": None}, "the counter could not be read in the end"),
    ],
)
def test_other_broken_promises_are_named(changes: dict[str, object], words: str) -> None:
    assert check_promises(recording(range(1, 11), **changes)).broken == (words,)


def test_no_reply_at_all_is_no_success() -> None:
    report = check_promises(recording([], counter_at_end=0))
    assert not report.kept and not report.consecutive
    assert "no increment was acknowledged" in report.broken


def test_a_new_counter_starts_at_one() -> None:
    report = check_promises(recording(range(5, 9)))
    assert report.broken == ("the first increment of a new counter was answered with 5",)


def test_longest_gap_has_its_moments() -> None:
    rows = [
        Acked(1, 0, 1 * MS),
        Acked(2, 1 * MS, 300 * MS),
        Acked(3, 300 * MS, 301 * MS),
    ]
    report = check_promises(recording([1, 2, 3], increments=rows, began_ns=0, ended_ns=302 * MS))
    assert report.longest_gap_ms == 299.0
    assert (report.longest_gap_from_ns, report.longest_gap_to_ns) == (1 * MS, 300 * MS)


def test_silence_at_the_end_counts_as_a_gap() -> None:
    report = check_promises(recording([1, 2, 3], ended_ns=5_000 * MS))
    assert report.longest_gap_to_ns == 5_000 * MS


def test_report_survives_its_json_form() -> None:
    report = check_promises(recording([1, 2, 2], breaks=("x",)))
    assert load_report({**report.to_map(), "event": "report"}) == report
    with pytest.raises(ConfigError, match="not a client report"):
        load_report({"increments_acked": 3})
