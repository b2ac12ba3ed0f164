"""`replicator tune`: change the pace of a running primary, and its policy for copies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from replicator.engine.pacing import Mode
from replicator.engine.precopy import OnBusy
from replicator.service.config import load_config
from replicator.service.control import ask_daemon


def sync_options(command: Any) -> Any:
    """The options of a pre-copy, as keys of [sync]; None for those that were not given."""
    for option in reversed(_SYNC_OPTIONS):
        command = option(command)
    return command


_SYNC_OPTIONS = (
    click.option(
        "--max-downtime", "max_downtime_ms", type=int, metavar="MS", help="Longest pause for the rest."
    ),
    click.option("--max-iterations", type=int, metavar="N", help="Passes over a busy guest."),
    click.option(
        "--min-remaining", "min_remaining_pages", type=int, metavar="PAGES", help="So few are copied paused."
    ),
    click.option("--max-time", "max_time_s", type=int, metavar="S", help="For all passes together."),
    click.option(
        "--on-busy",
        type=click.Choice([choice.value for choice in OnBusy]),
        help="With a guest that dirties pages faster than they are copied.",
    ),
)


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--pacing", type=click.Choice([mode.value for mode in Mode]))
@click.option("--interval", "interval_ms", type=int, metavar="MS", help="Of fixed pacing.")
@click.option("--interval-min", "interval_min_ms", type=int, metavar="MS", help="Of adaptive pacing.")
@click.option("--interval-max", "interval_max_ms", type=int, metavar="MS", help="Of adaptive pacing.")
@click.option("--goal", help='Of adaptive pacing: "latency=10ms" or "overhead=5%".')
@click.option(
    "--early-pages", type=int, metavar="PAGES", help="Epochs so large are copied in part before; 0: none."
)
@sync_options
@click.option("--retry", is_flag=True, help="Start a copy anew that was given up.")
def tune(config: Path, **orders: Any) -> None:
    """Change the pace of the primary of CONFIG while it runs; without options show what is in force."""
    answer = ask_daemon(load_config(config).state_dir, "tune", **orders)
    for key, value in answer["in_force"].items():
        click.echo(f"{key} = {value}")
