"""What a drill for real has seen, for people and as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from rich.table import Table

from replicator.drill.report.json_file import write_json

FILE: Final = "for-real.json"


@dataclass(frozen=True, slots=True)
class ForRealReport:
    """Times in milliseconds from the kill."""

    node: str
    guest: str
    term: int
    #: The state word just before, and what the secondary had committed then.
    state: str
    committed: int
    new_term: int
    new_holder: str
    #: The arbiter's record named the new holder.
    taken_over_ms: float
    #: The guest was heard from another host; None when it was not.
    heard_ms: float | None
    #: Why it could not be heard, "" if it could.
    why_deaf: str


def write_report(report: ForRealReport, folder: Path) -> Path:
    return write_json(folder, FILE, asdict(report))


def render(report: ForRealReport) -> Table:
    heard = f"{report.heard_ms:.1f} ms" if report.heard_ms is not None else report.why_deaf or "not heard"
    table = Table(title=f"{report.guest}: {report.node} was killed for real", show_header=False)
    rows = (
        ("before", f"{report.state}, term {report.term}, epoch {report.committed} committed"),
        ("now", f"{report.new_holder} runs it, term {report.new_term}"),
        ("kill to the arbiter's grant", f"{report.taken_over_ms:.1f} ms"),
        ("kill to the guest's first frame", heard),
    )
    for row in rows:
        table.add_row(*row)
    return table
