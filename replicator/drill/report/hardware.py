"""What a drill ran on, for its report."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import replicator

_TIMEOUT_S = 10


def describe_machine() -> dict[str, str | int]:
    """Processor, cores, memory and kernel."""
    return {
        "cpu": _first_value(Path("/proc/cpuinfo"), "model name"),
        "cores": len(os.sched_getaffinity(0)),
        "memory_mib": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20,
        "kernel": platform.release(),
    }


def describe_version() -> dict[str, str]:
    """Of this program; the commit only where it runs from a repository of its own."""
    try:
        number = version("replicator")
    except PackageNotFoundError:
        number = "unknown"
    return {"version": number, "commit": _find_commit(Path(replicator.__file__).parents[1])}


def _find_commit(root: Path) -> str:
    if not (root / ".git").exists():
        return ""
    argv = ["git", "-C", str(root), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _first_value(path: Path, key: str) -> str:
    for line in path.read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return platform.machine()
