"""`replicator bench`: measure what protection costs and how fast it is, and compare two measurements."""

from __future__ import annotations

from typing import Final

import click

from replicator.cli.lazy import LazyGroup

COMMANDS: Final = {
    "interval": "replicator.cli.bench.interval:interval",
    "pause": "replicator.cli.bench.pause:pause",
    "sync": "replicator.cli.bench.sync:sync",
    "failover": "replicator.cli.bench.failover:failover",
    "link": "replicator.cli.bench.micro:link",
    "pages": "replicator.cli.bench.micro:pages",
    "scale": "replicator.cli.bench.scale:scale",
    "colo": "replicator.cli.bench.colo:colo",
    "compare": "replicator.cli.bench.compare:compare",
}


@click.group(cls=LazyGroup, places=COMMANDS)
def bench() -> None:
    """Measure this machine: real guests in network namespaces of their own. Needs root. See docs/bench.md."""
