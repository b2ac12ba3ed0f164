"""A result as one HTML file with its plots inside. No scripts, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Final

from replicator.bench.figures.result import BenchResult, Figure, describe_cell
from replicator.bench.output.table import describe_range, describe_run, format_number

_STYLE = """
:root { color-scheme: light; --ink: #1b1f24; --paper: #ffffff; --line: #d0d7de; --dim: #6e7781; --bad: #cf222e; }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 70rem; padding: 0 1rem; }
h1, h2 { font-weight: 600; } .dim { color: var(--dim); } .bad { color: var(--bad); font-weight: 600; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(28rem, 1fr)); gap: 1rem; }
.plots svg { width: 100%; height: auto; } figure { margin: 0; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .2rem .6rem; text-align: right; white-space: nowrap; }
th { font-weight: 600; } th.text, td.text { text-align: left; }
"""
#: Column and whether it holds text.
_HEADS: Final = (
    ("cell", True), ("metric", True), ("unit", True),
    ("median", False), ("lowest .. highest", False), ("middle half", False), ("repeats", False),
)  # fmt: skip


def render(result: BenchResult, plots: Sequence[tuple[str, str]] = ()) -> str:
    """The whole page; a plot is (title, svg)."""
    body = "\n".join([*_head(result), *_plots(plots), *_figures(result.figures)])
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>replicator bench {escape(result.bench)}</title><style>{_STYLE}</style></head><body>\n"
        f"{body}\n</body></html>\n"
    )


def _head(result: BenchResult) -> Iterator[str]:
    yield f"<h1>replicator bench {escape(result.bench)}</h1>"
    yield f'<p class="dim">{escape(describe_run(result))}</p>'
    options = ", ".join(f"{name} {value}" for name, value in result.options.items())
    if options:
        yield f'<p class="dim">{escape(options)}</p>'
    for failure in result.failures:
        yield (
            f'<p><span class="bad">not measured</span> {escape(describe_cell(failure.cell))}: '
            f"{escape(failure.reason)}</p>"
        )


def _plots(plots: Sequence[tuple[str, str]]) -> Iterator[str]:
    if not plots:
        return
    yield '<div class="plots">'
    for title, svg in plots:
        yield f'<figure aria-label="{escape(title)}">{svg}</figure>'
    yield "</div>"


def _figures(figures: Sequence[Figure]) -> Iterator[str]:
    heads = "".join(
        f'<th class="text">{name}</th>' if is_text else f"<th>{name}</th>" for name, is_text in _HEADS
    )
    yield f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>'
    for figure in figures:
        spread = figure.spread
        middle = f"{format_number(spread.q1)} .. {format_number(spread.q3)}"
        texts = (describe_cell(figure.cell), figure.metric.name, figure.metric.unit)
        numbers = (format_number(spread.median), describe_range(figure), middle, str(spread.count))
        yield "<tr>" + "".join(
            [f'<td class="text">{escape(text)}</td>' for text in texts]
            + [f"<td>{number}</td>" for number in numbers]
        ) + "</tr>"  # fmt: skip
    yield "</tbody></table></div>"
