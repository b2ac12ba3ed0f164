"""`replicator demo` as it is run by hand: the control finds a leak, and an interrupted one leaves nothing behind.

That every promise is kept with the hold on is `make demo`'s to show.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from pair_lab import has_ended

from replicator.cli.demo import BROKEN_AS_WANTED
from replicator.demo.stage import children_of

pytestmark = pytest.mark.live

DEMO = (sys.executable, "-m", "replicator.cli.main", "demo")
TIMEOUT_S = 110.0


def start_demo(*options: str) -> subprocess.Popen[str]:
    return subprocess.Popen([*DEMO, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_without_the_hold_the_verdict_is_broken() -> None:
    demo = start_demo("--control")
    said, _ = demo.communicate(timeout=TIMEOUT_S)
    assert demo.returncode == 0, said
    assert "verdict: BROKEN" in said and BROKEN_AS_WANTED in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demonstration_leaves_nothing_behind(number: signal.Signals) -> None:
    demo = start_demo()
    assert demo.stdout is not None
    for line in demo.stdout:
        if line.startswith("protected"):
            break
    namespaces = namespaces_of(demo.pid)
    scratch = scratches_of(demo.pid)
    started = [os.pidfd_open(pid) for pid in descendants(demo.pid)]
    assert len(namespaces) == 4 and scratch and len(started) >= 5
    demo.send_signal(number)
    demo.communicate(timeout=TIMEOUT_S)
    assert demo.returncode not in (0, None)
    assert namespaces_of(demo.pid) == [] and scratches_of(demo.pid) == []
    assert all(has_ended(pidfd) for pidfd in started)
    for pidfd in started:
        os.close(pidfd)


def namespaces_of(pid: int) -> list[str]:
    return [path.name for path in Path("/run/netns").iterdir() if f"-{pid}-" in path.name]


def scratches_of(pid: int) -> list[Path]:
    return list(Path("/dev/shm").glob(f"replicator-{pid}-*"))


def descendants(pid: int) -> Sequence[int]:
    found: list[int] = []
    for child in children_of(pid):
        found += [child, *descendants(child)]
    return found
