"""The folder of `--report`: each plot as PNG and SVG, and `BENCH.html` with all of them inside."""

from __future__ import annotations

from pathlib import Path

from replicator.bench.figures.result import BenchResult
from replicator.bench.output.files import write_text
from replicator.bench.output.html import render
from replicator.bench.output.plots import draw_plots
from replicator.errors import FileAccessError


def write_report(folder: Path, result: BenchResult) -> Path:
    """Returns the page's path."""
    plots = draw_plots(result)
    page = folder / f"{result.bench}.html"
    write_text(page, render(result, [(plot.title, plot.svg) for plot in plots]))
    for plot in plots:
        write_text(folder / f"{plot.name}.svg", plot.svg)
        _write_bytes(folder / f"{plot.name}.png", plot.png)
    return page


def _write_bytes(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise FileAccessError(
            f"{path} cannot be written: {error.strerror}", hint="name a folder of yours with --report"
        ) from error
