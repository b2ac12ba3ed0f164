"""Plots of a result: one a metric, medians with lowest..highest as bars of error. Needs matplotlib."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from replicator.bench.figures.metrics import Metric
from replicator.bench.figures.result import BenchResult, Cell, Figure, describe_cell
from replicator.errors import ConfigError

_WIDTH_INCHES = 8.0
_LINE_HEIGHT_INCHES = 4.5
_BAR_INCHES = 0.32
_DPI = 120


@dataclass(frozen=True, slots=True)
class Plot:
    """One picture, twice."""

    name: str
    title: str
    svg: str
    png: bytes


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a plot: a point is (place on the x axis, figure)."""

    name: str
    points: tuple[tuple[str, Figure], ...]


def require_matplotlib() -> None:
    """ConfigError unless it is installed; asked before anything is measured."""
    if find_spec("matplotlib") is None:
        raise ConfigError(
            "--report draws with matplotlib, which is not installed",
            hint="pip install 'replicator[bench]', or leave --report out: --json and --csv need nothing",
        )


def series_of(figures: Sequence[Figure], axis: str) -> list[Series]:
    """Figures that differ only in the label `axis` make a series, in the order in which they came."""
    grouped: dict[Cell, list[tuple[str, Figure]]] = {}
    for figure in figures:
        place = dict(figure.cell).get(axis)
        if place is not None:
            rest = tuple(label for label in figure.cell if label[0] != axis)
            grouped.setdefault(rest, []).append((place, figure))
    return [Series(describe_cell(rest), tuple(points)) for rest, points in grouped.items()]


def draw_plots(result: BenchResult) -> list[Plot]:
    """A plot of each metric."""
    require_matplotlib()
    by_metric: dict[str, list[Figure]] = {}
    for figure in result.figures:
        by_metric.setdefault(figure.metric.name, []).append(figure)
    return [_draw(result, figures[0].metric, figures) for figures in by_metric.values()]


def _draw(result: BenchResult, metric: Metric, figures: Sequence[Figure]) -> Plot:
    from matplotlib.figure import Figure as Canvas

    series = series_of(figures, result.axis)
    is_lines = any(len(one.points) > 1 for one in series)
    height = _LINE_HEIGHT_INCHES if is_lines else 1.4 + _BAR_INCHES * len(figures)
    canvas = Canvas(figsize=(_WIDTH_INCHES, height), layout="constrained")
    axes = canvas.add_subplot()
    if is_lines:
        _draw_lines(axes, result.axis, series)
    else:
        _draw_bars(axes, figures)
    title = f"{metric.name}, {metric.unit}" if metric.unit else metric.name
    axes.set_title(title)
    return Plot(plot_name(result.bench, metric.name), title, _as_svg(canvas), _as_png(canvas))


def plot_name(bench: str, metric: str) -> str:
    """Of the files."""
    return f"{bench}-{re.sub(r'[^a-z0-9]+', '-', metric.lower()).strip('-')}"


def _draw_lines(axes: Any, axis: str, series: Sequence[Series]) -> None:
    places = list(dict.fromkeys(place for one in series for place, _ in one.points))
    for one in series:
        spreads = [figure.spread for _, figure in one.points]
        axes.errorbar(
            [places.index(place) for place, _ in one.points],
            [spread.median for spread in spreads],
            yerr=[[s.median - s.low for s in spreads], [s.high - s.median for s in spreads]],
            marker="o", capsize=3, label=one.name or None,
        )  # fmt: skip
    axes.set_xticks(range(len(places)), places)
    axes.set_xlabel(axis)
    if all(figure.spread.low >= 0 for one in series for _, figure in one.points):
        axes.set_ylim(bottom=0)
    axes.grid(axis="y", alpha=0.3)
    if any(one.name for one in series):
        axes.legend(fontsize="small")


def _draw_bars(axes: Any, figures: Sequence[Figure]) -> None:
    spreads = [figure.spread for figure in figures]
    axes.barh(
        range(len(figures)),
        [spread.median for spread in spreads],
        xerr=[[s.median - s.low for s in spreads], [s.high - s.median for s in spreads]],
        capsize=3,
    )
    axes.set_yticks(range(len(figures)), [describe_cell(figure.cell) for figure in figures])
    axes.invert_yaxis()
    if all(spread.low >= 0 for spread in spreads):
        axes.set_xlim(left=0)
    axes.grid(axis="x", alpha=0.3)


def _as_svg(canvas: Any) -> str:
    """Without what changes from run to run, and without the XML prologue: it goes into a page."""
    text = io.StringIO()
    canvas.savefig(text, format="svg", metadata={"Date": None})
    whole = text.getvalue()
    return whole[whole.index("<svg") :]


def _as_png(canvas: Any) -> bytes:
    data = io.BytesIO()
    canvas.savefig(data, format="png", dpi=_DPI)
    return data.getvalue()
