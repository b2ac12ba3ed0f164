"""The check's result for people: what was checked how often, and each violation with file and line of its facts."""

from __future__ import annotations

from collections.abc import Iterator

from replicator.drill.history.check import RULES, CheckReport
from replicator.drill.history.facts import Violation

#: Of one rule; a history that is broken throughout is not worth a line each.
SHOWN_MAX = 20


def render_report(report: CheckReport) -> list[str]:
    lines = [
        f"{report.lines} lines: {report.lives} lives of daemons, {report.clients} clients"
        + (f", {report.cut_lines} lines cut by a kill" if report.cut_lines else ""),
        "",
    ]
    lines += list(_table(report))
    for rule in RULES:
        found = [violation for violation in report.violations if violation.rule == rule]
        lines += [line for violation in found[:SHOWN_MAX] for line in _show(violation)]
        if len(found) > SHOWN_MAX:
            lines.append(f"  and {len(found) - SHOWN_MAX} more of {rule}")
    lines += ["", "nothing is broken" if report.kept else f"BROKEN: {len(report.violations)} violations"]
    return lines


def _table(report: CheckReport) -> Iterator[str]:
    width = max(map(len, RULES.values()))
    for rule, meaning in RULES.items():
        broken = sum(violation.rule == rule for violation in report.violations)
        checked = report.checked.get(rule, 0)
        result = f"{broken} BROKEN" if broken else "kept" if checked else "nothing to judge"
        yield f"  {rule:<10} {meaning:<{width}} {checked:>7}  {result}"


def _show(violation: Violation) -> Iterator[str]:
    yield ""
    yield f"{violation.rule}: {violation.text}"
    for fact in violation.facts:
        details = " ".join(f"{name}={value}" for name, value in fact.fields.items())
        yield f"  {fact.place}: {fact.event} {details}".rstrip()
