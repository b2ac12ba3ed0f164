"""`replicator bench pause`: the pause of an epoch against QEMU's own commands."""

from __future__ import annotations

import click

from replicator.bench.loads.workloads import choose_workloads
from replicator.bench.pause import CANDIDATES, measure_pauses
from replicator.cli.bench.options import Wishes, bench_options, run_bench
from replicator.cli.demo import ensure_programs
from replicator.demo.guest_image import default_cache_dir, ensure_guest_image

_WORKLOADS = "idle,set"
#: Of a p99 there must be some pauses beyond it.
_SECONDS = 20.0


@click.command()
@click.option("--interval-ms", type=click.IntRange(1, 10_000), default=50, show_default=True)
@click.option("--workloads", default=_WORKLOADS, show_default=True, help="As of `bench interval`.")
@bench_options
def pause(interval_ms: int, workloads: str, wishes: Wishes) -> None:
    """Pauses of one guest: replicator's, and QEMU's own stop, save and cont, in turns."""
    loads = choose_workloads(workloads)
    ensure_programs()
    image = ensure_guest_image(default_cache_dir(), click.echo)
    run_bench(
        "pause",
        lambda run: measure_pauses(run, image, interval_ms, loads),
        wishes,
        lambda repeats: repeats * len(loads) * len(CANDIDATES),
        {"interval_ms": interval_ms, "workloads": workloads},
        axis="workload",
        seconds=_SECONDS,
    )
