"""`replicator promote` and `replicator stop`: the operator's word."""

from __future__ import annotations

from pathlib import Path

import click

from replicator.engine.guest_clock import ClockPolicy
from replicator.service.config import load_config
from replicator.service.control import ask_daemon

_CONFIG = click.argument("config", type=click.Path(path_type=Path))


@click.command()
@_CONFIG
@click.option("--force", is_flag=True, help="Even though the primary is still heard.")
@click.option(
    "--clock",
    type=click.Choice([policy.value for policy in ClockPolicy]),
    help="What becomes of the time that the guest has lost, from now on.",
)
def promote(config: Path, force: bool, clock: str | None) -> None:
    """Run the guest here. On a primary that waits: let it go on without its secondary."""
    state_dir = load_config(config).state_dir
    click.echo(ask_daemon(state_dir, "promote", force=force, clock=clock or "")["said"])


@click.command()
@_CONFIG
@click.option("--guest", type=click.Choice(["run", "shutdown"]), default="shutdown", show_default=True)
def stop(config: Path, guest: str) -> None:
    """End the protection: the secondary stands down and never promotes."""
    click.echo(ask_daemon(load_config(config).state_dir, "stop", guest=guest)["said"])
