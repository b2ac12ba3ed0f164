"""`replicator bench scale`: guests that are large, and guests that are many."""

from __future__ import annotations

import click

from replicator.bench.scale import PARTS, Scale, measure_scale
from replicator.cli.bench.options import Wishes, bench_options, parse_numbers, run_bench
from replicator.errors import ConfigError

_SIZES, _QUICK_SIZES = "256,1024,4096,8192", "64,256"
_DIRTY, _QUICK_DIRTY = "256,1024,4096", "64"
_GUESTS, _QUICK_GUESTS = "1,5,10,20,50", "1,2"


@click.command()
@click.option("--parts", default=",".join(PARTS), show_default=True, help="Comma-separated.")
@click.option("--sizes", help=f"MiB of idle guests [default: {_SIZES}].")
@click.option("--dirty-sizes", help=f"MiB of guests that change altogether [default: {_DIRTY}].")
@click.option("--guests", help=f"How many at once [default: {_GUESTS}].")
@bench_options
def scale(parts: str, sizes: str | None, dirty_sizes: str | None, guests: str | None, wishes: Wishes) -> None:
    """Synthetic guests: by size, by change, by length of epochs, by number. Memory is checked first."""
    wanted = Scale(
        parts=_choose_parts(parts),
        sizes=tuple(parse_numbers(wishes.choose(_SIZES, _QUICK_SIZES, sizes), "--sizes")),
        dirty_sizes=tuple(parse_numbers(wishes.choose(_DIRTY, _QUICK_DIRTY, dirty_sizes), "--dirty-sizes")),
        guests=tuple(parse_numbers(wishes.choose(_GUESTS, _QUICK_GUESTS, guests), "--guests")),
    )
    wanted.require_memory()
    run_bench(
        "scale",
        lambda run: measure_scale(run, wanted),
        wishes,
        lambda repeats: repeats * wanted.steps,
        {"parts": parts},
        axis="guest",
    )


def _choose_parts(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in PARTS:
            raise ConfigError(f"--parts names no part {name!r}", hint=f"known are {', '.join(PARTS)}")
    return names
