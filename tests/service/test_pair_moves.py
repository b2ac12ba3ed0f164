"""The guest moves on the operator's word, there and back, under load, and not when it must not."""

from __future__ import annotations

import contextlib
import signal
import time
from typing import Any

import pytest
from pair import PATIENCE_S, Pair, Side

from replicator.drill.history.verdict import check_journals
from replicator.errors import GuestError, TransportError
from replicator.service.control import RefusedByDaemon, ask_daemon


def move(pair: Pair, name: str, **bounds: Any) -> dict[str, Any]:
    """The report of a switchover that `name` is ordered."""
    report: dict[str, Any] = ask_daemon(pair.folder / name, "switchover", **bounds)["report"]
    return report


def protect_with_journals(pair: Pair) -> tuple[Side, Side]:
    secondary = pair.start("b", "secondary", "--events", str(pair.folder / "b.events"))
    secondary.wait_for("standby")
    primary = pair.start("a", "primary", "--events", str(pair.folder / "a.events"))
    primary.wait_for("primary: protected")
    return primary, secondary


def check_journals_of(pair: Pair) -> None:
    for side in pair.sides:
        side.end()
    verdict = check_journals(sorted(pair.folder.glob("*.events")))
    assert verdict.violations == ()
    assert verdict.checks > 0


def test_the_guest_moves_there_and_back_in_the_same_two_processes(pair):
    # It writes so much that some of it falls between the last pass and the pause.
    (pair.folder / "guest.toml").write_text(
        'kind = "synthetic"\nmemory_mib = 16\nnic = false\nsteps_per_ms = 20\n'
    )
    first, second = protect_with_journals(pair)
    there = move(pair, "a")
    assert there["outcome"] == "moved", there
    assert there["keeps_promise"]
    # The guest may have written no page since the epoch before; its device state is always sent.
    assert there["pages"] > 0 and there["bytes"] > 0
    second.wait_for("b: primary: protected")
    first.wait_for("a: secondary: standby at epoch")
    assert second.status()["protected_after_ms"] > 0
    back = move(pair, "b")
    assert back["outcome"] == "moved", back
    first.wait_for("a: primary: protected")
    second.wait_for("b: secondary: standby at epoch")
    assert first.status()["term"] == 3
    check_journals_of(pair)


def test_a_death_after_a_move_is_survived(pair):
    first, second = protect_with_journals(pair)
    assert move(pair, "a")["outcome"] == "moved"
    first.wait_for("a: secondary: standby at epoch")
    second.kill()
    first.wait_for("a: primary: active-alone")
    check_journals_of(pair)


def test_a_busy_guest_moves_within_what_was_promised(pair):
    (pair.folder / "guest.toml").write_text(
        'kind = "synthetic"\nmemory_mib = 16\nnic = false\nsteps_per_ms = 30.0\n'
    )
    _, second = protect_with_journals(pair)
    report = move(pair, "a", max_downtime_ms=1000)
    assert report["outcome"] == "moved", report
    assert report["keeps_promise"], report
    second.wait_for("b: primary: protected")
    check_journals_of(pair)


def test_a_bound_that_can_never_be_kept_is_refused_and_nothing_happens(pair):
    primary, _ = pair.protect()
    with pytest.raises(
        RefusedByDaemon, match="can never be kept: a pause without a single page takes"
    ) as refused:
        move(pair, "a", max_downtime_ms=1)
    assert refused.value.exit_code == 2
    assert primary.status()["state"].startswith("protected")


def test_what_is_not_protected_does_not_move(pair):
    pair.start("a", "primary").wait_for("unprotected")
    with pytest.raises(RefusedByDaemon, match="no replica that could go on with it: unprotected"):
        move(pair, "a")


def die_in_move(pair: Pair, side: Side, **bounds: Any) -> dict[str, Any]:
    """The report of a move in which an armed side dies at its phase."""
    side.signal(signal.SIGUSR1)
    return move(pair, "a", **bounds)


def start_mortal(pair: Pair, *, primary: str = "never", secondary: str = "never") -> tuple[Side, Side]:
    follower = pair.start("b", "secondary", "--events", str(pair.folder / "b.events"), phase=secondary)
    follower.wait_for("standby")
    leader = pair.start("a", "primary", "--events", str(pair.folder / "a.events"), phase=primary)
    leader.wait_for("primary: protected")
    return leader, follower


