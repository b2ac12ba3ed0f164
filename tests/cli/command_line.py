"""`replicator` as an operator runs it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TIMEOUT_S = 30.0
PROGRAM = (sys.executable, "-m", "replicator.cli.main")


@dataclass(frozen=True, slots=True)
class Outcome:
    code: int
    out: str
    err: str


def replicator(*arguments: str | Path) -> Outcome:
    """One command to its end."""
    argv = [*PROGRAM, *map(str, arguments)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    return Outcome(done.returncode, done.stdout, done.stderr)


def status_of(config: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(replicator("status", "--json", config).out)
    return found


def wait_for_status(config: Path, done: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The first status that is as wanted."""
    deadline = time.monotonic() + TIMEOUT_S
    while not done(found := status_of(config)):
        assert time.monotonic() < deadline, found
    return found
