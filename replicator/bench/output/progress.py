"""How far a benchmark is: a bar on a terminal, elsewhere a plain line for each step. Both on stderr."""

from __future__ import annotations

import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

_DESCRIPTION_CHARS = 60


class Steps:
    """Context manager. `total` steps are announced one by one, when each begins."""

    def __init__(self, title: str, total: int, console: Console | None = None) -> None:
        self._title, self._total = title, total
        self._console = Console(stderr=True) if console is None else console
        self._begun = 0
        self._began = time.monotonic()
        self._bar: Progress | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            columns = (
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.description}"),
            )
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._bar.add_task(self._title, total=self._total)
            self._bar.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def begin(self, what: str) -> None:
        """The next step begins, and the one before is done."""
        self._begun += 1
        if self._bar is not None:
            self._bar.update(
                self._bar.task_ids[0], completed=self._begun - 1, description=what[:_DESCRIPTION_CHARS]
            )
            return
        passed = time.monotonic() - self._began
        line = f"{self._title}: {self._begun} of {self._total} after {passed:.0f} s: {what}"
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def say(self, line: str) -> None:
        """Something else that is worth a line."""
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)
