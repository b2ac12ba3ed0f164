"""`replicator bench compare`: two results of one benchmark side by side."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from replicator.bench.figures.compare import compare_results
from replicator.bench.output.files import read_result
from replicator.bench.output.table import show_comparison
from replicator.cli.bench.options import make_console

#: Something became worse than --fail-above allows.
WORSE = 1
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("before", type=_FILE)
@click.argument("after", type=_FILE)
@click.option(
    "--fail-above",
    type=click.FloatRange(0),
    help="Exit code 1 when a figure became worse by more than so many percent, beyond noise.",
)
def compare(before: Path, after: Path, fail_above: float | None) -> None:
    """Compare figure by figure two files that --json wrote."""
    comparison = compare_results(read_result(before), read_result(after))
    console = make_console()
    show_comparison(console, comparison)
    failed = [] if fail_above is None else comparison.failed(fail_above)
    if failed:
        console.print(f"[red]{len(failed)} figures became worse by more than {fail_above:g} %[/red]")
        sys.exit(WORSE)
