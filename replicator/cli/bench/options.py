"""What the benchmarks' commands have in common: repeats, seed, and where the result goes."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console

from replicator.bench.figures.result import BenchResult, Recorder
from replicator.bench.output import table
from replicator.bench.output.files import csv_text, json_text, write_text
from replicator.bench.output.plots import require_matplotlib
from replicator.bench.output.progress import Steps
from replicator.bench.output.report import write_report
from replicator.bench.run import Run, carry_out
from replicator.errors import ConfigError

#: A cell could not be measured.
INCOMPLETE = 1
REPEATS, SECONDS = 5, 5.0
QUICK_REPEATS, QUICK_SECONDS = 1, 1.0
_FILE_COLUMNS = 160
Command = TypeVar("Command", bound=Callable[..., Any])

_PATH = click.Path(path_type=Path, dir_okay=False)
_OPTIONS = (
    click.option("--repeats", type=click.IntRange(1, 1000), help=f"Of each cell [default: {REPEATS}]."),
    click.option(
        "--seconds", type=click.FloatRange(0.1, 3600), help="Of each measurement [default: 5; of pause 20]."
    ),
    click.option("--quick", is_flag=True, help="One repeat of a second: shows that it works, and no more."),
    click.option("--seed", type=int, default=1, show_default=True, help="Of all that is drawn."),
    click.option("--json", "json_path", type=_PATH, help="Everything, for `bench compare`."),
    click.option("--csv", "csv_path", type=_PATH, help="One row a figure."),
    click.option(
        "--report",
        type=click.Path(path_type=Path, file_okay=False),
        help="Folder for plots and a page with all of them.",
    ),
)


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the operator asked for. Numbers are None where nothing was said."""

    repeats: int | None
    seconds: float | None
    quick: bool
    seed: int
    json_path: Path | None
    csv_path: Path | None
    report: Path | None

    def choose(self, usual: Any, quick: Any, said: Any = None) -> Any:
        """What was said; else what is usual, or enough for --quick."""
        return said if said is not None else quick if self.quick else usual


def bench_options(command: Command) -> Command:
    """Adds the options; they arrive as one Wishes, `wishes`. What --report needs is looked for first."""

    @functools.wraps(command)
    def wrapper(*args: Any, **values: Any) -> Any:
        own = {name: values.pop(name) for name in Wishes.__dataclass_fields__}
        if own["report"] is not None:
            require_matplotlib()
        return command(*args, wishes=Wishes(**own), **values)

    for add in reversed(_OPTIONS):
        wrapper = add(wrapper)
    return wrapper  # type: ignore[return-value]


def run_bench(
    name: str,
    measure: Callable[[Run], None],
    wishes: Wishes,
    steps: Callable[[int], int],
    options: Mapping[str, str | int | float | bool],
    *,
    axis: str = "",
    seconds: float = SECONDS,
) -> None:
    """Measure, show, write; ends with exit code 1 when a cell could not be measured. `steps`: how many for so many
    repeats."""
    repeats = wishes.choose(REPEATS, QUICK_REPEATS, wishes.repeats)
    run = Run(
        repeats=repeats,
        seconds=wishes.choose(seconds, QUICK_SECONDS, wishes.seconds),
        seed=wishes.seed,
        steps=Steps(f"bench {name}", steps(repeats)),
        recorder=Recorder(),
    )
    result = carry_out(name, measure, run, {"quick": wishes.quick, **options}, axis=axis)
    _hand_out(result, wishes)
    if result.failures:
        sys.exit(INCOMPLETE)


def _hand_out(result: BenchResult, wishes: Wishes) -> None:
    console = make_console()
    table.show(console, result)
    for path, text in ((wishes.json_path, json_text), (wishes.csv_path, csv_text)):
        if path is not None:
            write_text(path, text(result))
            console.print(f"written: {path}")
    if wishes.report is not None:
        console.print(f"written: {write_report(wishes.report, result)}")


def make_console() -> Console:
    """Into a file or a pipe nothing is cut off."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_FILE_COLUMNS)


def parse_numbers(text: str, option: str) -> list[int]:
    """Whole numbers of a comma-separated list."""
    try:
        numbers = [int(word) for word in text.split(",") if word.strip()]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise ConfigError(f"{option} {text!r} is no list of whole numbers", hint=f"as {option} 1,2,4")
    return numbers
