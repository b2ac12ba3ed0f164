"""`replicator drill --on-copy CONFIG`: boot a copy of the replica in a network of its own, beside the running pair."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from replicator.errors import DrillFailed
from replicator.service.config import load_config


def run_on_copy(config: Path, report: Path | None, address: str | None = None) -> None:
    """Print the table, write `on-copy.json` into the folder `report`. DrillFailed when the copy did not answer, or the
    pair did not go on as it was. `address` is the guest's IPv4 address, where its own frames do not tell it."""
    from replicator.drill.on_copy.drill import drill_on_copy
    from replicator.drill.on_copy.report import render, write_report

    found = drill_on_copy(load_config(config), address=address, say=click.echo)
    if report is not None:
        click.echo(f"report: {write_report(found, report)}")
    Console().print(render(found))
    if found.problems:
        raise DrillFailed(
            "; ".join(found.problems), hint="the pair was left as it is; see `replicator status`"
        )
