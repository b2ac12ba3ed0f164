"""`replicator drill --for-real`: kills what is protected, and nothing else."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "service"))
sys.path.insert(0, str(Path(__file__).parents[1] / "cli"))

from command_line import Outcome, replicator
from pair import Pair

from replicator.demo.stage import children_of
from replicator.drill.for_real import drill as for_real
from replicator.drill.for_real.ear import GuestEar
from replicator.errors import FenceError
from replicator.service.config import load_config

CONFIG, LINK, FENCE = 2, 4, 8


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path)
    yield made
    made.end()


def drill(pair: Pair, name: str, *options: str | Path) -> Outcome:
    return replicator("drill", "--for-real", pair.folder / f"{name}.toml", *options)


def test_the_host_dies_and_the_other_takes_over(pair: Pair) -> None:
    primary, secondary = pair.protect()
    (guest,) = children_of(primary.process.pid)
    done = drill(pair, "a", "--yes", "--report", pair.folder / "report")
    assert done.code == 0, done.err
    assert f"run here: replicator secondary {pair.folder / 'a.toml'}" in done.out
    assert primary.process.wait(30) == -signal.SIGKILL
    assert not Path(f"/proc/{guest}/root").exists()
    secondary.wait_for("b: primary: active-alone")
    report = json.loads((pair.folder / "report" / "for-real.json").read_text())
    assert (report["new_holder"], report["term"], report["new_term"]) == ("b", 1, 2)
    # The lease of 1000 ms, less what of it had passed at the kill.
    assert 500 < report["taken_over_ms"] < 20_000
    assert report["state"].startswith("protected") and report["heard_ms"] is None


def test_nothing_is_killed_without_a_yes(pair: Pair) -> None:
    primary, _ = pair.protect()
    asked = drill(pair, "a")
    assert asked.code == CONFIG and "--yes" in asked.err
    assert primary.status()["state"].startswith("protected")


def test_what_is_not_protected_is_spared(pair: Pair) -> None:
    assert drill(pair, "a", "--yes").code == LINK
    primary = pair.start("a", "primary")
    primary.wait_for("unprotected")
    alone = drill(pair, "a", "--yes")
    assert alone.code == FENCE and "it is unprotected: a kill would be the end of it" in alone.err
    secondary = pair.start("b", "secondary")
    primary.wait_for("a: primary: protected")
    there = drill(pair, "b", "--yes")
    assert there.code == FENCE and "the guest does not run here" in there.err
    assert primary.process.poll() is None and secondary.process.poll() is None


def test_without_an_arbiter_nobody_would_take_over(tmp_path: Path) -> None:
    pair = Pair(tmp_path, arbiter=False)
    try:
        primary, _ = pair.protect()
        refused = drill(pair, "a", "--yes")
        assert refused.code == CONFIG and "no side takes over by itself" in refused.err
        assert primary.process.poll() is None
    finally:
        pair.end()


def test_the_question_names_guest_and_hosts(pair: Pair) -> None:
    question = for_real.describe(load_config(pair.folder / "a.toml"))
    assert "guest synthetic" in question and "daemon a" in question and "127.0.0.1" in question


def test_a_guest_that_is_replaced_between_two_looks_is_spared(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The processes are held before the last look: if that is about others, nobody is killed."""
    config = load_config(pair.folder / "a.toml")
    answers = iter(
        [
            {"daemon": os.getpid(), "guest": 0},
            {"role": "primary", "state": "protected lag 1 ms", "term": 1, "committed": 9},
            {"daemon": os.getpid(), "guest": 1},
        ]
    )
    monkeypatch.setattr(for_real, "ask_daemon", lambda *_: next(answers))
    with pytest.raises(FenceError, match="replaced"):
        for_real.drill_for_real(config, say=lambda _: None)


def test_an_ear_without_a_guest_is_deaf_and_says_so() -> None:
    with GuestEar([]) as ear:
        assert ear.wait(0.01, since_ns=0) is None
    assert "no NIC" in ear.why_deaf


@pytest.mark.live
def test_an_ear_hears_what_came_in_after_it_began() -> None:
    """On loopback each frame leaves and comes in: only the second counts, and only with the guest's MAC."""
    mac = "02:00:00:64:72:11"
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    with GuestEar([mac]) as ear, GuestEar([mac]) as witness, raw as speaker:
        speaker.bind(("lo", 0))
        frame = b"\xff" * 6 + bytes.fromhex(mac.replace(":", "")) + b"\x88\xb5" + bytes(46)
        speaker.send(frame)
        assert witness.wait(5.0, since_ns=0) is not None, "it has come in"
        began_ns = time.time_ns()
        assert ear.wait(0.1, since_ns=began_ns) is None
        speaker.send(frame[:6] + bytes.fromhex("020000647212") + frame[12:])
        assert ear.wait(0.1, since_ns=began_ns) is None
        speaker.send(frame)
        heard_ns = ear.wait(5.0, since_ns=began_ns)
        assert heard_ns is not None and abs(heard_ns - time.monotonic_ns()) < 5 * 10**9
