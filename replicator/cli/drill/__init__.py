"""`replicator drill`: break a pair in every way it must survive, and show that it did."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from replicator.cli.lazy import LazyGroup

_CONFIG = click.Path(path_type=Path)


@click.group(cls=LazyGroup, places={"check": "replicator.cli.drill.check:check"}, invoke_without_command=True)
@click.option("--quick", is_flag=True, help="Each fault and each phase once, in less than two minutes.")
@click.option("--guest", type=click.Choice(("qemu", "synthetic")), default="qemu", show_default=True)
@click.option("--mode", type=click.Choice(("remus", "colo")), default="remus", show_default=True)
@click.option(
    "--divergence",
    type=click.FloatRange(0, 1),
    default=0.0,
    help="Of a synthetic guest in COLO: the share of its words that differ from its twin's.",
)
@click.option("--faults", default="", help="Only these faults, comma-separated; a wrong name lists all.")
@click.option("--phases", default="", help="Only these phases of an epoch, likewise.")
@click.option("--seed", type=int, help="Repeat a run: its report has the number.")
@click.option("--report", type=_CONFIG, help="Folder for drill.json and drill.html.")
@click.option(
    "--on-copy", type=_CONFIG, help="Boot a copy of the replica of this secondary's CONFIG instead."
)
@click.option("--address", help="With --on-copy: the guest's IPv4 address, if it does not tell it by itself.")
@click.option("--for-real", type=_CONFIG, help="Kill the primary of this CONFIG instead, for real.")
@click.option("--yes", is_flag=True, help="With --for-real: do not ask.")
@click.pass_context
def drill(
    context: click.Context,
    quick: bool,
    guest: str,
    mode: str,
    divergence: float,
    faults: str,
    phases: str,
    seed: int | None,
    report: Path | None,
    on_copy: Path | None,
    address: str | None,
    for_real: Path | None,
    yes: bool,
) -> None:
    """Prove that failover works.

    Without a command and without --on-copy and --for-real, the fault matrix: a pair in network namespaces of its own
    (root) suffers every fault in every phase of an epoch, while a client checks that nothing is lost or repeated.
    """
    if context.invoked_subcommand is not None:
        return
    if on_copy is not None and for_real is not None:
        raise click.UsageError("--on-copy and --for-real exclude each other")
    # What each of them needs is imported where it is used: it is much.
    if on_copy is not None:
        from replicator.cli.drill.on_copy import run_on_copy

        run_on_copy(on_copy, report, address)
    elif for_real is not None:
        from replicator.cli.drill.for_real import run_for_real

        run_for_real(for_real, yes=yes, report=report)
    else:
        from replicator.cli.drill.matrix import run_matrix

        code = run_matrix(
            guest, faults, phases, mode=mode, divergence=divergence, quick=quick, seed=seed, report=report
        )
        sys.exit(code)
