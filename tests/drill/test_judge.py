"""Each thing that may go wrong in a cell fails it, alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from replicator.demo.promises import Report
from replicator.drill.matrix.faults import NATURES, Fault, Outcome
from replicator.drill.matrix.judge import Observed, judge
from replicator.units import NS_PER_MS

MS = NS_PER_MS
REPORT = Report(100, 1, 100, 0, 0, True, 300.0, 0, 0, True, 50, 0, ())
TAKEN_OVER = Observed(
    "a", "b", True, 1000 * MS, 1200 * MS, "b: PeerSilent", 1400 * MS, 1410 * MS, 2000 * MS, ("a", "b"), 0, "b",
    REPORT,
)  # fmt: skip
STAYED = replace(TAKEN_OVER, running_ns=None, speakers=("a",), runs_at="a")
KILL, CUT, SHORT = NATURES[Fault.KILL_HOST], NATURES[Fault.CUT], NATURES[Fault.FREEZE_SHORT]


def test_a_good_take_over_passes_with_its_figures():
    verdict = judge(KILL, TAKEN_OVER)
    assert verdict.passed and verdict.reasons == ()
    assert (verdict.detection_ms, verdict.take_over_ms, verdict.heal_ms) == (200.0, 400.0, 590.0)
    assert (verdict.gap_ms, verdict.lost, verdict.repeated, verdict.runs_at) == (300.0, 0, 0, "b")


def test_a_primary_that_goes_on_passes():
    assert judge(CUT, STAYED).passed
    assert judge(SHORT, replace(STAYED, noticed_ns=None)).passed


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"hit": False}, "the phase was not reached"),
        ({"running_ns": None}, "the other side did not take over"),
        ({"running_ns": 4000 * MS}, "the take-over took 3000 ms"),
        ({"noticed_ns": None}, "no daemon noticed"),
        ({"protected_ns": None}, "not protected again"),
        ({"runs_at": "a"}, "the guest is at a"),
        ({"runs_at": ""}, "the guest is at no side"),
        ({"speakers": ("a",)}, "a spoke as the guest, not a then b"),
        ({"speakers": ("a", "b", "a", "b")}, "a then b then a then b spoke"),
        ({"speakers": ()}, "nobody spoke"),
        ({"unheard": 3}, "3 frames of the guest were not heard"),
        ({"report": None}, "the client gave no report"),
        ({"missed": ("the pair never came back",)}, "the pair never came back"),
    ],
)
def test_what_was_not_seen_or_went_wrong_fails_the_cell(change, reason):
    verdict = judge(KILL, replace(TAKEN_OVER, **change))
    assert not verdict.passed
    assert any(reason in word for word in verdict.reasons), verdict.reasons


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {"increments_lost": 2, "broken": ("2 acknowledged increments lost",)},
            "2 acknowledged increments lost",
        ),
        ({"increments_repeated": 1, "broken": ("1 increments executed twice",)}, "executed twice"),
        ({"increments_acked": 0}, "never answered"),
        ({"longest_gap_ms": 9000.0}, "the client's gap was 9000 ms"),
    ],
)
def test_what_the_client_saw_fails_the_cell(change, reason):
    verdict = judge(KILL, replace(TAKEN_OVER, report=replace(REPORT, **change)))
    assert not verdict.passed
    assert any(reason in word for word in verdict.reasons), verdict.reasons
    assert (verdict.lost, verdict.repeated) == (
        change.get("increments_lost", 0),
        change.get("increments_repeated", 0),
    )


@pytest.mark.parametrize("fault", [f for f in Fault if NATURES[f].outcome is not Outcome.TAKE_OVER])
def test_a_take_over_that_was_not_called_for_fails_the_cell(fault):
    verdict = judge(NATURES[fault], TAKEN_OVER)
    assert any("the other side took over" in reason for reason in verdict.reasons)
    assert any("a then b spoke" in reason for reason in verdict.reasons)
