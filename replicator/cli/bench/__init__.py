"""`replicator bench`: measure what protection costs and how fast it is, and compare two measurements."""

from __future__ import annotations

import click

from replicator.cli.bench.compare import compare
from replicator.cli.bench.failover import failover
from replicator.cli.bench.interval import interval
from replicator.cli.bench.micro import link, pages
from replicator.cli.bench.pause import pause
from replicator.cli.bench.scale import scale
from replicator.cli.bench.sync import sync


@click.group()
def bench() -> None:
    """Measure this machine: real guests in network namespaces of their own. Needs root. See docs/bench.md."""


for command in (interval, pause, sync, failover, link, pages, scale, compare):
    bench.add_command(command)
