"""`replicator stream diff`: what differs between two guests, or one guest at two checkpoints."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import click

from replicator.cli.stream.guest import read_guest
from replicator.cli.stream.options import reading_options, spool_option
from replicator.stream.diff import DiffReport, PfnRanges, diff_guests
from replicator.stream.image import Digests, GuestImage
from replicator.stream.source import STDIN
from replicator.wire.any_decoder import ReadOptions

DIFFERENT_EXIT_CODE = 12
#: Runs of pfns that a line names.
RUNS_SHOWN = 8

_CHECKPOINT = click.IntRange(min=1)


@click.command()
@click.argument("first", metavar="IN")
@click.argument("second", metavar="[IN2]", required=False)
@click.option("--checkpoint", type=_CHECKPOINT, help="Of IN. Default: the last whole one, or the end.")
@click.option("--checkpoint2", type=_CHECKPOINT, help="Of IN2, or the other one of IN.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, with all runs of pfns.")
@spool_option
@reading_options
def diff(
    first: str,
    second: str | None,
    checkpoint: int | None,
    checkpoint2: int | None,
    as_json: bool,
    spool: str | None,
    reading: ReadOptions,
) -> None:
    """Compare the guests of two streams, or of IN at two checkpoints.

    Exit code 0: they are the same; 12: they differ.
    """
    if second is None and checkpoint is None:
        raise click.UsageError("nothing to compare with: give IN2, or --checkpoint for one inside IN")
    if STDIN in (first, second) and second in (None, first):
        raise click.UsageError("standard input can be read only once: give a file")
    images = GuestImage(Digests(), spool), GuestImage(Digests(), spool)
    one = read_guest(first, images[0], checkpoint, spool, reading)
    other = read_guest(second or first, images[1], checkpoint2, spool, reading)
    report = diff_guests((one.state, images[0]), (other.state, images[1]))
    if as_json:
        click.echo(json.dumps(_as_json(report)))
    else:
        for line in _describe(report):
            click.echo(line)
    sys.exit(DIFFERENT_EXIT_CODE if report.differs else 0)


def _parts(report: DiffReport) -> dict[str, PfnRanges]:
    return {
        "content differs": report.content,
        "only the type differs": report.types,
        "only in the first": report.only_first,
        "only in the second": report.only_second,
    }


def _as_json(report: DiffReport) -> dict[str, Any]:
    parts = {
        name.replace(" ", "_"): {"pages": ranges.count, "runs": ranges.runs}
        for name, ranges in _parts(report).items()
    }
    return {"differs": report.differs, "same_pages": report.same_pages, **parts, "records": report.records}


def _describe(report: DiffReport) -> Iterator[str]:
    for name, ranges in _parts(report).items():
        if ranges.count:
            shown = ", ".join(_say_run(*run) for run in ranges.runs[:RUNS_SHOWN])
            more = len(ranges.runs) - RUNS_SHOWN
            yield f"{ranges.count} pages: {name}: {shown}" + (f" and {more} more runs" if more > 0 else "")
    yield from report.records
    yield f"{report.same_pages} pages are the same"


def _say_run(first: int, last: int) -> str:
    return f"{first:#x}" if first == last else f"{first:#x}-{last:#x}"
