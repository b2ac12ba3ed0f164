"""A run as a file: the seed, what the pair is configured to and the plan of faults, so that it outlives changes of the drawing."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from replicator.errors import ConfigError
from replicator.sim.faults import Fault, Kind
from replicator.sim.machine import Workload
from replicator.sim.settings import Settings


@dataclass(frozen=True, slots=True)
class Scenario:
    """`why` says what the run once showed."""

    seed: int
    settings: Settings
    plan: tuple[Fault, ...]
    why: str = ""


def save_scenario(scenario: Scenario, path: Path) -> None:
    plan = [{**asdict(fault), "kind": fault.kind.name} for fault in scenario.plan]
    document = {
        "why": scenario.why,
        "seed": scenario.seed,
        "settings": asdict(scenario.settings),
        "plan": plan,
    }
    path.write_text(json.dumps(document, indent=1) + "\n")


def load_scenario(path: Path) -> Scenario:
    """ConfigError for a file that `save_scenario` did not write."""
    try:
        document: dict[str, Any] = json.loads(path.read_text())
        plan = [Fault(**{**fault, "kind": Kind[fault["kind"]]}) for fault in document["plan"]]
        settings = dict(document["settings"])
        workload = settings.pop("workload")
        made = replace(
            Settings(**settings), workload=Workload(**{**workload, "burst_ns": tuple(workload["burst_ns"])})
        )
        return Scenario(document["seed"], made, tuple(plan), document.get("why", ""))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} is no scenario: {error!r}", hint="`python -m replicator.sim --save DIR` writes them"
        ) from error
