"""The fault matrix of `replicator drill`: what is said while it runs, and where its result goes."""

from __future__ import annotations

import json
import random
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from replicator.cli.demo import ensure_programs
from replicator.demo.lab import require_abilities
from replicator.drill.matrix.cells import Cell, choose_cells
from replicator.drill.report.html import render
from replicator.drill.report.result import CellResult, DrillResult
from replicator.drill.report.table import show
from replicator.drill.run.matrix import run_cells
from replicator.drill.stand.guests import make_guest
from replicator.errors import ConfigError, DrillFailed
from replicator.service.config import Mode

JSON_NAME, HTML_NAME = "drill.json", "drill.html"
#: Of the table of all faults and phases.
WIDTH_MIN = 116
_SEEDS = 1 << 31


def run_matrix(
    guest: str,
    faults: str,
    phases: str,
    *,
    mode: str = Mode.REMUS.value,
    divergence: float = 0.0,
    quick: bool,
    seed: int | None,
    report: Path | None,
) -> int:
    """Run the cells that are asked for and show the result. The exit code: 0 when every cell passed."""
    how = Mode(mode)
    cells = choose_cells(mode=how, quick=quick, faults=split(faults), phases=split(phases))
    require_abilities()
    if guest == "qemu":
        ensure_programs()
    if report is not None:
        make_folder(report)
    console = make_console()
    drilled = make_guest(guest, click.echo, divergence)
    number = random.randrange(_SEEDS) if seed is None else seed
    with Watched(console, sum(not cell.reason for cell in cells)) as watched:
        result = run_cells(
            drilled, cells, seed=number, mode=how, quick=quick, begin=watched.begin, done=watched.done
        )
    show(console, result)
    if report is not None:
        write_report(result, report)
        console.print(f"{report / JSON_NAME} and {report / HTML_NAME} have the details", soft_wrap=True)
    return 0 if result.passed else DrillFailed.exit_code


def make_console() -> Console:
    """As wide as the tables at least: a narrow terminal folds their lines, which is better than half of each number."""
    console = Console()
    return console if console.width >= WIDTH_MIN else Console(width=WIDTH_MIN)


def split(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


def make_folder(report: Path) -> None:
    try:
        report.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--report {report}: {error.strerror}", hint="name a folder") from error


def write_report(result: DrillResult, folder: Path) -> None:
    (folder / JSON_NAME).write_text(json.dumps(result.to_map(), indent=1) + "\n")
    (folder / HTML_NAME).write_text(render(result))


class Watched:
    """Context manager: a line that says which cell runs, and one that stays for each that failed; where there is no
    terminal, one for each cell."""

    def __init__(self, console: Console, cells: int) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._task = self._progress.add_task("starting", total=cells)

    def __enter__(self) -> Watched:
        self._progress.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._progress.stop()

    def begin(self, cell: Cell) -> None:
        self._progress.update(self._task, description=cell.name)

    def done(self, result: CellResult) -> None:
        self._progress.advance(self._task)
        verdict = result.verdict
        if verdict is not None and not verdict.passed:
            self._say(f"[red]FAILED[/red] {result.cell.name}: {escape('; '.join(verdict.reasons))}")
        elif not self._console.is_terminal:
            self._say(f"passed {result.cell.name}, {result.duration_s:.1f} s")

    def _say(self, line: str) -> None:
        self._progress.console.print(line, soft_wrap=True, highlight=False)
