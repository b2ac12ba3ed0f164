"""Results and comparisons as tables on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from replicator.bench.figures.compare import Change, Comparison
from replicator.bench.figures.result import BenchResult, Figure, describe_cell

_COLUMNS = ("median", "lowest .. highest", "middle half", "n")


def format_number(value: float) -> str:
    """Three digits that count, without an exponent."""
    size = abs(value)
    if value == round(value) and size < 1e6:
        return f"{value:.0f}"
    if size >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}" if size >= 0.1 else f"{value:.4f}"


def show(console: Console, result: BenchResult) -> None:
    """The whole result: figures, what failed, and where it was measured."""
    console.print(make_table(result.bench, result.figures))
    for failure in result.failures:
        console.print(
            f"[red]not measured[/red] {escape(describe_cell(failure.cell))}: {escape(failure.reason)}"
        )
    console.print(escape(describe_run(result)), soft_wrap=True)


def describe_run(result: BenchResult) -> str:
    """Where and how, in a line."""
    machine = result.machine
    commit = str(machine.get("commit", ""))[:12]
    return (
        f"{machine.get('cpu', '?')}, {machine.get('cores', '?')} cores, {machine.get('memory_mib', '?')} MiB; "
        f"Linux {machine.get('kernel', '?')}; {machine.get('qemu', '?')}; replicator {machine.get('version', '?')}"
        f"{f' ({commit})' if commit else ''}; seed {result.seed}; {result.began}, {result.duration_s:.0f} s"
    )


def make_table(title: str, figures: Sequence[Figure]) -> Table:
    """A row a figure, below a row that names its cell."""
    table = _make_table(title, ["metric"], _COLUMNS)
    above: object = None
    for figure in figures:
        if figure.cell != above:
            table.add_row(f"[bold]{escape(describe_cell(figure.cell))}[/bold]")
        spread, above = figure.spread, figure.cell
        table.add_row(
            f"  {describe_metric(figure)}",
            format_number(spread.median),
            describe_range(figure),
            f"{format_number(spread.q1)} .. {format_number(spread.q3)}",
            str(spread.count),
        )
    return table


def describe_metric(figure: Figure) -> str:
    metric = figure.metric
    return f"{metric.name} ({metric.unit})" if metric.unit else metric.name


def _make_table(title: str, texts: Sequence[str], numbers: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for name in texts:
        table.add_column(name, no_wrap=True)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def show_comparison(console: Console, comparison: Comparison) -> None:
    """Each figure of both; what is more than noise is marked."""
    for text in comparison.circumstances:
        console.print(f"[yellow]differs[/yellow] {escape(text)}")
    console.print(make_comparison(comparison.changes))
    for word, figures in (("first", comparison.only_before), ("second", comparison.only_after)):
        if figures:
            names = ", ".join(dict.fromkeys(describe_cell(figure.cell) for figure in figures))
            console.print(f"only in the {word}: {len(figures)} figures of {escape(names)}")


def make_comparison(changes: Sequence[Change]) -> Table:
    table = _make_table(
        "compare", ["metric"], ("before", "after", "ratio", "spread before", "spread after", "")
    )
    colours = {"worse": "red", "better": "green", "differs": "yellow"}
    above: object = None
    for change in changes:
        if change.before.cell != above:
            table.add_row(f"[bold]{escape(describe_cell(change.before.cell))}[/bold]")
        word, above = change.word, change.before.cell
        table.add_row(
            f"  {describe_metric(change.before)}",
            format_number(change.before.spread.median),
            format_number(change.after.spread.median),
            "-" if change.ratio is None else f"{change.ratio:.3f}",
            describe_range(change.before),
            describe_range(change.after),
            f"[{colours[word]}]{word}[/]" if word else "",
        )
    return table


def describe_range(figure: Figure) -> str:
    spread = figure.spread
    return f"{format_number(spread.low)} .. {format_number(spread.high)}"
