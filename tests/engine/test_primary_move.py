"""The primary machine while its guest moves: every step, and every trouble in every step."""

from __future__ import annotations

import pytest
from playbook import Play, commit, connect, digest_of, kinds, make_primary, protect

from replicator.engine import effects as fx
from replicator.engine import events as ev
from replicator.engine.hand_over import PATIENCE_NS, Stage
from replicator.engine.move_report import MoveReport, Outcome
from replicator.engine.pipeline import Step
from replicator.engine.precopy import DowntimePolicy, OnBusy
from replicator.engine.primary import Bar, Life, Link
from replicator.engine.switchover import Phase
from replicator.units import NS_PER_MS

POLICY = DowntimePolicy(
    max_downtime_ns=300 * NS_PER_MS, max_iterations=30, min_remaining_pages=0, on_busy=OnBusy.ABORT
)
LAST = 2
TROUBLES = [
    ev.LinkLost("cut"),
    ev.PeerSilent(),
    ev.LeaseLapsed("no answer"),
    ev.MoveOverdue(),
]
#: While the ack of the last epoch is awaited.
ACK_TROUBLES = [ev.AckOverdue(), ev.EpochRefused(LAST, "disk full")]


def report_of(effects: list[fx.Effect]) -> MoveReport:
    (report,) = [effect.report for effect in effects if isinstance(effect, fx.ReportMove)]
    return report


def close_last(play: Play, *, dirty: int = 10) -> list[fx.Effect]:
    """Order a move of a protected guest whose next pause finds so many dirty pages; up to the save."""
    assert play(ev.SwitchoverOrdered(POLICY))[-1] == fx.PauseGuest(LAST, hold=True)
    play(ev.GuestPaused(LAST, dirty))
    assert play(ev.PagesCopied(LAST)) == [fx.SaveDeviceState(LAST, runs_on=False)]
    return play(ev.DeviceStateSaved(LAST))


def stand_still(play: Play) -> None:
    """The last epoch is on its way."""
    protect(play)
    close_last(play)


def empty(play: Play) -> list[fx.Effect]:
    stand_still(play)
    return commit(play, LAST)


def hand_over(play: Play) -> list[fx.Effect]:
    """This side is mute, the arbiter is asked."""
    empty(play)
    return play(ev.OutputLeft(LAST))


def offer(play: Play) -> list[fx.Effect]:
    hand_over(play)
    return play(ev.HandOverRecorded())


def take_back(play: Play) -> list[fx.Effect]:
    offer(play)
    return play(ev.HandOverAnswered(LAST, False, "no standby"))


def test_a_move_in_order():
    play = make_primary()
    protect(play)
    effects = close_last(play)
    assert effects[0] == fx.SendEpoch(LAST), "sent, and not resumed"
    assert play.machine.pipeline.step is Step.STANDING
    effects = commit(play, LAST)
    assert effects[0] == fx.ReleaseOutput(LAST)
    assert effects[-1] == fx.AwaitOutput(LAST)
    assert play(ev.OutputLeft(LAST))[-1] == fx.HandOver(play.machine.session, LAST)
    assert play.machine.life is Life.HANDING_OVER
    assert fx.OfferGuest(play.machine.session, LAST) in play(ev.HandOverRecorded())
    effects = play(ev.HandOverAnswered(LAST, True, ""))
    report = report_of(effects)
    assert (report.outcome, report.passes, report.pages) == (Outcome.MOVED, 1, 10)
    assert 0 < report.downtime_ns <= report.promised_ns and report.keeps_promise
    assert effects[-1] == fx.LeaveGuest()
    assert play.machine.life is Life.MOVED and play.machine.over


def test_no_guest_runs_from_the_last_pause_to_the_end():
    play = make_primary()
    effects = [*hand_over(play), *play(ev.HandOverRecorded()), *play(ev.HandOverAnswered(LAST, True, ""))]
    assert not {fx.ResumeGuest, fx.ThawGuest, fx.PassOutput} & set(kinds(effects))


def test_a_pause_that_finds_more_than_staging_holds_is_no_last_one():
    play = make_primary()
    protect(play)
    assert play(ev.SwitchoverOrdered(POLICY))[-1] == fx.PauseGuest(2, hold=True)
    assert fx.ResumeGuest(2) in play(ev.GuestPaused(2, 4_097))
    assert play.machine.move.phase is Phase.SHRINKING


def test_passes_follow_each_other_without_a_rest_and_one_at_a_time():
    policy = DowntimePolicy(max_downtime_ns=70 * NS_PER_MS, max_iterations=30, min_remaining_pages=0)
    play = make_primary()
    protect(play)
    play(ev.SwitchoverOrdered(policy))
    play(ev.GuestPaused(2, 4_000), ev.PagesCopied(2), ev.DeviceStateSaved(2))
    assert play.machine.pipeline.step is Step.RESUMING, "too many pages for 70 ms"
    play(ev.GuestResumed(2))
    assert play(ev.EpochDue()) == [], "one at a time"
    assert fx.PauseGuest(3, hold=True) in commit(play, 2)


