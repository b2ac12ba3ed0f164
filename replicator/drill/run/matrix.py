"""A run of the matrix: one lab, one pair as long as it stays sound, cell after cell."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from replicator.demo.lab import Lab
from replicator.drill.history.verdict import JournalVerdict, check_journals
from replicator.drill.matrix.cells import Cell, order_cells
from replicator.drill.report.hardware import describe_machine, describe_version
from replicator.drill.report.result import CellResult, DrillResult
from replicator.drill.run.cell import CellRun
from replicator.drill.stand import rooms
from replicator.drill.stand.ear import describe
from replicator.drill.stand.guests import DrillGuest
from replicator.drill.stand.stand import Stand
from replicator.service.config import Mode

#: Said all the time, and of no use in a story.
_NOISE = frozenset({"progress", "report", "here"})
_STORY_EVENTS_MAX = 200


def run_cells(
    guest: DrillGuest,
    cells: Sequence[Cell],
    *,
    seed: int,
    mode: Mode = Mode.REMUS,
    quick: bool = False,
    leaky: bool = False,
    begin: Callable[[Cell], None] = lambda _: None,
    done: Callable[[CellResult], None] = lambda _: None,
) -> DrillResult:
    """Run those cells that have no reason not to be; `begin` and `done` hear of each. Needs root."""
    began, started_s = datetime.now(UTC), time.monotonic()
    results: dict[Cell, CellResult] = {cell: CellResult(cell) for cell in cells}
    journals: list[JournalVerdict] = []

    def check(paths: Sequence[Path]) -> None:
        journals.append(check_journals(paths))

    rooms.remove_leftovers()
    with Lab() as lab, Stand(lab, guest, mode=mode, leaky=leaky, at_end=check) as stand:
        for cell in order_cells(cells, seed):
            begin(cell)
            results[cell] = run_cell(stand, cell, random.Random(f"{seed} {cell.name}"))
            done(results[cell])
    return DrillResult(
        guest.kind,
        mode.value,
        seed,
        quick,
        {**describe_machine(), "accelerator": guest.accelerator},
        describe_version(),
        began.isoformat(timespec="seconds"),
        time.monotonic() - started_s,
        tuple(results.values()),
        tuple(journals),
    )


def run_cell(stand: Stand, cell: Cell, rng: random.Random) -> CellResult:
    """One cell; afterwards the stand has a protected pair, or none."""
    started_s = time.monotonic()
    run = CellRun(stand, cell, rng)
    verdict = run.run()
    story: tuple[str, ...] = ()
    if not run.is_sound:
        heard = [describe(event, run.fault_ns) for event in run.events if event.name not in _NOISE]
        story = (*heard[-_STORY_EVENTS_MAX:], *stand.last_words().splitlines())
        stand.clear()
    return CellResult(cell, verdict, run.seen.noticed, time.monotonic() - started_s, story)
