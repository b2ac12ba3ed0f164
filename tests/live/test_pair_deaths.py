"""Deaths around a real VM: one guest speaks at any time, and the client's open connections lose and repeat nothing."""

from __future__ import annotations

import pytest
from pair_lab import NEVER, Pair, open_pair

from replicator.errors import LeaseLost

pytestmark = pytest.mark.live


@pytest.mark.parametrize("vcpus", [1, 2])
def test_hosts_die_and_the_guest_goes_there_and_back(vcpus: int) -> None:
    with open_pair(vcpus=vcpus) as pair:
        pair.protect()
        pair.start_client()
        pair.kill_host("a")
        pair.wait_state("b", "active-alone")
        pair.wait_increments()
        pair.heal("a")
        pair.wait_increments()
        pair.kill_host("b")
        pair.wait_state("a", "active-alone")
        pair.wait_increments()
        assert pair.stage.status("a")["term"] == 3
        pair.judge("aba")


@pytest.mark.parametrize(
    "phase",
    [
        "before:PauseGuest",
        "before:SaveDeviceState",
        "before:ResumeGuest",
        "before:SendEpoch",
        "after:SendEpoch",
        "before:ReleaseOutput",
        "after:ReleaseOutput",
    ],
)
def test_the_primarys_host_dies_in_any_phase_of_an_epoch(phase: str) -> None:
    with open_pair() as pair:
        pair.protect(phases=(phase, NEVER))
        pair.start_client()
        pair.die_at_phase("a")
        pair.wait_state("b", "active-alone")
        pair.wait_increments()
        pair.judge("ab")


@pytest.mark.parametrize(
    "phase", ["after:BeginStore", "before:CommitEpoch", "after:CommitEpoch", "after:SendAck"]
)
def test_the_secondarys_host_dies_in_any_phase_of_an_epoch(phase: str) -> None:
    with open_pair() as pair:
        pair.protect(phases=(NEVER, phase))
        pair.start_client()
        pair.die_at_phase("b")
        pair.wait_state("a", "active-alone")
        pair.wait_increments()
        pair.heal("b")
        pair.judge("a")


def test_a_daemon_dies_alone_then_a_qemu_alone() -> None:
    with open_pair() as pair:
        pair.protect()
        pair.start_client()
        pair.kill_daemon("a")
        pair.wait_state("b", "active-alone")
        pair.wait_increments()
        pair.heal("a")
        pair.kill_qemu("b")
        assert pair.wait_end("b") == 0
        pair.wait_state("a", "active-alone")
        pair.wait_increments()
        assert "ended: " in pair.said("b")
        pair.judge("aba")


def test_the_secondary_dies_and_returns_and_is_good_for_a_take_over() -> None:
    with open_pair() as pair:
        pair.protect()
        pair.start_client()
        pair.kill_daemon("b")
        pair.wait_state("a", "active-alone")
        pair.wait_increments()
        pair.heal("b")
        pair.replace_standby("b")
        pair.kill_host("a")
        pair.wait_state("b", "active-alone")
        pair.wait_increments()
        pair.judge("ab")


def test_both_hosts_die_and_the_secondarys_replica_goes_on() -> None:
    """Its epoch was committed and never confirmed: nobody has heard of it, so going on from it is right too."""
    with open_pair() as pair:
        pair.protect(phases=(NEVER, "after:CommitEpoch"))
        pair.start_client()
        pair.die_at_phase("b")
        pair.kill_host("a")
        assert [pair.stage.status(name)["state"] for name in "ab"] == ["not running"] * 2
        pair.expect_silence(1.0)
        refuse_primary(pair, "a")
        pair.expect_silence(0.2)
        pair.start("b", "secondary")
        pair.wait_state("b", "active-alone")
        pair.wait_increments()
        pair.heal("a")
        pair.judge("ab")


def refuse_primary(pair: Pair, name: str) -> None:
    """Starting a guest anew would throw the replica away; the operator must say so."""
    pair.start(name, "primary")
    assert pair.wait_end(name) == LeaseLost.exit_code, pair.said(name)
    assert "the replica on b" in pair.said(name)


def test_a_cut_link_leaves_one_speaker_and_heals() -> None:
    with open_pair() as pair:
        pair.protect()
        pair.start_client()
        pair.lab.cut_link("repl")
        pair.wait_state("a", "active-alone")
        pair.wait_state("b", "standby, not promotable")
        pair.wait_increments()
        pair.lab.restore_link("repl")
        pair.wait_protected("a")
        pair.wait_increments()
        pair.judge("a")


def test_a_frozen_host_wakes_up_mute_and_fenced() -> None:
    with open_pair() as pair:
        pair.protect()
        pair.start_client()
        with pair.frozen("a"):
            pair.wait_state("b", "active-alone")
            pair.wait_increments()
        assert pair.wait_end("a") == LeaseLost.exit_code
        assert "fenced: " in pair.said("a")
        pair.wait_increments()
        pair.judge("ab")
