"""`replicator demo`: protect a real VM, kill its host, and judge what the client saw."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import click

from replicator.demo.guest_image import GuestImage, default_cache_dir, ensure_guest_image
from replicator.demo.lab import Lab
from replicator.demo.run import Demonstration
from replicator.demo.timeline import Verdict, render_timeline, render_verdict
from replicator.errors import ConfigError

#: Program -> Debian package that has it.
NEEDED = {"qemu-system-x86_64": "qemu-system-x86", "ip": "iproute2"}
BROKEN_AS_WANTED = "the control run is broken, as it must be: the checker sees a leak"


@click.command()
@click.option("--control", is_flag=True, help="Disable the output hold: the verdict must be BROKEN.")
@click.option("--interval-ms", default=50, show_default=True, help="Length of an epoch.")
@click.option("--mode", type=click.Choice(["remus", "colo"]), default="remus", show_default=True)
@click.option(
    "--victim",
    type=click.Choice(["primary", "secondary", "each"]),
    help="Whose host dies; each: one after the other, in two runs.  [default: primary; with colo each]",
)
def demo(control: bool, interval_ms: int, mode: str, victim: str | None) -> None:
    """Run the demonstration. Needs root."""
    if control and (mode != "remus" or victim not in (None, "primary")):
        raise click.UsageError("--control breaks Remus, where the primary dies")
    ensure_programs()
    image = ensure_guest_image(default_cache_dir(), click.echo)
    victim = victim or ("each" if mode == "colo" else "primary")
    victims = ["primary", "secondary"] if victim == "each" else [victim]
    verdicts = [
        run_once(
            image, control=control, interval_ms=interval_ms, mode=mode, secondary_dies=name == "secondary"
        )
        for name in victims
    ]
    if control:
        kept = verdicts[0].kept
        click.echo("the control run was NOT found broken" if kept else BROKEN_AS_WANTED)
        sys.exit(1 if kept else 0)
    sys.exit(max(verdict.exit_code for verdict in verdicts))


def run_once(
    image: GuestImage, *, control: bool, interval_ms: int, mode: str, secondary_dies: bool
) -> Verdict:
    """One story, told and judged."""
    with Lab() as lab:
        result = Demonstration(
            lab,
            image,
            click.echo,
            hold=not control,
            interval_ms=interval_ms,
            mode=mode,
            secondary_dies=secondary_dies,
        ).run()
    for line in (*render_timeline(result.events), "", *render_verdict(result.verdict)):
        click.echo(line)
    return result.verdict


def ensure_programs() -> None:
    """Install what is missing by apt, after saying so; NO_INSTALL=1 forbids it."""
    missing = [package for program, package in NEEDED.items() if shutil.which(program) is None]
    if not missing:
        return
    command = ["apt-get", "install", "-y", "--no-install-recommends", *missing]
    if os.environ.get("NO_INSTALL") == "1":
        raise ConfigError(f"{', '.join(missing)} is missing", hint=f"run: {' '.join(command)}")
    click.echo(f"installing {', '.join(missing)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    if subprocess.run(command, env=environment, check=False).returncode != 0:
        raise ConfigError(f"{', '.join(missing)} could not be installed", hint=f"run: {' '.join(command)}")
