"""`replicator drill --on-copy` beside a running pair: the copy runs, the pair goes on, and nothing is left."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "service"))
sys.path.insert(0, str(Path(__file__).parents[1] / "cli"))

from command_line import PROGRAM, replicator
from pair import PATIENCE_S, Pair

from replicator.drill.on_copy.report import Pace, find_problems, split_pace
from replicator.observe.status import Percentiles

CONFIG, FENCE, LINK = 2, 8, 4


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path)
    yield made
    made.end()


def test_a_copy_runs_beside_the_pair(pair: Pair) -> None:
    _, secondary = pair.protect()
    before = secondary.status()
    done = replicator("drill", "--on-copy", pair.folder / "b.toml", "--report", pair.folder / "report")
    assert done.code == 0, done.err
    assert "role, term and session are unchanged" in done.out and "pages written" in done.out
    report = json.loads((pair.folder / "report" / "on-copy.json").read_text())
    assert report["problems"] == [] and report["copied"]["term"] == 1
    assert report["boot"]["boot_to_answer_ms"] > 0
    assert all(report["pace"][when]["epochs"] > 0 for when in ("before", "during", "after"))
    after = secondary.status()
    assert (after["role"], after["term"]) == (before["role"], before["term"])
    assert after["committed"] > before["committed"]
    assert not (pair.folder / "b" / "drill").exists()
    # What was copied is as good as the replica itself, which still takes over.
    pair.sides[1].kill()
    secondary.wait_for("b: primary: active-alone")


def test_refusals_say_what_to_do(pair: Pair) -> None:
    assert replicator("drill", "--on-copy", pair.folder / "b.toml").code == LINK
    pair.start("b", "secondary").wait_for("standby")
    early = replicator("drill", "--on-copy", pair.folder / "b.toml")
    assert early.code == FENCE and "no whole replica" in early.err and "protected" in early.err
    pair.start("a", "primary").wait_for("primary: protected")
    wrong = replicator("drill", "--on-copy", pair.folder / "a.toml")
    assert wrong.code == FENCE and "secondary's host" in wrong.err
    both = replicator("drill", "--on-copy", pair.folder / "b.toml", "--address", "nowhere")
    assert both.code == CONFIG and "nowhere is no IPv4 address" in both.err
    assert not (pair.folder / "a" / "drill").exists() and not (pair.folder / "b" / "drill").exists()


def start_drill(pair: Pair) -> subprocess.Popen[str]:
    """A drill whose copy is being booted."""
    argv = [*PROGRAM, "drill", "--on-copy", str(pair.folder / "b.toml")]
    drill = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert drill.stdout is not None
    while "booting it" not in (line := drill.stdout.readline()):
        assert line, "the drill ended before it booted anything"
    return drill


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_throws_the_copy_away(pair: Pair, number: signal.Signals) -> None:
    _, secondary = pair.protect()
    drill = start_drill(pair)
    drill.send_signal(number)
    assert drill.wait(PATIENCE_S) == 128 + number
    assert not (pair.folder / "b" / "drill").exists()
    assert secondary.status()["state"].startswith("standby at epoch")


def test_what_a_killed_drill_left_the_next_one_removes(pair: Pair) -> None:
    pair.protect()
    drill = start_drill(pair)
    # So that it is still there when the next one looks.
    drill.send_signal(signal.SIGSTOP)
    busy = replicator("drill", "--on-copy", pair.folder / "b.toml")
    assert busy.code == CONFIG and "another drill uses" in busy.err
    children = Path(f"/proc/{drill.pid}/task/{drill.pid}/children").read_text().split()
    drill.kill()
    drill.wait(PATIENCE_S)
    folder = pair.folder / "b" / "drill"
    assert folder.exists()
    (folder / "ram").write_bytes(b"left")
    deadline = time.monotonic() + PATIENCE_S
    while any(Path(f"/proc/{pid}/root").exists() for pid in children):
        assert time.monotonic() < deadline, "the copy outlived its drill"
    assert replicator("drill", "--on-copy", pair.folder / "b.toml").code == 0
    assert not folder.exists()


# The judgement, without a pair.


def pace_of(epochs: int) -> Pace:
    return Pace(1.0, epochs, *[Percentiles()] * 4)


def test_a_pair_that_changed_is_a_problem() -> None:
    before = {"role": "secondary", "term": 1, "session": "a"}
    calm = {"before": pace_of(3), "during": pace_of(2), "after": pace_of(3)}
    assert find_problems(before, dict(before), calm) == ()
    (changed,) = find_problems(before, {**before, "term": 2}, calm)
    assert "term was 1, is 2" in changed
    (stalled,) = find_problems(before, before, {**calm, "during": pace_of(0)})
    assert stalled == "no epoch was committed during the drill"


def test_the_pace_is_cut_where_the_copy_began_and_was_gone() -> None:
    ms = 1_000_000
    commits = [(moment * ms, number, ms // 2) for number, moment in enumerate((100, 150, 200, 290, 340, 390))]
    beats = [(120 * ms, 5 * ms, 2 * ms), (250 * ms, 40 * ms, 3 * ms), (350 * ms, 7 * ms, 0)]
    found = split_pace({"commits": commits, "beats": beats, "now_ns": 400 * ms}, 180 * ms, 330 * ms)
    assert [found[when].epochs for when in ("before", "during", "after")] == [2, 2, 2]
    assert found["before"].interval_ms.max == 50 and found["during"].interval_ms.max == 90
    assert found["during"].lag_ms.max == 40 and found["after"].lag_ms.max == 7
    assert found["during"].commit_ms.p50 == 0.5
    assert found["during"].pause_ms.max == 3 and found["after"].pause_ms.max == 0
