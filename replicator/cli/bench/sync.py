"""`replicator bench sync`: the first copy of a guest against QEMU's own live migration."""

from __future__ import annotations

import click

from replicator.bench.loads.workloads import choose_workloads
from replicator.bench.sync import candidates, measure_syncs
from replicator.cli.bench.options import Wishes, bench_options, run_bench
from replicator.cli.demo import ensure_programs
from replicator.demo.guest_image import default_cache_dir, ensure_guest_image
from replicator.errors import ConfigError


@click.command()
@click.option(
    "--workload", default="idle", show_default=True, help="While it is copied; as of `bench interval`."
)
@bench_options
def sync(workload: str, wishes: Wishes) -> None:
    """Guest RAM a second: replicator, QEMU's tcp and multifd migration, a plain socket, memcpy."""
    loads = choose_workloads(workload)
    if len(loads) != 1:
        raise ConfigError(f"--workload {workload!r} names {len(loads)}", hint="name one, as --workload set")
    ensure_programs()
    image = ensure_guest_image(default_cache_dir(), click.echo)
    run_bench(
        "sync",
        lambda run: measure_syncs(run, image, loads[0]),
        wishes,
        lambda repeats: repeats * len(candidates()),
        {"workload": workload},
    )