def test_a_secondary_that_dies_before_it_takes_over_leaves_the_guest_where_it_was(pair):
    primary, secondary = start_mortal(pair, secondary="before:TakeOver")
    report = die_in_move(pair, secondary)
    assert report["outcome"] == "taken back", report
    primary.wait_for("a: primary: active-alone")
    assert primary.status()["term"] == 1
    check_journals_of(pair)


def test_a_secondary_that_dies_after_its_grant_leaves_it_to_the_operator(pair):
    """Nobody can know whether its guest has run."""
    primary, secondary = start_mortal(pair, secondary="before:ActivateGuest")
    secondary.signal(signal.SIGUSR1)
    with pytest.raises(TransportError):
        ask_daemon(pair.folder / "a", "switchover", timeout_s=2.0)
    primary.wait_for("a: primary: handing over")
    assert "handing over" in primary.status()["state"]
    deadline = time.monotonic() + PATIENCE_S
    while primary.status()["state"].startswith("handing over"):
        assert time.monotonic() < deadline
        # Refused once the order before it has been carried out.
        with contextlib.suppress(RefusedByDaemon):
            ask_daemon(pair.folder / "a", "promote")
    primary.wait_for("a: primary: active-alone")
    assert primary.status()["term"] == 3
    check_journals_of(pair)


def test_a_standby_that_dies_in_the_hand_over_is_replaced_in_time(pair):
    _, secondary = start_mortal(pair, secondary="guest:before:ActivateGuest")
    report = die_in_move(pair, secondary)
    assert report["outcome"] == "moved", report
    secondary.wait_for("b: primary: protected")
    check_journals_of(pair)


def test_a_guest_that_cannot_start_there_is_handed_back(pair):
    primary, secondary = start_mortal(pair, secondary="guest:before:ActivateGuest")
    (pair.folder / "b" / "replica" / "ram").unlink()
    report = die_in_move(pair, secondary)
    assert report["outcome"] == "taken back", report
    assert "the secondary does not take over" in report["reason"]
    primary.wait_for("a: primary: active-alone")
    assert primary.status()["term"] == 3
    assert secondary.process.wait(PATIENCE_S) == GuestError.exit_code
    check_journals_of(pair)


def test_a_paused_guest_that_dies_in_the_hand_over_lives_on_in_the_replica(pair):
    primary, secondary = start_mortal(pair, primary="guest:before:HandOver")
    report = die_in_move(pair, primary)
    assert report["outcome"] in ("ended", "moved"), report
    secondary.wait_for("b: primary: protected")
    primary.wait_for("a: secondary: standby at epoch")
    check_journals_of(pair)


def test_a_primary_that_dies_once_it_is_recorded_has_handed_over(pair):
    primary, secondary = start_mortal(pair, primary="before:OfferGuest")
    primary.signal(signal.SIGUSR1)
    with pytest.raises(TransportError):
        move(pair, "a")
    secondary.wait_for("b: primary: active-alone")
    check_journals_of(pair)


def test_without_an_arbiter_the_other_sides_word_is_enough(pair_without_arbiter):
    pair = pair_without_arbiter
    first, second = protect_with_journals(pair)
    assert move(pair, "a")["outcome"] == "moved"
    second.wait_for("b: primary: protected")
    first.wait_for("a: secondary: standby at epoch")
    assert move(pair, "b")["outcome"] == "moved"
    first.wait_for("a: primary: protected")
    assert first.status()["term"] == 3
    check_journals_of(pair)


def test_without_an_arbiter_a_missing_answer_stays_mute_until_the_operator_speaks(pair_without_arbiter):
    pair = pair_without_arbiter
    primary, secondary = start_mortal(pair, secondary="before:TakeOver")
    secondary.signal(signal.SIGUSR1)
    with pytest.raises(TransportError):
        ask_daemon(pair.folder / "a", "switchover", timeout_s=2.0)
    primary.wait_for("a: primary: handing over")
    assert "`promote` here takes it back" in primary.status()["state"]
    ask_daemon(pair.folder / "a", "promote")
    primary.wait_for("a: primary: active-alone")
    check_journals_of(pair)