def test_a_busy_guest_is_left_alone_and_the_reason_has_figures():
    policy = DowntimePolicy(
        max_downtime_ns=61 * NS_PER_MS, max_iterations=4, min_remaining_pages=0, on_busy=OnBusy.ABORT
    )
    play = make_primary()
    protect(play)
    play(ev.SwitchoverOrdered(policy))
    effects: list[fx.Effect] = []
    for epoch in range(2, 8):
        effects = play(ev.GuestPaused(epoch, 4_000))
        if fx.ReportMove in kinds(effects):
            break
        play(ev.PagesCopied(epoch), ev.DeviceStateSaved(epoch), ev.GuestResumed(epoch))
        play.now_ns += 40 * NS_PER_MS
        commit(play, epoch)
    report = report_of(effects)
    assert report.outcome is Outcome.ABORTED
    assert "the VM is too active" in report.reason and "max_downtime" in report.reason
    assert not play.machine.move.is_under_way and play.machine.is_movable
    epoch = play.machine.pipeline.epoch
    assert play(ev.PagesCopied(epoch), ev.DeviceStateSaved(epoch)) == [fx.ResumeGuest(epoch)], "a usual epoch"


def test_what_is_not_protected_does_not_move():
    play = make_primary()
    connect(play)
    report = report_of(play(ev.SwitchoverOrdered(POLICY)))
    assert report.outcome is Outcome.ABORTED
    assert "not protected" in report.reason


