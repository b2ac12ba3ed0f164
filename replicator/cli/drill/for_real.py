"""`replicator drill --for-real CONFIG`: kill this host's daemon and guest, and watch the other side take over."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.console import Console

from replicator.errors import ConfigError
from replicator.service.config import load_config


def run_for_real(config: Path, *, yes: bool, report: Path | None) -> None:
    """Asks unless `yes`; prints the table, writes `for-real.json` into the folder `report`. FenceError when the guest
    is not protected right now, DrillFailed when nobody took it over."""
    from replicator.drill.for_real.drill import describe, drill_for_real
    from replicator.drill.for_real.report import render, write_report

    settings = load_config(config)
    if not yes:
        if not sys.stdin.isatty():
            raise ConfigError(
                "nobody is there to be asked", hint="say --yes if this host's guest shall be killed"
            )
        click.confirm(describe(settings), abort=True)
    found = drill_for_real(settings, say=click.echo)
    if report is not None:
        click.echo(f"report: {write_report(found, report)}")
    Console().print(render(found))
    click.echo(f"to have it protected again, run here: replicator secondary {config}")
