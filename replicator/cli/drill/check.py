"""`replicator drill check`: judge the journals that both daemons, and a client, have left."""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.command()
@click.argument("journals", nargs=-1, required=True, type=click.Path(path_type=Path))
def check(journals: tuple[Path, ...]) -> None:
    """Check JOURNAL files (daemons' --events FILE, in any number; a client's log too) against what is promised.

    Exit code 0: nothing is broken, 1: something is; others: a file cannot be read.
    """
    from replicator.drill.history.check import check_files
    from replicator.drill.history.report import render_report

    report = check_files(journals)
    for line in render_report(report):
        click.echo(line)
    sys.exit(0 if report.kept else 1)
