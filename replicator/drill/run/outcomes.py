"""Waits for what a fault must lead to, and brings the stand's knowledge of who has the guest up to date."""

from __future__ import annotations

from replicator.demo.timeline import Event
from replicator.drill.matrix.faults import Outcome
from replicator.drill.stand.stand import Stand

OUTCOME_S = 10.0
ALONE = "primary: active-alone"
FROZEN = "primary: frozen"
#: A fault that changes nothing lasts for so many of the client's progress reports.
QUIET_REPORTS = 5


def await_outcome(stand: Stand, outcome: Outcome, mark: int) -> None:
    """Returns when it is there; `mark` is where the ear's events of the fault begin. GuestError when it does not come."""
    if outcome is Outcome.TAKE_OVER:
        _await_take_over(stand, mark)
    elif outcome is Outcome.ALONE:
        stand.wait_state(mark, stand.primary, ALONE, OUTCOME_S)
    elif outcome is Outcome.FROZEN:
        stand.wait_state(mark, stand.primary, FROZEN, OUTCOME_S)
    elif outcome is Outcome.SHAKEN:
        stand.ear.wait("a daemon notices", mark, lambda event: event.name == "notice", OUTCOME_S)
        _await_reports(stand)
    else:
        _await_reports(stand)


def _await_take_over(stand: Stand, mark: int) -> None:
    other = stand.other

    def wanted(event: Event) -> bool:
        return event.source == other and event.name == "running"

    stand.ear.wait("the other side runs the guest", mark, wanted, OUTCOME_S)
    stand.primary = other


def _await_reports(stand: Stand) -> None:
    """The client is answered for a while."""
    for _ in range(QUIET_REPORTS):
        stand.ear.wait("the client's progress", stand.ear.mark, lambda e: e.name == "progress", OUTCOME_S)
