"""Results as files: JSON with everything, CSV with one row a figure. FileAccessError when one cannot be used."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from replicator.bench.figures.result import BenchResult, describe_cell, result_from_map
from replicator.errors import ConfigError, FileAccessError

#: Where and how, repeated in each row: a row says all by itself, also among rows of other runs.
_CIRCUMSTANCES = ("cpu", "cores", "memory_mib", "kernel", "qemu", "version", "commit")


def csv_text(result: BenchResult) -> str:
    """One row a figure; `values` are separated by spaces."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(
        ["bench", "cell", "metric", "unit", "better", "repeats", "median", "lowest", "q1", "q3", "highest"]
        + ["values", "began", "seed", *_CIRCUMSTANCES]
    )
    for figure in result.figures:
        values = figure.to_map()
        rows.writerow(
            [result.bench, describe_cell(figure.cell), values["metric"], values["unit"], values["better"]]
            + [len(figure.values), values["median"], values["lowest"], values["q1"], values["q3"]]
            + [values["highest"], " ".join(map(str, values["values"])), result.began, result.seed]
            + [result.machine.get(key, "") for key in _CIRCUMSTANCES]
        )
    return text.getvalue()


def json_text(result: BenchResult) -> str:
    return json.dumps(result.to_map(), indent=1) + "\n"


def write_text(path: Path, text: str) -> None:
    """Makes the folder if need be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    except OSError as error:
        raise FileAccessError(
            f"{path} cannot be written: {error.strerror}", hint="name a file in a folder of yours"
        ) from error


def read_result(path: Path) -> BenchResult:
    """The result in a JSON file; ConfigError when it is none."""
    try:
        values = json.loads(path.read_text())
    except OSError as error:
        raise FileAccessError(
            f"{path} cannot be read: {error.strerror}", hint="name the JSON file"
        ) from error
    except ValueError as error:
        raise ConfigError(
            f"{path} is not JSON: {error}", hint="name a file that `replicator bench ... --json FILE` wrote"
        ) from error
    return result_from_map(values, str(path))
