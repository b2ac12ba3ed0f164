"""Judges journals and client logs by all rules. The rules are pure (`check_history`); only `check_files` reads files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from replicator.drill.history.client import CLIENT_RULES, check_client
from replicator.drill.history.colo import check_colo
from replicator.drill.history.comparison import COMPARISON_RULES, Comparison
from replicator.drill.history.facts import Findings, History, Violation, read_history
from replicator.drill.history.pair import PAIR_RULES, check_pair
from replicator.drill.history.primary import PRIMARY_RULES, Reign
from replicator.drill.history.secondary import SECONDARY_RULES, Watch
from replicator.drill.history.vm import VM_RULES, walk_vms
from replicator.errors import FileAccessError

READABLE, ORDER = "readable", "order"
#: Rule -> what it says.
RULES: Final = {
    READABLE: "every line is an event",
    ORDER: "time goes on within a life",
    **PRIMARY_RULES,
    **COMPARISON_RULES,
    **SECONDARY_RULES,
    **VM_RULES,
    **PAIR_RULES,
    **CLIENT_RULES,
}


@dataclass(frozen=True, slots=True)
class CheckReport:
    """`checked` counts how often each rule was applied; a rule that is not in it had nothing to judge."""

    checked: dict[str, int]
    violations: tuple[Violation, ...]
    lives: int
    clients: int
    lines: int
    #: Lines that a killed daemon left unfinished, which is no fault.
    cut_lines: int

    @property
    def kept(self) -> bool:
        return not self.violations


def check_history(history: History) -> CheckReport:
    findings = Findings()
    findings.checked[READABLE] += history.lines
    findings.violations += history.damages
    for life in history.lives:
        for before, after in zip([life.header, *life.facts], life.facts, strict=False):
            findings.check(ORDER, before.at_ns <= after.at_ns, "time goes back", before, after)
    reigns = [Reign(life, findings).walk() for life in history.lives if life.reign]
    watches = [Watch(life, findings).walk() for life in history.lives if life.watch]
    check_pair(history.lives, reigns, watches, findings)
    comparisons = [Comparison(life, findings).walk() for life in history.lives if life.reign]
    check_colo(comparisons, walk_vms(history.lives, findings), findings)
    for client in history.clients:
        check_client(client, findings)
    return CheckReport(
        dict(findings.checked),
        tuple(findings.violations),
        len(history.lives),
        len(history.clients),
        history.lines,
        history.cut_lines,
    )


def check_files(paths: Sequence[Path]) -> CheckReport:
    """FileAccessError for a file that cannot be read, ConfigError for one that is no journal."""
    files: dict[str, bytes] = {}
    for path in paths:
        try:
            files[str(path)] = path.read_bytes()
        except OSError as error:
            raise FileAccessError(
                f"{path} cannot be read: {error.strerror}", hint="name journals that --events has written"
            ) from error
    return check_history(read_history(files))
