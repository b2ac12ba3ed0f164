"""`replicator bench link` and `pages`: micro-benchmarks of a checkout."""

from __future__ import annotations

import click

from replicator.bench.micro import find_script, measure_script
from replicator.cli.bench.options import Wishes, bench_options, run_bench

_ROUNDS, _QUICK_ROUNDS = 100, 5


def _run(name: str, rounds: int | None, wishes: Wishes) -> None:
    script = find_script(name)
    chosen = wishes.choose(_ROUNDS, _QUICK_ROUNDS, rounds)
    options = {"rounds": chosen}
    run_bench(name, lambda run: measure_script(run, script, chosen), wishes, lambda _: 1, options)


_ROUNDS_OPTION = click.option(
    "--rounds", type=click.IntRange(3), help=f"Of each candidate, instead of --repeats [default: {_ROUNDS}]."
)


@click.command()
@_ROUNDS_OPTION
@bench_options
def link(rounds: int | None, wishes: Wishes) -> None:
    """From sending an epoch to its ack: the link in the clear, sealed, with CURVE, beside a bare socket."""
    _run("link", rounds, wishes)


@click.command()
@_ROUNDS_OPTION
@bench_options
def pages(rounds: int | None, wishes: Wishes) -> None:
    """Encodings of pages by kind of page."""
    _run("pages", rounds, wishes)
