"""What must be true of what a client of the guest saw: the log of replicator.demo.client. Pure.

client      its connections lasted; acknowledged replies are consecutive, nothing was lost or repeated
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from replicator.drill.history.facts import Fact, Findings

CLIENT = "client"
CLIENT_RULES: Final = {CLIENT: "no client has lost anything or got it twice"}
_NUMBERS = ("increments_acked", "first_value", "last_value", "increments_lost", "increments_repeated")
_COUNTS = {"increments": "increments_acked", "sets": "sets_acked"}


def check_client(facts: Sequence[Fact], findings: Findings) -> None:
    for fact in facts:
        if fact.event in ("broken", "unreachable", "unreadable"):
            findings.check(CLIENT, False, f"{fact.event}: {fact.fields.get('reason', '')}", fact)
    reports = [fact for fact in facts if fact.event == "report"]
    _check_progress(facts, reports, findings)
    for report in reports:
        _check_report(report, findings)
    if not reports:
        findings.check(
            CLIENT, False, "the client gave no report: nothing is known of what it lost", facts[-1]
        )


def _check_progress(facts: Sequence[Fact], reports: Sequence[Fact], findings: Findings) -> None:
    """What was acknowledged stays so."""
    last: dict[str, Fact] = {}
    for fact in facts:
        if fact.event != "progress":
            continue
        for name in _COUNTS:
            before = last.get(name)
            shrinks = before is not None and _number(fact, name) < _number(before, name)
            findings.check(CLIENT, not shrinks, f"the number of acknowledged {name} shrinks", before, fact)
            last[name] = fact
    for report in reports:
        for name, total in _COUNTS.items():
            if (newest := last.get(name)) is not None:
                seen, final = _number(newest, name), _number(report, total)
                text = f"{seen} acknowledged {name} became {final}"
                findings.check(CLIENT, seen <= final, text, newest, report)


def _check_report(report: Fact, findings: Findings) -> None:
    acked, first, last, lost, repeated = (_number(report, name) for name in _NUMBERS)
    row = f"{acked} increments were answered with {first} to {last}"
    findings.check(CLIENT, acked > 0 and last - first + 1 == acked, row, report)
    findings.check(CLIENT, lost == 0, f"{lost} acknowledged increments were lost", report)
    findings.check(CLIENT, repeated == 0, f"{repeated} increments were executed twice", report)
    in_row = report.fields.get("consecutive") is True
    findings.check(CLIENT, in_row, "replies were not consecutive", report)
    missing = _number(report, "sets_missing")
    findings.check(CLIENT, missing == 0, f"{missing} acknowledged SETs cannot be read", report)
    broken = report.fields.get("broken")
    findings.check(CLIENT, broken == [], f"the client's own word: {broken}", report)


def _number(fact: Fact, name: str) -> int:
    """-1 for what is no number: then no rule holds."""
    value = fact.fields.get(name)
    return value if type(value) is int else -1
