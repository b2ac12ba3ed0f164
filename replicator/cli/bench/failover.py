"""`replicator bench failover`: how long a client hears nothing when the primary's host dies."""

from __future__ import annotations

import click

from replicator.bench.failover import choose_beats, measure_failovers
from replicator.cli.bench.options import Wishes, bench_options, run_bench
from replicator.cli.demo import ensure_programs
from replicator.demo.guest_image import default_cache_dir, ensure_guest_image

_BEATS, _QUICK_BEATS = "default,quick,tuned,tight", "tuned"
_KILLS, _QUICK_KILLS = 10, 2
_WATCH_S, _QUICK_WATCH_S = 30.0, 2.0


@click.command()
@click.option("--beats", help=f"Heartbeats and lease [default: {_BEATS}]; or as 15x4/100/20.")
@click.option("--kills", type=click.IntRange(1, 10_000), help=f"Of each kind of beats [default: {_KILLS}].")
@click.option(
    "--watch", type=click.FloatRange(0), help=f"Seconds under load without a death [default: {_WATCH_S:g}]."
)
@click.option("--mode", type=click.Choice(["remus", "colo"]), default="remus", show_default=True)
@bench_options
def failover(beats: str | None, kills: int | None, watch: float | None, mode: str, wishes: Wishes) -> None:
    """Kill the host again and again; --repeats and --seconds do not matter here, --kills and --watch do."""
    chosen = choose_beats(wishes.choose(_BEATS, _QUICK_BEATS, beats))
    deaths = wishes.choose(_KILLS, _QUICK_KILLS, kills)
    watch_s = wishes.choose(_WATCH_S, _QUICK_WATCH_S, watch)
    ensure_programs()
    image = ensure_guest_image(default_cache_dir(), click.echo)
    run_bench(
        "failover",
        lambda run: measure_failovers(run, image, chosen, deaths, watch_s, mode=mode),
        wishes,
        lambda _: len(chosen) * (deaths + 1),
        {"beats": ",".join(one.name for one in chosen), "kills": deaths, "watch_s": watch_s, "mode": mode},
    )
