"""A benchmark's result as plain values, and its map for JSON. Pure.

A cell is what was varied (`{"setting": "50 ms", "workload": "set", "state": "protected"}`); a figure is one metric of
one cell with the value of each repeat. A cell that could not be measured has a failure with the reason instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from replicator.bench.figures.metrics import METRICS, Metric, metric_named
from replicator.bench.figures.stats import Spread, spread_of
from replicator.errors import ConfigError

FORMAT: Final = 1
#: Label and value, in the order of the table's columns.
Cell = tuple[tuple[str, str], ...]


def make_cell(**labels: str) -> Cell:
    """A cell of these labels; empty ones are left out."""
    return tuple((name.replace("_", " "), value) for name, value in labels.items() if value)


def describe_cell(cell: Cell) -> str:
    return ", ".join(value for _, value in cell)


@dataclass(frozen=True, slots=True)
class Figure:
    """One metric of one cell; `values` has one of each repeat."""

    cell: Cell
    metric: Metric
    values: tuple[float, ...]

    @property
    def spread(self) -> Spread:
        return spread_of(self.values)

    def to_map(self) -> dict[str, Any]:
        spread = self.spread
        return {
            "cell": dict(self.cell),
            "metric": self.metric.name,
            "unit": self.metric.unit,
            "better": self.metric.better.value,
            "median": round(spread.median, 6),
            "lowest": round(spread.low, 6),
            "q1": round(spread.q1, 6),
            "q3": round(spread.q3, 6),
            "highest": round(spread.high, 6),
            "values": [round(value, 6) for value in self.values],
        }


@dataclass(frozen=True, slots=True)
class Failure:
    """A cell that has no figures, or lacks those of some repeats."""

    cell: Cell
    reason: str


@dataclass(frozen=True, slots=True)
class BenchResult:
    """A whole run. `machine` says where, `options` what was asked for."""

    bench: str
    began: str
    duration_s: float
    seed: int
    machine: Mapping[str, str | int]
    options: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    figures: tuple[Figure, ...] = ()
    failures: tuple[Failure, ...] = ()
    #: Label of the cells that a plot has on its x axis; "" for bars.
    axis: str = ""

    def to_map(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "bench": self.bench,
            "began": self.began,
            "duration_s": round(self.duration_s, 1),
            "seed": self.seed,
            "machine": dict(self.machine),
            "options": dict(self.options),
            "axis": self.axis,
            "figures": [figure.to_map() for figure in self.figures],
            "failures": [{"cell": dict(one.cell), "reason": one.reason} for one in self.failures],
        }


def result_from_map(values: Any, where: str) -> BenchResult:
    """What `to_map` made. ConfigError when it is anything else; `where` names the file."""
    hint = "name a file that `replicator bench ... --json FILE` wrote"
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise ConfigError(f"{where} is no benchmark's result of format {FORMAT}", hint=hint)
    try:
        return BenchResult(
            bench=str(values["bench"]),
            began=str(values["began"]),
            duration_s=float(values["duration_s"]),
            seed=int(values["seed"]),
            machine=dict(values["machine"]),
            options=dict(values["options"]),
            figures=tuple(_figure_from_map(one) for one in values["figures"]),
            failures=tuple(
                Failure(_cell_from_map(one["cell"]), str(one["reason"])) for one in values["failures"]
            ),
            axis=str(values["axis"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"{where} is a damaged benchmark's result: {error!r}", hint=hint) from error


def _figure_from_map(values: Any) -> Figure:
    numbers = tuple(float(value) for value in values["values"])
    if not numbers or values["metric"] not in METRICS:
        raise ValueError(f"no figure of this version: {values['metric']}")
    return Figure(_cell_from_map(values["cell"]), METRICS[values["metric"]], numbers)


def _cell_from_map(values: Any) -> Cell:
    return tuple((str(name), str(value)) for name, value in values.items())


class Recorder:
    """Collects figures while a benchmark runs. Cells and metrics keep the order in which they first came."""

    def __init__(self) -> None:
        self._values: dict[Cell, dict[str, list[float]]] = {}
        self._failures: dict[Cell, str] = {}

    def add(self, cell: Cell, values: Mapping[str, float]) -> None:
        """One repeat of a cell: metric -> value."""
        known = self._values.setdefault(cell, {})
        for name, value in values.items():
            known.setdefault(metric_named(name).name, []).append(value)

    def fail(self, cell: Cell, reason: str) -> None:
        """The first reason is kept."""
        self._failures.setdefault(cell, reason)

    def has_failed(self, cell: Cell) -> bool:
        return cell in self._failures

    def figures(self) -> tuple[Figure, ...]:
        order = list(METRICS)
        return tuple(
            Figure(cell, METRICS[name], tuple(values[name]))
            for cell, values in self._values.items()
            for name in sorted(values, key=order.index)
        )

    def failures(self) -> tuple[Failure, ...]:
        return tuple(Failure(cell, reason) for cell, reason in self._failures.items())
