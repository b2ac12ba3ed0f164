"""What `tune` takes, and what it refuses with the figures."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.engine.measures import Measures
from replicator.engine.pacing import Goal, Mode, PacingSettings
from replicator.engine.pipeline import EpochPipeline, PipelineSettings
from replicator.engine.precopy import DowntimePolicy, OnBusy
from replicator.errors import ConfigError
from replicator.service.config import EpochSection, SyncSection
from replicator.service.config_rules import TUNABLE_BOUNDS
from replicator.service.tuning import TUNABLE, describe, make_order
from replicator.units import NS_PER_MS, NS_PER_S

SETTINGS = PipelineSettings(EpochSection().pacing_settings, 4096, sync=SyncSection().policy)


def order(**request: Any) -> Any:
    return make_order(request, SETTINGS, Measures())


def measured(pause_ms: float) -> Measures:
    """Of a guest whose pauses take so long."""
    measures = Measures()
    measures.pausing(0, 0)
    measures.resumed(int(pause_ms * NS_PER_MS))
    return measures


def test_without_an_order_nothing_changes_and_all_is_shown() -> None:
    assert order() == order(retry=False)
    assert (order().pacing, order().sync, order().early_pages, order().retry) == (None, None, None, False)
    assert tuple(describe(SETTINGS)) == ("interval_ms", "interval_min_ms", "interval_max_ms", *TUNABLE[3:])


def test_what_is_in_force_is_what_the_file_said() -> None:
    shown, file = describe(SETTINGS), {"epoch": EpochSection(), "sync": SyncSection()}
    for key, value in shown.items():
        section = file["epoch" if hasattr(file["epoch"], key) else "sync"]
        if key != "early_pages":
            assert value == getattr(section, key), key


def test_orders_are_taken_over() -> None:
    made = order(pacing="adaptive", goal="overhead=5%", interval_max_ms=40, early_pages=0, retry=True)
    expected = PacingSettings(
        50 * NS_PER_MS, Mode.ADAPTIVE, 5 * NS_PER_MS, 40 * NS_PER_MS, Goal(overhead=0.05)
    )
    assert (made.pacing, made.sync, made.early_pages, made.retry) == (expected, None, 0, True)
    made = order(max_downtime_ms=80, on_busy="abort")
    assert made.sync == DowntimePolicy(80 * NS_PER_MS, 16, 256, 300 * NS_PER_S, OnBusy.ABORT, 4)
    assert made.pacing is None


def test_the_same_policy_ordered_again_is_an_order() -> None:
    assert order(max_downtime_ms=300).sync == SETTINGS.sync, "a copy that was given up starts anew"


@given(st.dictionaries(st.sampled_from(sorted(TUNABLE_BOUNDS)), st.integers(-5, 100_000)))
def test_an_order_is_in_force_whole_or_refused(request: dict[str, int]) -> None:
    pipeline = EpochPipeline(SETTINGS)
    try:
        made = make_order(request, SETTINGS, Measures())
    except ConfigError as refusal:
        assert refusal.hint
        return
    pipeline.tune(made, 0)
    assert describe(pipeline.settings) == {**describe(SETTINGS), **request}


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"interval_ms": 4}, "interval_ms = 4 is not in 5..10000"),
        ({"interval_ms": "9"}, "interval_ms is '9'"),
        ({"interval_ms": True}, "interval_ms is True"),
        ({"interval_min_ms": 200}, "interval_min_ms = 200 and interval_max_ms = 100 are no range"),
        ({"pacing": "slow"}, "pacing = 'slow' is not known"),
        ({"pacing": 3}, "pacing is 3"),
        ({"pacing": "adaptive", "goal": "latency=2ms"}, "latency=2ms is shorter than interval_min_ms = 5"),
        ({"goal": "overhead=80%"}, "not in 0.1..50 %"),
        ({"on_busy": "hope"}, "on_busy = 'hope' is not known"),
        ({"max_downtime_ms": 9000, "max_time_s": 5}, "max_downtime = 9000 ms is longer than max_time = 5 s"),
        ({"max_iterations": 1}, "max_iterations = 1 is not in 4..10000"),
    ],
)
def test_what_cannot_be_is_refused(request_: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        order(**request_)
    assert said in str(refusal.value) and refusal.value.hint


def test_what_can_never_be_kept_here_is_refused_with_what_was_measured() -> None:
    with pytest.raises(ConfigError, match=r"max_downtime = 5\.0 ms can never be kept: .* takes 7\.0 ms"):
        make_order({"max_downtime_ms": 5}, SETTINGS, measured(7))
    with pytest.raises(ConfigError, match=r"latency=6ms can never be kept: .* takes 7\.0 ms"):
        make_order({"pacing": "adaptive", "goal": "latency=6ms"}, SETTINGS, measured(7))
    assert (
        make_order({"pacing": "adaptive", "goal": "latency=20ms"}, SETTINGS, measured(7)).pacing is not None
    )
