"""Whether a guest has anything to do, from what the kernel tells of its vCPUs' threads.

A vCPU that is halted sleeps in the kernel, whatever runs it. One that was asleep twice, and was not put on a processor in
between, has done nothing in between. Two small files a thread are read for that, some microseconds together.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import NamedTuple

_READ_BYTES = 512


class _Thread(NamedTuple):
    #: Of /proc/PID/task/TID/stat, for the state, and schedstat, for how often it was put on a processor.
    stat_fd: int
    schedstat_fd: int


class ThreadActivity:
    """Of some threads of a process that need not be ours. Where the kernel does not tell, nothing is known of them."""

    def __init__(self, pid: int, threads: Sequence[int]) -> None:
        self._files = contextlib.ExitStack()
        self._threads: list[_Thread] = []
        with contextlib.suppress(OSError), contextlib.ExitStack() as opened:
            found = [
                _Thread(*(self._open(opened, pid, thread, name) for name in ("stat", "schedstat")))
                for thread in threads
            ]
            self._files = opened.pop_all()
            self._threads = found

    @staticmethod
    def _open(opened: contextlib.ExitStack, pid: int, thread: int, name: str) -> int:
        fd = os.open(f"/proc/{pid}/task/{thread}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        opened.callback(os.close, fd)
        return fd

    def read(self) -> int | None:
        """How often all of them were put on a processor. None while one is on one, or waits for one, and when nothing is
        known."""
        try:
            counts = [self._read_thread(thread) for thread in self._threads]
        except (OSError, ValueError, IndexError):
            return None
        return sum(counts) if counts else None

    def _read_thread(self, thread: _Thread) -> int:
        """ValueError while it runs."""
        count = int(os.pread(thread.schedstat_fd, _READ_BYTES, 0).split()[2])
        # The name before the state may have anything in it. The state comes last: who is put on a processor between the
        # two is seen running, or has another count the next time.
        state = os.pread(thread.stat_fd, _READ_BYTES, 0).rpartition(b")")[2].split()[0]
        if state == b"R":
            raise ValueError("it runs")
        return count

    def close(self) -> None:
        """May be repeated."""
        self._threads = []
        self._files.close()
