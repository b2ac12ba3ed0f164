"""Whole pairs: each death ends in the right state, and only there."""

from __future__ import annotations

import os
import signal
import time

import pytest

from replicator.arbiter.open import open_arbiter
from replicator.demo.stage import children_of
from replicator.service.control import RefusedByDaemon, ask_daemon
from replicator.wire.verify import verify_stream


def test_the_primary_dies_and_the_guest_goes_there_and_back(pair):
    primary, secondary = pair.protect()
    primary.kill()
    secondary.wait_for("b: primary: active-alone")
    repaired = pair.start("a", "secondary")
    secondary.wait_for("b: primary: protected")
    secondary.kill()
    repaired.wait_for("a: primary: active-alone")
    assert repaired.status()["term"] == 3


def test_the_secondary_dies_and_comes_back(pair):
    primary, secondary = pair.protect()
    secondary.kill()
    primary.wait_for("a: primary: active-alone")
    again = pair.start("b", "secondary")
    primary.wait_for("a: primary: protected")
    assert again.status()["role"] == "secondary"
    assert primary.status()["term"] == 1


@pytest.mark.parametrize("step", ["before:PauseGuest", "before:SaveDeviceState", "before:ResumeGuest"])
def test_a_guest_that_dies_in_any_step_is_handed_over(pair, step):
    primary, secondary = pair.protect(phase=f"guest:{step}")
    primary.signal(signal.SIGUSR1)
    secondary.wait_for("b: primary: active-alone")
    assert primary.process.wait(30) == 0


def test_a_standby_that_dies_is_replaced(pair):
    primary, secondary = pair.protect()
    (standby,) = children_of(secondary.process.pid)
    os.kill(standby, signal.SIGKILL)
    secondary.wait_for("a new one is started")
    primary.kill()
    secondary.wait_for("b: primary: active-alone")


def test_a_frozen_primary_wakes_up_fenced(pair):
    primary, secondary = pair.protect()
    primary.signal(signal.SIGSTOP)
    secondary.wait_for("b: primary: active-alone")
    primary.signal(signal.SIGCONT)
    primary.wait_for("ended: fenced")
    assert primary.process.wait(30) == 7


def test_a_second_primary_is_refused(pair):
    _, secondary = pair.protect()
    secondary.kill()
    rival = pair.start("b", "primary")
    rival.wait_for("replicator: ")
    assert rival.process.wait(30) == 7


def wait_for_the_end_of_the_lease(pair):
    arbiter = open_arbiter(
        f"file://{pair.folder}/arbiter", "synthetic", ttl_ms=1000, margin_ms=50, timeout_ms=1000
    )
    while arbiter.read().live:
        time.sleep(0.02)
    arbiter.close()


def test_a_host_whose_replica_was_given_up_for_a_fresh_start_follows_again(pair):
    """Else it would keep that replica, of a guest two terms ago, and refuse every primary for its sake."""
    primary, secondary = pair.protect()
    secondary.kill()
    primary.wait_for("a: primary: active-alone")
    primary.signal(signal.SIGTERM)
    assert primary.process.wait(30) == 0
    wait_for_the_end_of_the_lease(pair)
    afresh = pair.start("b", "primary")
    heir = pair.start("a", "secondary")
    afresh.wait_for("b: primary: protected")
    afresh.kill()
    heir.wait_for("a: primary: active-alone")
    pair.start("b", "secondary")
    heir.wait_for("a: primary: protected")


def test_without_an_arbiter_a_replica_outlives_a_fresh_start_and_no_move(pair_without_arbiter):
    """Nobody but the operator could say what it is worth; once the new guest has moved away, it is worth nothing."""
    pair = pair_without_arbiter
    primary, secondary = pair.protect()
    secondary.kill()
    primary.kill()
    kept = (pair.folder / "b" / "replica" / "journal").read_bytes()
    afresh = pair.start("b", "primary")
    heir = pair.start("a", "secondary")
    afresh.wait_for("b: primary: protected")
    assert (pair.folder / "b" / "replica" / "journal").read_bytes() == kept
    ask_daemon(pair.folder / "b", "switchover")
    heir.wait_for("a: primary: protected")


def test_stop_makes_the_secondary_stand_down(pair):
    primary, secondary = pair.protect()
    ask_daemon(pair.folder / "a", "stop", guest="run")
    secondary.wait_for("stood down")
    primary.wait_for("a: primary: unprotected")
    primary.kill()
    assert secondary.status()["state"] == "stood down"


def test_sigterm_ends_both_guest_and_protection(pair):
    primary, secondary = pair.protect()
    primary.signal(signal.SIGTERM)
    secondary.wait_for("stood down")
    assert primary.process.wait(30) == 0


def test_a_recorded_session_is_a_valid_stream(pair):
    secondary = pair.start("b", "secondary")
    secondary.wait_for("standby")
    path = pair.folder / "session.xl2"
    primary = pair.start("a", "primary", "--record", str(path))
    primary.wait_for("primary: protected")
    primary.signal(signal.SIGTERM)
    assert primary.process.wait(30) == 0
    assert path.stat().st_mode & 0o777 == 0o600
    with path.open("rb") as stream:
        report = verify_stream(stream)
    assert report.checkpoints >= 1
    assert report.is_qemu_recording


def test_another_guest_is_refused_by_name(pair):
    secondary = pair.start("b", "secondary")
    secondary.wait_for("standby")
    (pair.folder / "guest.toml").write_text('kind = "synthetic"\nmemory_mib = 32\nnic = false\n')
    primary = pair.start("a", "primary")
    primary.wait_for("unprotected")
    primary.wait_for("RAM size")


def test_without_an_arbiter_only_the_operator_decides(pair_without_arbiter):
    pair = pair_without_arbiter
    primary, secondary = pair.protect()
    with pytest.raises(RefusedByDaemon, match="the primary is alive"):
        ask_daemon(pair.folder / "b", "promote")
    primary.kill()
    secondary.wait_for("the primary is silent")
    assert "what the guest did after it" in ask_daemon(pair.folder / "b", "promote")["said"]
    secondary.wait_for("b: primary: active-alone")


def test_without_an_arbiter_a_lost_secondary_holds_the_output(pair_without_arbiter):
    primary, secondary = pair_without_arbiter.protect()
    secondary.kill()
    primary.wait_for("a: primary: degraded")
    ask_daemon(pair_without_arbiter.folder / "a", "promote")
    primary.wait_for("a: primary: active-alone")
