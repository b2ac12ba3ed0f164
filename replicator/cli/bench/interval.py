"""`replicator bench interval`: the cost of protection by the length of epochs and by workload."""

from __future__ import annotations

import click

from replicator.bench.interval import (
    DEFAULT_GOAL,
    DEFAULT_SETTINGS,
    choose_settings,
    count_steps,
    measure_intervals,
)
from replicator.bench.loads.workloads import choose_workloads
from replicator.cli.bench.options import Wishes, bench_options, run_bench
from replicator.cli.demo import ensure_programs
from replicator.demo.guest_image import default_cache_dir, ensure_guest_image

_QUICK_SETTINGS = "50"
_QUICK_WORKLOADS = "idle,set,request"


@click.command()
@click.option(
    "--intervals", help=f"Milliseconds, or adaptive; comma-separated [default: {DEFAULT_SETTINGS}]."
)
@click.option("--workloads", help="Comma-separated [default: all]; a wrong name lists them.")
@click.option("--goal", default=DEFAULT_GOAL, show_default=True, help="Of adaptive pacing.")
@bench_options
def interval(intervals: str | None, workloads: str | None, goal: str, wishes: Wishes) -> None:
    """Rate, latency, pauses, bytes and processor time, protected against unprotected."""
    chosen = choose_settings(wishes.choose(DEFAULT_SETTINGS, _QUICK_SETTINGS, intervals), goal)
    loads = choose_workloads(wishes.choose("", _QUICK_WORKLOADS, workloads))
    ensure_programs()
    image = ensure_guest_image(default_cache_dir(), click.echo)
    options = {
        "intervals": ",".join(one.name for one in chosen),
        "workloads": ",".join(x.name for x in loads),
    }
    run_bench(
        "interval",
        lambda run: measure_intervals(run, image, chosen, loads),
        wishes,
        lambda repeats: count_steps(repeats, len(chosen), len(loads)),
        options,
        axis="setting",
    )
