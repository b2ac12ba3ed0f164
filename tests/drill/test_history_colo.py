"""Journals of pairs in COLO: those that keep every promise are found clean; each planted fault is found by its rule."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

from colo_breakings import COLO_BREAKINGS, Breaking
from colo_maker import ColoPairMaker

from replicator.drill.history.check import CheckReport, check_history
from replicator.drill.history.facts import read_history
from replicator.drill.history.report import render_report

STEPS = (
    "epoch",
    "paced_epoch",
    "blink",
    "alone_and_back",
    "fail_over_and_back",
    "renew",
    "switch_over_and_sync",
    "take_back",
    "lose_vm",
)


def judge(pair: ColoPairMaker) -> CheckReport:
    return check_history(read_history(pair.files()))


def make(*steps: str, same_boot: bool = True) -> ColoPairMaker:
    pair = ColoPairMaker(same_boot=same_boot)
    pair.sync()
    for step in steps:
        take_step(pair, step)
    return pair


def take_step(pair: ColoPairMaker, step: str) -> None:
    if step == "alone_and_back":
        pair.go_alone()
        pair.sync()
    elif step == "fail_over_and_back":
        pair.fail_over()
        pair.sync()
    elif step == "switch_over_and_sync":
        pair.switch_over()
        pair.sync()
    else:
        getattr(pair, step)()


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(STEPS), max_size=12), st.booleans())
def test_whatever_a_sound_pair_goes_through_is_found_clean(steps: list[str], same_boot: bool) -> None:
    report = judge(make(*steps, same_boot=same_boot))
    assert report.violations == ()
    assert report.checked["vm"] > 0 and report.checked["compared"] > 0


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(STEPS), max_size=5), st.data())
def test_a_lost_line_is_never_too_much_for_the_checker(steps: list[str], data: st.DataObject) -> None:
    pair = make(*steps)
    side = data.draw(st.sampled_from([pair.a, pair.b]))
    del side.lines[data.draw(st.integers(1, len(side.lines) - 1))]
    render_report(judge(pair))


@pytest.mark.parametrize(
    ("rule", "breaking"), COLO_BREAKINGS, ids=lambda value: getattr(value, "__name__", value)
)
def test_a_broken_promise_is_found(rule: str, breaking: Breaking) -> None:
    pair = make("epoch", "epoch")
    assert judge(pair).kept
    breaking(pair)
    assert rule in {violation.rule for violation in judge(pair).violations}


def test_each_side_is_judged_alone() -> None:
    pair = make("epoch", "fail_over_and_back", "epoch", "lose_vm")
    for name, content in pair.files().items():
        assert check_history(read_history({name: content})).kept


def test_an_operators_force_is_his_own_risk() -> None:
    """Nothing of the other side's word counts then, but a VM that ran is still what goes on."""
    pair = make("epoch")
    pair.fail_over(force=True)
    assert judge(pair).kept


def test_remus_has_nothing_of_this_to_be_judged() -> None:
    from history_maker import PairMaker

    pair = PairMaker()
    pair.sync()
    pair.epoch()
    report = check_history(read_history(pair.files()))
    assert report.kept and not {"vm", "compared"} & set(report.checked)
