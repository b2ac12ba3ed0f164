"""`replicator bench colo`: both guests run, against Remus and an unprotected guest."""

from __future__ import annotations

import click

from replicator.bench.colo import DEFAULT_WORKLOADS, count_steps, measure_colo
from replicator.bench.loads.workloads import choose_workloads
from replicator.cli.bench.options import Wishes, bench_options, run_bench
from replicator.cli.demo import ensure_programs
from replicator.demo.guest_image import default_cache_dir, ensure_guest_image

_QUICK_WORKLOADS = "request"


@click.command()
@click.option("--workloads", help=f"Comma-separated [default: {DEFAULT_WORKLOADS}]; a wrong name lists them.")
@bench_options
def colo(workloads: str | None, wishes: Wishes) -> None:
    """Rate, latency and checkpoints with COLO, with Remus, unprotected, and unprotected beside a busy twin."""
    loads = choose_workloads(wishes.choose(DEFAULT_WORKLOADS, _QUICK_WORKLOADS, workloads))
    ensure_programs()
    image = ensure_guest_image(default_cache_dir(), click.echo)
    run_bench(
        "colo",
        lambda run: measure_colo(run, image, loads),
        wishes,
        lambda repeats: count_steps(repeats, len(loads)),
        {"workloads": ",".join(load.name for load in loads)},
        axis="setting",
    )
