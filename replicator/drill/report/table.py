"""A drill's result on the terminal: the matrix, the figures of each fault, and what failed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from replicator.drill.matrix.faults import Fault
from replicator.drill.matrix.judge import Verdict
from replicator.drill.matrix.phases import Phase
from replicator.drill.report.result import CellResult, DrillResult

#: Phases have long names, and columns are narrow.
_HEADS = {
    Phase.RUNNING: "run", Phase.PAUSED: "paus", Phase.COPYING: "copy", Phase.SAVING: "save",
    Phase.RESUMING: "resu", Phase.SENDING: "send", Phase.AWAITING: "ack?", Phase.RELEASING: "rele",
    Phase.RECEIVING: "recv", Phase.STAGED: "stag", Phase.APPLYING: "appl", Phase.COMMITTED: "comm",
    Phase.ACKED: "ackd", Phase.JOINING: "join", Phase.COMPARING: "comp", Phase.VM_SUSPENDED: "vsus",
    Phase.VM_LOADING: "vloa", Phase.VM_STARTING: "vrun",
}  # fmt: skip


_FIGURES = ("fault", "cells", "detection", "take-over", "gap", "healing", "lost", "repeated", "guest")


def show(console: Console, result: DrillResult) -> None:
    console.print(make_matrix(result.cells))
    console.print(make_figures(result.cells))
    for cell in result.cells:
        if cell.verdict is not None and not cell.verdict.passed:
            reasons = escape("; ".join(cell.verdict.reasons))
            console.print(f"[red]FAILED[/red] {cell.cell.name}: {reasons}")
    for text in result.violations:
        console.print(f"[red]FAILED[/red] the journals: {escape(text)}")
    console.print(describe_journals(result))
    totals = result.totals
    word = (
        "[green]every cell passed[/green]"
        if not totals.failed
        else f"[red]{totals.failed} cells FAILED[/red]"
    )
    console.print(
        f"{word}: {totals.passed} of {totals.run} in {result.duration_s:.0f} s, {totals.not_run} not applicable; "
        f"{totals.lost} lost, {totals.repeated} repeated; {result.mode}, seed {result.seed}"
    )


def describe_journals(result: DrillResult) -> str:
    """What the daemons' journals say, in a line."""
    lines = sum(journal.lines for journal in result.journals)
    checks = sum(journal.checks for journal in result.journals)
    found = len(result.violations)
    word = f"{found} violations" if found else "no violation"
    return f"journals of {len(result.journals)} pairs: {lines} lines, {checks} checks, {word}"


def make_matrix(cells: Sequence[CellResult]) -> Table:
    """Faults down, phases across; the client's longest gap in milliseconds where a cell passed."""
    table = _make_table("the client's longest gap, ms")
    table.add_column("fault", no_wrap=True)
    phases = [phase for phase in Phase if any(result.cell.phase is phase for result in cells)]
    for phase in phases:
        table.add_column(_HEADS[phase], justify="right", no_wrap=True)
    for fault, row in by_fault(cells):
        shown = {result.cell.phase: show_cell(result) for result in row}
        table.add_row(fault.value, *(shown.get(phase, "") for phase in phases))
    return table


def _make_table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))


def show_cell(result: CellResult) -> str:
    if result.verdict is None:
        return "[dim]-[/dim]"
    if not result.verdict.passed:
        return "[red bold]FAIL[/red bold]"
    gap = result.verdict.gap_ms
    return "[green]ok[/green]" if gap is None else f"[green]{gap:.0f}[/green]"


def make_figures(cells: Sequence[CellResult]) -> Table:
    """Medians and maxima of each fault."""
    table = _make_table("median / longest, ms")
    for head in _FIGURES:
        table.add_column(head, justify="left" if head == _FIGURES[0] else "right", no_wrap=True)
    for fault, row in by_fault(cells):
        verdicts = [result.verdict for result in row if result.verdict is not None]
        if not verdicts:
            continue
        table.add_row(
            fault.value,
            str(len(verdicts)),
            spread(verdicts, lambda verdict: verdict.detection_ms),
            spread(verdicts, lambda verdict: verdict.take_over_ms),
            spread(verdicts, lambda verdict: verdict.gap_ms),
            spread(verdicts, lambda verdict: verdict.heal_ms),
            str(sum(verdict.lost for verdict in verdicts)),
            str(sum(verdict.repeated for verdict in verdicts)),
            "moves" if any(verdict.take_over_ms is not None for verdict in verdicts) else "stays",
        )
    return table


def by_fault(cells: Iterable[CellResult]) -> list[tuple[Fault, list[CellResult]]]:
    """Rows in the order of the faults; only faults that are there."""
    rows: dict[Fault, list[CellResult]] = {}
    for result in cells:
        rows.setdefault(result.cell.fault, []).append(result)
    return [(fault, rows[fault]) for fault in Fault if fault in rows]


def spread(verdicts: Iterable[Verdict], figure: Callable[[Verdict], float | None]) -> str:
    """Median and maximum, or that there is none."""
    values = sorted(value for verdict in verdicts if (value := figure(verdict)) is not None)
    return f"{values[len(values) // 2]:.0f} / {values[-1]:.0f}" if values else "-"
