"""What the kernel says of processes: processor time, memory, bytes on their network; and processes that only compute."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from replicator.demo.stage import children_of
from replicator.units import NS_PER_S

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_ns(pids: Iterable[int]) -> int:
    """Processor time in user and kernel mode of these processes, without their children's."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks * NS_PER_S // _TICKS_PER_S


def anonymous_bytes(pids: Iterable[int]) -> int:
    """Memory of their own: neither files nor what is shared."""
    return sum(_status_kib(pid, "RssAnon:") << 10 for pid in pids)


def _status_kib(pid: int, key: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1])
    return 0


def allocated_bytes(folder: Path) -> int:
    """Of all files below; files that come and go meanwhile may be missed."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_blocks * 512 if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def interface_bytes(pid: int, interface: str) -> int:
    """Bytes that went out and came in by an interface of the namespace that the process is in."""
    for line in Path(f"/proc/{pid}/net/dev").read_text().splitlines():
        name, _, fields = line.partition(":")
        if name.strip() == interface:
            counts = fields.split()
            return int(counts[0]) + int(counts[8])
    raise ValueError(f"process {pid} sees no interface {interface}")


def free_memory_bytes() -> int:
    """What the kernel would give away without swapping."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return 0


def guests_of(pid: int) -> list[int]:
    """What a daemon started: its guest's process, or its standby's."""
    return children_of(pid)


@contextlib.contextmanager
def busy_cores() -> Iterator[None]:
    """One computing process a core."""
    argv = [sys.executable, "-c", "while True: pass"]
    burners = [subprocess.Popen(argv, stdin=subprocess.DEVNULL) for _ in os.sched_getaffinity(0)]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()
