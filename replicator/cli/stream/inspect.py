"""`replicator stream inspect`: the records of a stream as a tree."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Any

import click
from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from replicator.cli.stream.options import progress_of, reading_options, spool_option
from replicator.cli.stream.verify import judge
from replicator.stream.examine import examine_source
from replicator.stream.inspect import Outline, Round, Row
from replicator.stream.report import describe_stream, describe_verdict, report_as_json
from replicator.stream.source import Source
from replicator.wire.any_decoder import ReadOptions
from replicator.wire.layout import PageType
from replicator.wire.verify import VerifyReport

#: Rounds that the tree shows at each end; the others are counted. JSON has them all.
ROUNDS_SHOWN = 3
#: Longer lines than a terminal has: it wraps them, and a pipe gets them whole.
LINE_CHARS_MAX = 400


@click.command()
@click.argument("stream", metavar="IN")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("--records", is_flag=True, help="Each record in a line of its own, of each round.")
@spool_option
@reading_options
def inspect(stream: str, as_json: bool, records: bool, spool: str | None, reading: ReadOptions) -> None:
    """Show what a stream consists of: headers, rounds and records with offsets and sizes, pages by type.

    Exit codes as of `verify --tolerant --up-to-last-checkpoint`; what could be read is shown all the same.
    """
    outline = Outline(every_record=records)
    with Source(stream) as source, progress_of(source) as advance:
        report = examine_source(
            source, reading, strict=False, watch=outline.note, spool=spool, advance=advance
        )
    outline.finish(is_complete=report.is_complete)
    if as_json:
        click.echo(json.dumps(outline_as_json(source.name, report, outline)))
    else:
        console = Console(highlight=False, width=LINE_CHARS_MAX)
        console.print(draw_tree(source.name, report, outline, every=records), soft_wrap=True)
    sys.exit(judge(report, up_to_last_checkpoint=True))


def outline_as_json(name: str, report: VerifyReport, outline: Outline) -> dict[str, Any]:
    """The report with its rounds."""
    rounds = [
        {
            "number": each.number,
            "offset": each.offset,
            "end": each.end,
            "is_whole": each.is_whole,
            "records": [_row_as_json(row) for row in each.rows],
            "records_omitted": each.rows_omitted,
        }
        for each in outline.rounds()
    ]
    return {
        "stream": name,
        **report_as_json(report),
        "rounds": rounds,
        "rounds_omitted": outline.rounds_omitted,
    }


def _row_as_json(row: Row) -> dict[str, Any]:
    found: dict[str, Any] = {"name": row.name, "offset": row.offset, "count": row.count, "bytes": row.size}
    if row.detail:
        found["detail"] = row.detail
    if row.page_types:
        found["page_types"] = {kind.name: count for kind, count in row.page_types.items()}
    return found


def draw_tree(name: str, report: VerifyReport, outline: Outline, *, every: bool) -> Tree:
    """The tree for a terminal."""
    tree = Tree(Text(f"{name}: {describe_stream(report)}", "bold"))
    rounds = list(outline.rounds())
    shown = rounds if every or len(rounds) <= 2 * ROUNDS_SHOWN else rounds[:ROUNDS_SHOWN]
    for each in shown:
        _draw_round(tree, each)
    if len(shown) < len(rounds):
        hidden = outline.round_count - 2 * ROUNDS_SHOWN
        tree.add(Text(f"... {hidden} rounds (all of them: --json or --records)", "dim"))
        for each in rounds[-ROUNDS_SHOWN:]:
            _draw_round(tree, each)
    if report.page_entries:
        tree.add(f"page entries {report.page_entries}: {_say_types(report.page_types.items())}")
    for line in describe_verdict(report):
        if line != describe_stream(report):
            tree.add(Text(line))
    return tree


def _draw_round(tree: Tree, each: Round) -> None:
    state = "" if each.is_whole else ", not whole"
    node = tree.add(
        Text(f"round {each.number} at {each.offset}, {each.end - each.offset} bytes{state}", "cyan")
    )
    for row in each.rows:
        node.add(Text(_say_row(row)))
    if each.rows_omitted:
        node.add(Text(f"... {each.rows_omitted} more records", "dim"))


def _say_row(row: Row) -> str:
    times = f" x {row.count}" if row.count > 1 else ""
    detail = row.detail if row.count == 1 else ""
    if row.page_types:
        detail = f"{sum(row.page_types.values())} entries: {_say_types(row.page_types.items())}"
    return f"{row.offset:>12}  {row.name}{times}, {row.size} bytes" + (f"; {detail}" if detail else "")


def _say_types(types: Iterable[tuple[PageType, int]]) -> str:
    return ", ".join(f"{kind.name} {count}" for kind, count in sorted(types))
