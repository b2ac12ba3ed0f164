"""`replicator demo`: protect a real VM, kill its host, and judge what the client saw."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import click

from replicator.demo.guest_image import default_cache_dir, ensure_guest_image
from replicator.demo.lab import Lab
from replicator.demo.run import Demonstration
from replicator.demo.timeline import render_timeline, render_verdict
from replicator.errors import ConfigError

#: Program -> Debian package that has it.
NEEDED = {"qemu-system-x86_64": "qemu-system-x86", "ip": "iproute2"}
BROKEN_AS_WANTED = "the control run is broken, as it must be: the checker sees a leak"


@click.command()
@click.option("--control", is_flag=True, help="Disable the output hold: the verdict must be BROKEN.")
@click.option("--interval-ms", default=50, show_default=True, help="Length of an epoch.")
def demo(control: bool, interval_ms: int) -> None:
    """Run the demonstration. Needs root."""
    ensure_programs()
    image = ensure_guest_image(default_cache_dir(), click.echo)
    with Lab() as lab:
        result = Demonstration(lab, image, click.echo, hold=not control, interval_ms=interval_ms).run()
    for line in (*render_timeline(result.events), "", *render_verdict(result.verdict)):
        click.echo(line)
    if control:
        click.echo(BROKEN_AS_WANTED if not result.verdict.kept else "the control run was NOT found broken")
        sys.exit(1 if result.verdict.kept else 0)
    sys.exit(result.verdict.exit_code)


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
