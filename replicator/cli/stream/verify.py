"""`replicator stream verify`: is this stream valid, and if not, what is wrong where."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from replicator.cli.stream.options import progress_of, reading_options, spool_option
from replicator.errors import RemoteWireError, TruncatedStream
from replicator.stream.examine import examine_source
from replicator.stream.report import describe_verdict, report_as_json
from replicator.stream.source import Source
from replicator.wire.any_decoder import ReadOptions
from replicator.wire.verify import VerifyReport


@click.command()
@click.argument("stream", metavar="IN")
@click.option(
    "--strict/--tolerant",
    default=True,
    show_default=True,
    help="Judge as a verifier, or as a receiver, which forgives reserved fields that are not zero and the like.",
)
@click.option(
    "--up-to-last-checkpoint",
    is_flag=True,
    help="Good when it breaks off behind a whole checkpoint, as every Remus stream does.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@spool_option
@reading_options
def verify(
    stream: str,
    strict: bool,
    up_to_last_checkpoint: bool,
    as_json: bool,
    spool: str | None,
    reading: ReadOptions,
) -> None:
    """Check a stream and name every problem with its offset, its record and what was expected.

    Exit code 0: valid; 3: not valid; 11: valid as far as it goes, but it breaks off.
    """
    with Source(stream) as source, progress_of(source) as advance:
        report = examine_source(source, reading, strict=strict, spool=spool, advance=advance)
    exit_code = judge(report, up_to_last_checkpoint=up_to_last_checkpoint)
    if as_json:
        found: dict[str, Any] = report_as_json(report)
        click.echo(json.dumps({"stream": source.name, "exit_code": exit_code, **found}))
    else:
        for line in describe_verdict(report):
            click.echo(line)
    sys.exit(exit_code)


def judge(report: VerifyReport, *, up_to_last_checkpoint: bool) -> int:
    """The exit code."""
    if report.problem_count:
        return RemoteWireError.exit_code
    if report.is_complete or (up_to_last_checkpoint and report.checkpoints):
        return 0
    return TruncatedStream.exit_code
