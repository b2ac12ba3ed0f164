"""What a drill on a copy has found: the copy's answer, and the pair's pace before, during and after. Pure but for
`write_report`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from rich.console import Group
from rich.table import Table

from replicator.drill.on_copy.boot import Boot
from replicator.drill.report.json_file import write_json
from replicator.observe.status import Percentiles, percentiles
from replicator.units import NS_PER_MS, NS_PER_S

FILE: Final = "on-copy.json"
#: Of what the daemon remembers from before the copy.
BEFORE_NS: Final = 10 * NS_PER_S
#: What a drill may not change.
KEPT: Final = ("role", "term", "session")


@dataclass(frozen=True, slots=True)
class Pace:
    """Of one stretch of time, as the secondary saw it. Milliseconds."""

    seconds: float
    epochs: int
    #: From one commit to the next.
    interval_ms: Percentiles
    #: From the end of an epoch's arrival to its commit.
    commit_ms: Percentiles
    #: Age of the primary's oldest held output, and its guest's pauses, as its heartbeats told them.
    lag_ms: Percentiles
    pause_ms: Percentiles


@dataclass(frozen=True, slots=True)
class OnCopyReport:
    node: str
    guest: str
    #: The daemon's word: service/copying.py, CopyResult.
    copied: Mapping[str, Any]
    boot: Boot
    #: before, during, after.
    pace: Mapping[str, Pace]
    problems: tuple[str, ...]


def split_pace(pace: Mapping[str, Any], began_ns: int, gone_ns: int) -> dict[str, Pace]:
    """From the daemon's answer; the copy was begun and gone at these moments."""
    return {
        "before": _pace_between(pace, began_ns - BEFORE_NS, began_ns),
        "during": _pace_between(pace, began_ns, gone_ns),
        "after": _pace_between(pace, gone_ns, pace["now_ns"]),
    }


def _pace_between(pace: Mapping[str, Any], from_ns: int, to_ns: int) -> Pace:
    commits = [commit for commit in pace["commits"] if from_ns <= commit[0] < to_ns]
    beats = [beat for beat in pace["beats"] if from_ns <= beat[0] < to_ns]
    lags = [held_ns / NS_PER_MS for _, held_ns, _ in beats]
    pauses = [pause_ns / NS_PER_MS for _, _, pause_ns in beats if pause_ns]
    intervals = [(later[0] - earlier[0]) / NS_PER_MS for earlier, later in pairwise(commits)]
    took = [took_ns / NS_PER_MS for _, _, took_ns in commits]
    known_from_ns = max(from_ns, commits[0][0]) if commits else from_ns
    return Pace(
        (to_ns - known_from_ns) / NS_PER_S,
        len(commits),
        percentiles(intervals),
        percentiles(took),
        percentiles(lags),
        percentiles(pauses),
    )


def find_problems(
    before: Mapping[str, Any], after: Mapping[str, Any], pace: Mapping[str, Pace]
) -> tuple[str, ...]:
    """In which respect the pair is not what it was."""
    problems = [
        f"the pair changed: {name} was {before[name]}, is {after[name]}"
        for name in KEPT
        if before[name] != after[name]
    ]
    problems += [f"no epoch was committed {when} the drill" for when in pace if not pace[when].epochs]
    return tuple(problems)


def to_map(report: OnCopyReport) -> dict[str, Any]:
    """As JSON wants it."""
    return asdict(report)


def write_report(report: OnCopyReport, folder: Path) -> Path:
    return write_json(folder, FILE, to_map(report))


def render(report: OnCopyReport) -> Group:
    copied, boot = report.copied, report.boot
    title = f"{report.guest} at {report.node}: a copy of epoch {copied['epoch']} (term {copied['term']})"
    table = Table(title=title, show_header=False)
    answers = ", ".join(f"{heard.how} ({heard.address})" for heard in boot.answers)
    rows = (
        (
            "copied",
            f"{copied['bytes_copied'] / (1 << 20):.1f} MiB of a guest of {copied['ram_bytes'] >> 20} MiB",
        ),
        ("rounds", str(copied["rounds"])),
        ("copying took", _ms((copied["ended_ns"] - copied["began_ns"]) / NS_PER_MS)),
        ("the secondary stood still for", _ms(copied["held_up_ns"] / NS_PER_MS)),
        ("process started to guest running", _ms(boot.boot_to_run_ms)),
        ("process started to first answer", _ms(boot.boot_to_answer_ms)),
        ("guest running to first answer", _ms(boot.run_to_answer_ms)),
        ("answers", answers),
        ("the pair", "; ".join(report.problems) or "role, term and session are unchanged, epochs went on"),
    )
    for row in rows:
        table.add_row(*row)
    return Group(table, _pace_table(report.pace))


def _pace_table(paces: Mapping[str, Pace]) -> Table:
    table = Table(title="the pair, as its secondary saw it (ms: p50 / p99 / max)")
    for name in ("", "epochs", "seconds", "between commits", "commit", "lag", "pause"):
        table.add_column(name)
    for when, pace in paces.items():
        figures: Sequence[Percentiles] = (pace.interval_ms, pace.commit_ms, pace.lag_ms, pace.pause_ms)
        table.add_row(when, str(pace.epochs), f"{pace.seconds:.1f}", *map(_show, figures))
    return table


def _show(figures: Percentiles) -> str:
    return f"{figures.p50:.1f} / {figures.p99:.1f} / {figures.max:.1f}"


def _ms(value: float) -> str:
    return f"{value:.1f} ms"
