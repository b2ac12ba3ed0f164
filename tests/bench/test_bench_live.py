"""Each benchmark on real parts, one small cell each: it measures, and what it says is sensible."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from replicator.bench.figures.metrics import METRICS
from replicator.demo.lab import namespace_names

pytestmark = [pytest.mark.live, pytest.mark.timeout(240)]

COMMAND = (sys.executable, "-m", "replicator.cli.main", "bench")


def bench(folder: Path, *arguments: str) -> dict[str, dict[str, float]]:
    """Cell -> metric -> median."""
    path = folder / "result.json"
    done = subprocess.run(
        [*COMMAND, *arguments, "--quick", "--json", str(path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result: dict[str, Any] = json.loads(path.read_text())
    assert result["machine"]["qemu"].startswith("QEMU")
    assert result["failures"] == []
    found: dict[str, dict[str, float]] = {}
    for figure in result["figures"]:
        assert figure["metric"] in METRICS
        found.setdefault(", ".join(figure["cell"].values()), {})[figure["metric"]] = figure["median"]
    return found


def test_interval(tmp_path):
    cells = bench(tmp_path, "interval", "--intervals", "50", "--workloads", "request,write,build")
    assert len(cells) == 6
    # A request waits for the end of its epoch; without protection it does not.
    assert cells["50 ms, request, protected"]["latency p50"] > 10
    for name in ("request", "write", "build"):
        protected = cells[f"50 ms, {name}, protected"]
        assert 0 < protected["pause p50"] <= protected["pause max"]
        assert protected["epochs"] > 2
        assert protected["wire bytes"] > 0
        assert protected["memory of secondary's daemon"] > 1
        assert "epochs" not in cells[f"50 ms, {name}, unprotected"]
        assert cells[f"50 ms, {name}, unprotected"]["rate"] > 0
    # What scatters words over 16 MiB dirties more than what waits for replies.
    assert (
        cells["50 ms, write, protected"]["dirty bytes"]
        > 2 * cells["50 ms, request, protected"]["dirty bytes"]
    )


def test_pause(tmp_path):
    cells = bench(tmp_path, "pause", "--workloads", "idle")
    ours = cells["idle, replicator"]
    theirs = cells["idle, QEMU, one after the other"]
    assert ours["pause p50 of QEMU's own"] == pytest.approx(ours["pause p50"] / theirs["pause p50"], rel=0.01)
    assert cells["idle, QEMU, all at once"]["pause p50"] > 0


def test_sync(tmp_path):
    cells = bench(tmp_path, "sync")
    assert len(cells) == 6
    ram_mb = 256 * 1.048576
    for name, cell in cells.items():
        assert cell["guest RAM a second"] == pytest.approx(ram_mb / cell["duration"], rel=0.01)
        # QEMU and we may both leave pages of zeros out; a plain socket may not.
        assert "memcpy" in name or cell["wire bytes in all"] > 10
    assert cells["idle, plain socket"]["wire bytes in all"] >= ram_mb


def test_failover(tmp_path):
    (cell,) = bench(tmp_path, "failover", "--beats", "default", "--kills", "1", "--watch", "0").values()
    assert 0 < cell["death to granted"] < cell["death to running"]
    assert cell["death to running"] < min(cell["death to first answer"], cell["death to first echo"])
    assert cell["client gap"] > 0


def test_scale(tmp_path):
    sizes = ("--sizes", "32,64", "--dirty-sizes", "32", "--guests", "2")
    cells = bench(tmp_path, "scale", "--parts", "ram,dirty,guests", *sizes)
    assert cells["dirty, 32 MiB"]["pages in the epoch"] > 0.9 * 32 * 256 / 2
    assert cells["guests, 2 of 64 MiB"]["epochs"] > 0
    assert "pause a GiB" in cells["ram, all sizes"]


def test_an_interrupted_benchmark_leaves_nothing_behind():
    child = subprocess.Popen(
        [*COMMAND, "interval", "--quick", "--workloads", "idle"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert child.stderr is not None
    # It has booted a guest by then.
    assert b"idle, unprotected" in child.stderr.readline()
    mine = [name for name in namespace_names() if name.startswith(f"replicator-{child.pid}-")]
    assert mine
    os.kill(child.pid, signal.SIGINT)
    assert child.wait() == 130
    child.communicate()
    assert not set(mine) & set(namespace_names())
    assert not list(Path("/dev/shm").glob(f"replicator-{child.pid}-*"))
