"""`promote` and `stop` do what they say or say why not, with the exit codes of the README."""

from __future__ import annotations

import pytest
from command_line import replicator, wait_for_status
from pair import Pair

LINK, ARBITER, FENCE = 4, 7, 8


@pytest.mark.parametrize("command", ["status", "promote", "stop"])
def test_without_a_daemon_it_says_how_to_start_one(pair: Pair, command: str) -> None:
    outcome = replicator(command, pair.folder / "a.toml")
    assert outcome.code == LINK
    assert f"no daemon answers at {pair.folder / 'a' / 'control.sock'}" in outcome.err
    assert "hint: start it with `replicator primary CONFIG` or `replicator secondary CONFIG`" in outcome.err


@pytest.mark.parametrize("command", ["status", "promote", "stop", "primary", "secondary"])
def test_without_a_configuration_it_names_the_file(pair: Pair, command: str) -> None:
    outcome = replicator(command, pair.folder / "none.toml")
    assert outcome.code == 2
    assert f"{pair.folder / 'none.toml'} does not exist" in outcome.err and "README" in outcome.err


def test_a_replica_that_is_not_whole_is_not_promoted(pair: Pair) -> None:
    pair.start("b", "secondary").wait_for("standby")
    refused = replicator("promote", pair.folder / "b.toml")
    assert refused.code == FENCE
    assert "there is no whole replica to promote: no epoch was committed yet" in refused.err
    assert "hint:" in refused.err


def test_no_promotion_disturbs_a_protected_pair(pair: Pair) -> None:
    primary, secondary = pair.protect()
    here, there = pair.folder / "a.toml", pair.folder / "b.toml"
    refused = replicator("promote", there)
    assert refused.code == FENCE
    assert "the primary is alive" in refused.err and "--force" in refused.err
    forced = replicator("promote", "--force", there)
    assert forced.code == FENCE
    assert (
        "a runs the guest: it holds term 1 with a live lease" in forced.err and "wait 1000 ms" in forced.err
    )
    at_primary = replicator("promote", here)
    assert at_primary.code == FENCE
    assert "the guest runs here already, and is protected" in at_primary.err
    assert primary.status()["state"].startswith("protected")
    assert secondary.status()["state"].startswith("standby at epoch")
    assert primary.status()["term"] == 1


def test_a_primary_alone_has_nothing_to_promote(pair: Pair) -> None:
    pair.start("a", "primary").wait_for("unprotected")
    refused = replicator("promote", pair.folder / "a.toml")
    assert refused.code == FENCE
    assert "the guest runs here already, and its output leaves" in refused.err


def test_the_operator_overrides_a_bar_once_the_lease_has_ended(pair: Pair) -> None:
    """The primary went alone and died: its replica is old, and only the operator may say that this is good enough."""
    primary, secondary = pair.protect()
    secondary.kill()
    primary.wait_for("active-alone")
    old = pair.start("b", "secondary")
    primary.kill()
    # A replica that counts itself out waits for the operator; one that does not, for the arbiter.
    old.wait_for("standby")
    wait_for_status(pair.folder / "b.toml", lambda status: "not promotable" in status["state"])
    while (outcome := replicator("promote", pair.folder / "b.toml")).code == FENCE:
        assert "live lease" in outcome.err or "alive" in outcome.err, outcome.err
    assert outcome.code == 0, outcome.err
    assert "promoted from epoch" in outcome.out and "is lost" in outcome.out
    old.wait_for("b: primary: active-alone")


def test_an_arbiter_that_is_away_promotes_nobody(pair: Pair) -> None:
    primary, secondary = pair.protect()
    (pair.folder / "arbiter").rename(pair.folder / "arbiter-away")
    primary.wait_for("frozen")
    primary.kill()
    secondary.wait_for("asking for the guest")
    outcome = replicator("promote", pair.folder / "b.toml")
    assert outcome.code == ARBITER, outcome
    assert outcome.err.startswith("replicator: ") and "hint:" in outcome.err
    (pair.folder / "arbiter-away").rename(pair.folder / "arbiter")
    secondary.wait_for("b: primary: active-alone")


def test_without_an_arbiter_the_operator_promotes(pair_without_arbiter: Pair) -> None:
    pair = pair_without_arbiter
    primary, secondary = pair.protect()
    refused = replicator("promote", pair.folder / "b.toml")
    assert (refused.code, "the primary is alive" in refused.err) == (FENCE, True)
    primary.kill()
    secondary.wait_for("the primary is silent")
    outcome = replicator("promote", pair.folder / "b.toml")
    assert outcome.code == 0 and "promoted from epoch" in outcome.out, outcome
    secondary.wait_for("b: primary: active-alone")


def test_without_an_arbiter_the_operator_lets_a_primary_go_on_alone(pair_without_arbiter: Pair) -> None:
    pair = pair_without_arbiter
    primary, secondary = pair.protect()
    secondary.kill()
    primary.wait_for("a: primary: degraded")
    outcome = replicator("promote", pair.folder / "a.toml")
    assert outcome.code == 0 and "the secondary must stay off" in outcome.out, outcome
    primary.wait_for("a: primary: active-alone")


def test_stop_lets_the_guest_run_on_or_shuts_it_down(pair: Pair) -> None:
    primary, secondary = pair.protect()
    running = replicator("stop", "--guest", "run", pair.folder / "a.toml")
    assert running.code == 0 and "the guest runs on" in running.out
    primary.wait_for("a: primary: unprotected")
    secondary.wait_for("stood down")
    ended = replicator("stop", pair.folder / "a.toml")
    assert ended.code == 0 and "the guest shuts down" in ended.out
    assert primary.process.wait(30) == 0
    left = replicator("stop", pair.folder / "b.toml")
    assert left.code == 0 and "stopped" in left.out
    assert secondary.process.wait(30) == 0


def test_an_unknown_way_to_stop_is_refused(pair: Pair) -> None:
    outcome = replicator("stop", "--guest", "freeze", pair.folder / "a.toml")
    assert outcome.code == 2
    assert "'run', 'shutdown'" in outcome.err
