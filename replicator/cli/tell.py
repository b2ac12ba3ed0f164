"""What a daemon tells the terminal it was started from: its state, and how far a synchronisation is.

On a terminal the copy has a bar with rate and time left; elsewhere (a log) it is a plain line for each tenth.
"""

from __future__ import annotations

import re
from typing import Final

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from replicator.observe.status import Status
from replicator.units import PAGE_SIZE

_TENTHS: Final = 10


class Teller:
    """`tell` is called with each new status, many more than are worth a line."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last = ""
        self._bar: Progress | None = None
        self._tenth = 0

    def tell(self, status: Status) -> None:
        word = _coarse(status)
        if word != self._last:
            self.close()
            reason = f" ({status.reason})" if status.reason and status.reason not in status.state else ""
            line = f"{status.node}: {status.role}: {status.state}{reason}"
            self._console.print(line, soft_wrap=True, highlight=False, markup=False)
            self._last, self._tenth = word, 0
        if status.is_syncing:
            self._show_progress(status)

    def close(self) -> None:
        """Take the bar away, if there is one."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _show_progress(self, status: Status) -> None:
        if not self._console.is_terminal:
            tenth = status.sync.percent // _TENTHS
            if tenth > self._tenth:
                self._tenth = tenth
                line = f"{status.node}: copied {status.sync.describe()}"
                self._console.print(line, highlight=False, markup=False)
            return
        if self._bar is None:
            self._bar = _make_bar(self._console)
            self._bar.add_task(f"{status.node}: first copy", total=None)
            self._bar.start()
        done, total = status.sync.pages_done * PAGE_SIZE, status.sync.pages_total * PAGE_SIZE
        self._bar.update(self._bar.task_ids[0], completed=done, total=total or None)


def _make_bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


def _coarse(status: Status) -> str:
    """The state without its numbers, so that a line is printed when something changed and not each epoch."""
    return status.role + re.sub(r"\d+", "", status.state) + re.sub(r"\d+", "", status.reason)
