"""The results of a drill as plain values, and `drill.json`, which holds all of them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from replicator.drill.history.verdict import JournalVerdict
from replicator.drill.matrix.cells import Cell
from replicator.drill.matrix.faults import NATURES
from replicator.drill.matrix.judge import Verdict

FORMAT = 1


@dataclass(frozen=True, slots=True)
class CellResult:
    """One cell. `verdict` is None for a cell that was not run; its reason says why."""

    cell: Cell
    verdict: Verdict | None = None
    #: The daemon that noticed first, and what.
    noticed: str = ""
    duration_s: float = 0.0
    #: Of a failed cell: what was heard, and the ends of the daemons' logs.
    story: tuple[str, ...] = ()

    @property
    def passed(self) -> bool | None:
        return None if self.verdict is None else self.verdict.passed

    def to_map(self) -> dict[str, Any]:
        cell, verdict = self.cell, self.verdict
        values: dict[str, Any] = {"fault": cell.fault.value, "phase": cell.phase.value}
        if verdict is None:
            return {**values, "result": "not run", "reason": cell.reason}
        figures = asdict(verdict)
        figures["reasons"] = list(figures.pop("reasons"))
        return {
            **values,
            "result": "passed" if figures.pop("passed") else "failed",
            "expected": NATURES[cell.fault].outcome.value,
            **figures,
            "noticed": self.noticed,
            "duration_s": round(self.duration_s, 2),
            "story": list(self.story),
        }


@dataclass(frozen=True, slots=True)
class Totals:
    run: int = 0
    passed: int = 0
    failed: int = 0
    not_run: int = 0
    lost: int = 0
    repeated: int = 0


@dataclass(frozen=True, slots=True)
class DrillResult:
    """A whole run. `machine` and `version` are hardware.py's."""

    guest: str
    #: "remus" or "colo".
    mode: str
    seed: int
    quick: bool
    machine: dict[str, str | int]
    version: dict[str, str]
    began: str
    duration_s: float
    cells: Sequence[CellResult] = field(default_factory=tuple)
    #: Of each pair that was started.
    journals: Sequence[JournalVerdict] = field(default_factory=tuple)

    @property
    def passed(self) -> bool:
        """Every cell that was to be run passed, and there was one; no journal says otherwise."""
        run = [result for result in self.cells if result.verdict is not None]
        return bool(run) and all(result.passed for result in run) and not self.violations

    @property
    def violations(self) -> list[str]:
        return [text for journal in self.journals for text in journal.violations]

    @property
    def totals(self) -> Totals:
        verdicts = [result.verdict for result in self.cells if result.verdict is not None]
        passed = sum(verdict.passed for verdict in verdicts)
        return Totals(
            len(verdicts),
            passed,
            len(verdicts) - passed,
            len(self.cells) - len(verdicts),
            sum(verdict.lost for verdict in verdicts),
            sum(verdict.repeated for verdict in verdicts),
        )

    def to_map(self) -> dict[str, Any]:
        """What `drill.json` holds."""
        return {
            "format": FORMAT,
            **self.version,
            "began": self.began,
            "duration_s": round(self.duration_s, 1),
            "guest": self.guest,
            "mode": self.mode,
            "seed": self.seed,
            "quick": self.quick,
            "machine": self.machine,
            "passed": self.passed,
            "totals": asdict(self.totals),
            "journals": [{**asdict(one), "violations": list(one.violations)} for one in self.journals],
            "cells": [result.to_map() for result in self.cells],
        }