@pytest.mark.parametrize(
    ("reach", "trouble"),
    [(reach, trouble) for reach in (stand_still, empty) for trouble in TROUBLES]
    + [(stand_still, trouble) for trouble in ACK_TROUBLES],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_any_trouble_before_the_hand_over_lets_the_guest_run_on_here(reach, trouble):
    play = make_primary()
    reach(play)
    effects = play(trouble)
    assert fx.ResumeGuest(LAST) in effects
    assert report_of(effects).outcome is Outcome.ABORTED
    assert play.machine.life in (Life.RUNNING, Life.FROZEN)
    play(ev.GuestResumed(LAST))
    assert fx.HandOver not in kinds(play(ev.OutputLeft(LAST))), "it is over"


def test_a_late_ack_is_that_of_a_usual_epoch():
    play = make_primary()
    stand_still(play)
    assert fx.ResumeGuest(LAST) in play(ev.MoveOverdue())
    assert fx.SendEpoch not in kinds(play(ev.GuestResumed(LAST))), "it is on its way already"
    effects = commit(play, LAST)
    assert fx.ReleaseOutput(LAST) in effects and fx.AwaitOutput not in kinds(effects)
    assert play(ev.EpochDue()) == [fx.PauseGuest(3, hold=True)]


def test_the_limit_of_waiting_leaves_time_for_the_take_over():
    play = make_primary()
    protect(play)
    (armed,) = [e for e in close_last(play) if isinstance(e, fx.ArmTimer) and e.timer is fx.Timer.MOVE]
    assert armed.at_ns < play.machine.stretch.pausing_ns + POLICY.max_downtime_ns


def test_nothing_but_the_answer_to_it_ends_the_hand_over():
    play = make_primary()
    hand_over(play)
    for event in (
        ev.EpochDue(),
        ev.LinkLost("cut"),
        ev.PeerSilent(),
        ev.AckOverdue(),
        ev.LeaseRegained(),
        ev.PeerSpoke(),
    ):
        assert not {fx.ResumeGuest, fx.ThawGuest, fx.PassOutput} & set(kinds(play(event)))
    assert play.machine.life is Life.HANDING_OVER


def test_an_unknown_record_is_asked_for_again_and_then_wanted_back():
    play = make_primary()
    hand_over(play)
    assert kinds(play(ev.ArbiterFailed("no answer"))) == [fx.ArmTimer]
    assert play(ev.RetryDue()) == [fx.HandOver(play.machine.session, LAST)]
    play(ev.ArbiterFailed("no answer"))
    play.now_ns += PATIENCE_NS
    assert play(ev.RetryDue())[-1] == fx.TakeBack(play.machine.session, LAST)
    assert kinds(play(ev.ArbiterFailed("no answer"))) == [fx.ArmTimer]
    assert play(ev.RetryDue())[-1] == fx.TakeBack(play.machine.session, LAST)


@pytest.mark.parametrize(
    "event",
    [ev.HandOverAnswered(LAST, False, "no standby"), ev.MoveOverdue(), ev.LinkLost("cut"), ev.PeerSilent()],
    ids=lambda event: type(event).__name__,
)
def test_an_offer_that_leads_to_nothing_is_taken_back(event):
    play = make_primary()
    offer(play)
    assert play(event)[-1] == fx.TakeBack(play.machine.session, LAST)


def test_what_is_given_back_in_the_same_term_goes_on_protected():
    play = make_primary()
    take_back(play)
    effects = play(ev.GuestTakenBack(True, 1))
    assert fx.ResumeGuest(LAST) in effects and effects[-1] == fx.Reconnect()
    assert fx.PassOutput not in kinds(effects), "the replica may still be promoted"
    assert report_of(effects).outcome is Outcome.TAKEN_BACK
    play(ev.GuestResumed(LAST))
    effects = connect(play, LAST, digest_of(LAST))
    assert fx.OpenEpoch(3, LAST) in effects
    assert (play.machine.life, play.machine.bar) == (Life.RUNNING, Bar.LIFTED)


def test_what_is_handed_back_in_a_new_term_goes_on_alone():
    play = make_primary()
    take_back(play)
    effects = play(ev.GuestTakenBack(False, 3))
    assert fx.PassOutput() in effects
    assert play.machine.bar is Bar.BARRED and play.machine.link is Link.DOWN


def test_a_guest_that_another_side_has_is_kept_until_it_is_heard_to_run():
    play = make_primary()
    take_back(play)
    assert kinds(play(ev.TakeBackRefused("b holds term 2"))) == [fx.ArmTimer]
    assert play.machine.hand_over.stage is Stage.TAKEN
    assert play(ev.RetryDue())[-1] == fx.TakeBack(play.machine.session, LAST), "it may be handed back"
    play(ev.TakeBackRefused("b holds term 2"))
    assert play(ev.PeerLeads(2))[-1] == fx.LeaveGuest()


def test_the_operator_takes_back_by_force_what_nobody_runs():
    play = make_primary()
    take_back(play)
    play(ev.TakeBackRefused("b holds term 2"))
    assert play(ev.TakeBackOrdered())[-1] == fx.TakeBack(play.machine.session, LAST, force=True)


@pytest.mark.parametrize(
    "event", [ev.MoveOverdue(), ev.LinkLost("cut"), ev.PeerSilent()], ids=lambda event: type(event).__name__
)
def test_without_an_arbiter_an_offer_without_an_answer_stays_mute(event):
    play = make_primary(has_arbiter=False)
    offer(play)
    assert play(event) == []
    assert "promote" in play.machine.trouble
    assert play(ev.LinkUp()) == [fx.OfferGuest(play.machine.session, LAST)]
    assert play(ev.TakeBackOrdered())[-1] == fx.TakeBack(play.machine.session, LAST, force=True)


def test_without_an_arbiter_a_refusal_is_a_grant_to_run_on():
    play = make_primary(has_arbiter=False)
    offer(play)
    assert play(ev.HandOverAnswered(LAST, False, "no standby"))[-1] == fx.TakeBack(play.machine.session, LAST)


@pytest.mark.parametrize("reach", [hand_over, offer, take_back], ids=["recording", "offered", "taking back"])
def test_a_paused_guest_that_dies_is_left_to_the_replica(reach):
    play = make_primary()
    reach(play)
    effects = play(ev.GuestEnded("killed", died=True))
    if reach is hand_over:
        assert effects == [], "not before it is recorded"
        effects = play(ev.HandOverRecorded())
    assert effects[-1] == fx.LeaveGuest()
    assert report_of(effects).outcome is Outcome.ENDED


@pytest.mark.parametrize("reach", [stand_still, empty], ids=["committing", "emptying"])
def test_a_guest_that_dies_before_the_hand_over_is_handed_over_as_ever(reach):
    play = make_primary()
    reach(play)
    effects = play(ev.GuestEnded("killed", died=True))
    assert effects[-2:] == [fx.StandDown("killed", hand_over=True), fx.EndGuest(graceful=False)]
    assert report_of(effects).outcome is Outcome.ENDED


@pytest.mark.parametrize("reach", [stand_still, empty, hand_over, offer, take_back])
def test_who_is_fenced_in_a_move_is_fenced(reach):
    play = make_primary()
    reach(play)
    effects = play(ev.LeaseTaken("internal error"))
    assert effects[-1] == fx.Fence("internal error")
    assert report_of(effects).outcome is Outcome.ENDED


@pytest.mark.parametrize("reach", [hand_over, offer, take_back])
def test_a_stop_in_a_hand_over_ends_this_side_and_leaves_the_replica_what_it_is(reach):
    play = make_primary()
    reach(play)
    effects = play(ev.StopOrdered(shut_down=True))
    assert effects[-1] == fx.EndGuest(graceful=False)
    assert fx.StandDown not in kinds(effects)


def test_a_stop_before_it_is_a_stop():
    play = make_primary()
    stand_still(play)
    effects = play(ev.StopOrdered(shut_down=False))
    assert fx.ResumeGuest(LAST) in effects and fx.StandDown("stopped by the operator", False) in effects
    assert play.machine.move.phase is Phase.NONE


def test_a_second_order_changes_nothing():
    play = make_primary()
    stand_still(play)
    assert play(ev.SwitchoverOrdered(POLICY)) == []
    assert play.machine.move.phase is Phase.COMMITTING
