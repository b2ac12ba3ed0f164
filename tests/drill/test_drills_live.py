"""Both drills around a real VM under load: the copy answers and cannot be heard, the kill is survived, and all that
daemons and client have said of it is sound."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "live"))

from pair_lab import Pair, open_pair

from replicator.demo.lab import HOST_A, HOST_B
from replicator.demo.stage import GUEST_IP

pytestmark = pytest.mark.live

PROGRAM = (sys.executable, "-m", "replicator.cli.main", "drill")
TIMEOUT_S = 60.0


def run_drill(pair: Pair, host: str, *options: str) -> str:
    child = pair.lab.run(host, [*PROGRAM, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    out, _ = child.communicate(timeout=TIMEOUT_S)
    assert child.returncode == 0, out.decode()
    return out.decode()


def load(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_a_copy_answers_unheard_and_a_real_kill_is_survived() -> None:
    with open_pair() as pair:
        pair.protect()
        pair.start_client()
        scratch = pair.stage.scratch
        report = scratch / "report"
        run_drill(pair, HOST_B, "--on-copy", f"{scratch}/b.toml", "--report", str(report))
        check_copy(load(report / "on-copy.json"))
        pair.wait_increments()
        assert pair.turns == "a", "the copy was heard"
        run_drill(pair, HOST_A, "--for-real", f"{scratch}/a.toml", "--yes", "--report", str(report))
        killed = load(report / "for-real.json")
        assert killed["new_holder"] == "b" and killed["heard_ms"] >= 0, killed
        pair.daemons.pop("a").wait(TIMEOUT_S)
        pair.wait_state("b", "active-alone")
        pair.wait_increments()
        pair.heal("a")
        pair.wait_increments()
        pair.judge("ab")
        journals = [f"{scratch}/{name}" for name in ("a.events", "b.events", "client.log")]
        assert "nothing is broken" in run_drill(pair, HOST_A, "check", *journals)


def check_copy(found: dict[str, Any]) -> None:
    assert found["problems"] == []
    hows = {heard["how"] for heard in found["boot"]["answers"]}
    assert {"arp", "ping"} <= hows and any(how.startswith("tcp ") for how in hows), hows
    assert {heard["address"] for heard in found["boot"]["answers"]} == {GUEST_IP}
    assert found["copied"]["bytes_copied"] >= found["copied"]["ram_bytes"]
    assert all(pace["epochs"] and pace["pause_ms"]["p50"] > 0 for pace in found["pace"].values())
