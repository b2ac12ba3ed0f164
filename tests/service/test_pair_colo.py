"""Pairs in COLO around a synthetic guest: both run it, and either may die."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from pair import Pair, Side

from replicator.demo.stage import children_of
from replicator.service.control import ask_daemon
from replicator.wire.grammar import StreamKind
from replicator.wire.verify import verify_stream

COLO = ("--mode", "colo")


@pytest.fixture
def colo_pair(tmp_path: Path):
    """A checkpoint comes every 200 ms in any case."""
    made = Pair(tmp_path)
    for name in "ab":
        with (tmp_path / f"{name}.toml").open("a") as config:
            config.write('[epoch]\nmode = "colo"\n[colo]\ninterval_max_ms = 200\n')
    yield made
    made.end()


def wait_compared(side: Side, epochs: int = 3) -> dict:
    """Until both guests have run compared from so many epochs on."""
    first = side.status()["committed"]
    while True:
        status = side.status()
        if status["colo"]["is_comparing"] and status["committed"] >= first + epochs:
            return status
        assert side.process.poll() is None, side.text


def vm_of(secondary: Side) -> int:
    """The process of the VM beside the primary's: the one that was started last."""
    return max(children_of(secondary.process.pid))


def test_both_run_and_checkpoints_come_when_their_time_is_over(colo_pair: Pair) -> None:
    primary, secondary = colo_pair.protect()
    status = wait_compared(primary)
    assert status["state"].startswith("protected")
    assert status["colo"]["state"] == "compared"
    assert status["colo"]["checkpoints"]["forced"] >= 3
    assert secondary.status()["state"].startswith("standby at epoch")


def test_the_running_vm_takes_over_there_and_back(colo_pair: Pair) -> None:
    primary, secondary = colo_pair.protect()
    wait_compared(primary)
    vm = vm_of(secondary)
    primary.kill()
    secondary.wait_for("b: primary: active-alone")
    assert vm in children_of(secondary.process.pid), "the guest is the process that ran beside the primary's"
    repaired = colo_pair.start("a", "secondary")
    secondary.wait_for("b: primary: protected")
    wait_compared(secondary)
    secondary.kill()
    repaired.wait_for("a: primary: active-alone")


def test_a_recorded_session_is_a_valid_stream_with_its_back_channel(colo_pair: Pair) -> None:
    secondary = colo_pair.start("b", "secondary")
    secondary.wait_for("standby")
    path = colo_pair.folder / "session.xl2"
    primary = colo_pair.start("a", "primary", "--record", str(path))
    primary.wait_for("primary: protected")
    wait_compared(primary)
    primary.signal(signal.SIGTERM)
    assert primary.process.wait(30) == 0
    for recorded, kind in (
        (path, StreamKind.COLO),
        (path.with_name("session.xl2.back"), StreamKind.BACK_CHANNEL),
    ):
        with recorded.open("rb") as stream:
            report = verify_stream(stream, kind=kind)
        assert sum(report.records.values()) >= 8


def test_a_secondary_that_dies_is_replaced(colo_pair: Pair) -> None:
    primary, secondary = colo_pair.protect()
    wait_compared(primary)
    secondary.kill()
    primary.wait_for("active-alone")
    colo_pair.start("b", "secondary")
    primary.wait_for("primary: protected")
    wait_compared(primary)


def test_a_vm_that_dies_alone_takes_its_replica_along_and_is_replaced(colo_pair: Pair) -> None:
    primary, secondary = colo_pair.protect()
    wait_compared(primary)
    vm = vm_of(secondary)
    os.kill(vm, signal.SIGKILL)
    secondary.wait_for("the VM died")
    wait_compared(primary)
    assert vm not in children_of(secondary.process.pid)
    assert primary.status()["state"].startswith("protected")
    assert primary.status()["term"] == 1


def test_the_guest_moves_on_the_operators_word(colo_pair: Pair) -> None:
    primary, secondary = colo_pair.protect()
    wait_compared(primary)
    report = ask_daemon(colo_pair.folder / "a", "switchover")["report"]
    assert report["outcome"] == "moved"
    secondary.wait_for("b: primary: protected")
    wait_compared(secondary)


def test_a_primary_in_remus_runs_no_vm_beside_its_own(colo_pair: Pair) -> None:
    secondary = colo_pair.start("b", "secondary")
    secondary.wait_for("standby")
    primary = colo_pair.start("a", "primary", "--mode", "remus")
    primary.wait_for("primary: protected")
    assert primary.status()["colo"]["state"] == ""
    assert len(children_of(secondary.process.pid)) == 1, "the standby"
