"""A second opinion on a drill: the journals of both daemons, checked off line once a pair's life is over (check.py).

What the cells judge is seen from outside; this is what the daemons say of themselves, against each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from replicator.drill.history.check import check_files
from replicator.errors import ReplicatorError

VIOLATIONS_SHOWN = 20


@dataclass(frozen=True, slots=True)
class JournalVerdict:
    """Of one pair, from its start to its end."""

    lines: int
    #: How often a rule was applied.
    checks: int
    violations: tuple[str, ...] = ()


def check_journals(paths: Sequence[Path]) -> JournalVerdict:
    """A journal that cannot be read counts as a violation."""
    try:
        report = check_files([path for path in paths if path.exists()])
    except ReplicatorError as error:
        return JournalVerdict(0, 0, (str(error),))
    shown = [
        "; ".join((f"{violation.rule}: {violation.text}", *(fact.place for fact in violation.facts)))
        for violation in report.violations
    ]
    return JournalVerdict(report.lines, sum(report.checked.values()), tuple(shown[:VIOLATIONS_SHOWN]))
