"""The command of `python -m replicator.sim`: run many seeds, or one again."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import click

from replicator.errors import ConfigError
from replicator.sim.pair import remove_leftovers
from replicator.sim.report import Totals, describe_failure
from replicator.sim.run import hush, run_many, run_scenario, scenario_of, shrink
from replicator.sim.scenario import Scenario, load_scenario, save_scenario
from replicator.sim.settings import Modes
from replicator.sim.simulation import Result

COMMAND = "python -m replicator.sim"
#: Failures that are shown whole; more are counted.
SHOWN_MAX = 3


@click.command()
@click.option(
    "--seeds", type=click.IntRange(min=1), default=200, show_default=True, help="How many seeds to run."
)
@click.option("--first", type=click.IntRange(min=0), default=0, show_default=True, help="The first of them.")
@click.option(
    "--seed", type=click.IntRange(min=0), help="Run only this one and show its trace when it fails."
)
@click.option("--scenario", type=click.Path(path_type=Path, exists=True), help="Run one from a file.")
@click.option(
    "--jobs", type=click.IntRange(min=1), default=2, show_default=True, help="Processes side by side."
)
@click.option("--save", type=click.Path(path_type=Path, file_okay=False), help="Write failures here, shrunk.")
@click.option(
    "--mode",
    "modes",
    type=click.Choice([modes.value for modes in Modes]),
    default=Modes.REMUS.value,
    show_default=True,
    help="What the pairs do.",
)
@click.option("--coverage", is_flag=True, help="Show which event met which state, and all faults.")
def sim(
    seeds: int,
    first: int,
    seed: int | None,
    scenario: Path | None,
    jobs: int,
    save: Path | None,
    modes: str,
    coverage: bool,
) -> None:
    """Run two simulated hosts through drawn faults, and stop at a broken promise."""
    hush()
    remove_leftovers()
    totals, drawn = Totals(), Modes(modes)
    if scenario is not None or seed is not None:
        one = open_scenario(scenario) if scenario is not None else scenario_of(seed or 0, drawn)
        results: Iterable[Result] = [run_scenario(one)]
    else:
        results = run_many(range(first, first + seeds), jobs, drawn)
    count = 1 if scenario is not None or seed is not None else seeds
    with click.progressbar(results, length=count, label="seeds", show_pos=True, file=sys.stderr) as steps:
        for result in steps:
            totals.add(result)
            if result.violation is not None and len(totals.failed) <= SHOWN_MAX:
                shown = scenario_of(result.seed, drawn) if scenario is None else one
                show_failure(shown, result, save)
    lines = [
        *totals.describe(),
        *((*totals.describe_faults(), *totals.describe_coverage()) if coverage else ()),
    ]
    for line in lines:
        click.echo(line)
    sys.exit(1 if totals.failed else 0)


def open_scenario(path: Path) -> Scenario:
    try:
        return load_scenario(path)
    except ConfigError as error:
        raise click.ClickException(f"{error}\n  hint: {error.hint}") from error


def show_failure(scenario: Scenario, result: Result, save: Path | None) -> None:
    smallest = shrink(scenario, result)
    replay = f"{COMMAND} --mode {scenario.settings.mode} --seed {result.seed}"
    if save is not None:
        save.mkdir(parents=True, exist_ok=True)
        path = save / f"seed-{result.seed}.json"
        save_scenario(Scenario(result.seed, scenario.settings, smallest.plan, str(result.violation)), path)
        replay = f"{COMMAND} --scenario {path}"
    for line in describe_failure(smallest, replay):
        click.echo(line)
