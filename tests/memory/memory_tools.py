"""A guest for trackers: a child process that writes its RAM file where it is told to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from replicator.units import PAGE_SIZE

WRITER = Path(__file__).with_name("tracked_writer.py")
TIMEOUT_S = 20.0


class Writer:
    """The child, its RAM mapped. `mode` is how it spends its time between orders, see tracked_writer.py."""

    def __init__(self, ram_fd: int, mode: str, environment: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(WRITER), str(ram_fd), mode],
            pass_fds=[ram_fd],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    @property
    def pid(self) -> int:
        return self.process.pid

    def tell(self, order: str) -> str:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(order + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def write_pages(self, file_pages: list[int]) -> None:
        """Returns when all of them are written."""
        assert self.tell("write " + " ".join(map(str, file_pages))) == "done"

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


def page_of(number: int) -> bytes:
    """A page that differs from all others of other numbers."""
    return number.to_bytes(8, "little") * (PAGE_SIZE // 8)
