"""The primary machine, scene by scene."""

from __future__ import annotations

import pytest
from playbook import checkpoint, commit, connect, digest_of, kinds, live_copied, make_primary, protect

from replicator.engine import effects as fx
from replicator.engine import events as ev
from replicator.engine.pipeline import Step
from replicator.engine.precopy import STALLED_PASSES, DowntimePolicy
from replicator.engine.primary import Bar, Life, Link
from replicator.errors import InvariantError


def test_starts_alone_and_passes_output():
    play = make_primary()
    assert play.machine.passing
    assert play.machine.bar is Bar.BARRED


def test_full_synchronisation_copies_live_before_it_pauses():
    play = make_primary()
    assert connect(play)[-1] == fx.CopyLive(1)
    assert play(live_copied(1, 60_000, 40_000)) == [fx.CopyLive(1)]
    assert play(live_copied(1, 40_000, 100)) == [fx.PauseGuest(1, hold=True, pages_max=29_500)]


def test_first_connection_owes_every_page():
    effects = connect(make_primary())
    assert effects == [
        fx.OweAll(),
        fx.CancelTimer(fx.Timer.ACK),
        fx.OpenEpoch(1, 0),
        fx.CopyLive(1),
    ]


def test_an_idle_guest_gets_enough_live_rounds_for_the_audit():
    play = make_primary(pipeline={"sync": DowntimePolicy(min_iterations=3)})
    connect(play)
    assert play(live_copied(1, 60_000)) == [fx.CopyLive(1)]
    assert play(live_copied(1, 0)) == [fx.CopyLive(1)]
    assert kinds(play(live_copied(1, 0))) == [fx.PauseGuest]


def test_a_busy_guest_is_paused_in_the_end_whatever_is_dirty():
    play = make_primary(pipeline={"sync": DowntimePolicy(max_iterations=3)})
    connect(play)
    play(live_copied(1, 90_000, 80_000), live_copied(1, 80_000, 70_000))
    assert play(live_copied(1, 70_000, 60_000)) == [fx.PauseGuest(1, hold=True)]


def test_life_of_one_epoch_in_order():
    play = make_primary()
    protect(play)
    assert play(ev.EpochDue()) == [fx.PauseGuest(2, hold=True)]
    assert play(ev.GuestPaused(2, 300)) == [fx.OpenEpoch(2, 1), fx.CopyPages(2)]
    assert play(ev.PagesCopied(2)) == [fx.SaveDeviceState(2, runs_on=True)]
    assert play(ev.DeviceStateSaved(2)) == [fx.ResumeGuest(2)]
    effects = play(ev.GuestResumed(2))
    assert effects[0] == fx.SendEpoch(2)
    assert fx.ReleaseOutput(2) in commit(play, 2)


def test_output_is_held_from_the_first_barrier_and_released_by_its_ack_only():
    play = make_primary()
    connect(play)
    play(live_copied(1, 10))
    assert play.machine.passing
    checkpoint(play, 1)
    assert not play.machine.passing
    effects = commit(play, 1)
    assert effects[:3] == [fx.ReleaseOutput(1), fx.SettleOwed(1), fx.LiftBar(play.machine.session, 1)]
    assert play.machine.bar is Bar.LIFTING


def test_never_more_epochs_in_flight_than_configured():
    play = make_primary()
    protect(play)
    for epoch in (2, 3):
        assert play(ev.EpochDue()) == [fx.PauseGuest(epoch, hold=True)]
        checkpoint(play, epoch)
    assert play(ev.EpochDue()) == []
    play(ev.EpochSealed(3, digest_of(3)))
    assert fx.PauseGuest(4, hold=True) in commit(play, 2)


def test_an_epoch_larger_than_staging_runs_on_and_is_copied_live():
    play = make_primary()
    protect(play)
    play(ev.EpochDue())
    assert play(ev.GuestPaused(2, 60_000)) == [fx.AbandonEpoch(2), fx.ResumeGuest(2)]
    assert play(ev.GuestResumed(2)) == [fx.OpenEpoch(3, 1), fx.CopyLive(3)]
    for _ in range(STALLED_PASSES - 1):
        assert play(live_copied(3, 60_000, 60_000)) == [fx.CopyLive(3)]
    assert play(live_copied(3, 60_000, 60_000)) == [fx.PauseGuest(3, hold=True)]
    assert play(ev.GuestPaused(3, 60_000)) == [fx.CopyPages(3)], "the second pause completes, however large"


def test_silent_secondary_asks_for_the_grant_and_holds_until_it_comes():
    play = make_primary()
    protect(play)
    effects = play(ev.PeerSilent())
    assert fx.RequestAlone() in effects
    assert fx.PassOutput() not in effects
    assert not play.machine.passing
    assert fx.PassOutput() in play(ev.AloneGranted())
    assert play.machine.passing


def test_unreachable_arbiter_keeps_output_held_and_asks_again():
    play = make_primary()
    protect(play)
    play(ev.PeerSilent())
    assert kinds(play(ev.ArbiterFailed("no answer"))) == [fx.ArmTimer]
    assert play(ev.RetryDue()) == [fx.RequestAlone()]
    assert not play.machine.passing


def test_a_side_that_was_taken_over_is_fenced_for_good():
    play = make_primary()
    protect(play)
    play(ev.PeerSilent())
    assert play(ev.LeaseTaken("node b holds term 2")) == [fx.Fence("node b holds term 2")]
    assert play(ev.AloneGranted()) == []
    assert not play.machine.passing
    assert play.machine.life is Life.FENCED


def test_reconnect_resumes_from_the_committed_epoch():
    play = make_primary()
    protect(play)
    play(ev.EpochDue())
    checkpoint(play, 2)
    play(ev.EpochSealed(2, digest_of(2)), ev.LinkLost("reset"))
    effects = connect(play, 1, digest_of(1))
    assert effects == [fx.OweAgain(), fx.CancelTimer(fx.Timer.ACK), fx.OpenEpoch(3, 1), fx.CopyLive(3)]
    assert not play.machine.passing


def test_a_commit_whose_ack_was_lost_is_recognised():
    play = make_primary()
    protect(play)
    play(ev.EpochDue())
    checkpoint(play, 2)
    play(ev.EpochSealed(2, digest_of(2)), ev.LinkLost("reset"))
    effects = connect(play, 2, digest_of(2))
    assert fx.ReleaseOutput(2) in effects
    assert fx.OpenEpoch(3, 2) in effects


def test_an_unknown_digest_starts_a_new_session():
    play = make_primary()
    protect(play)
    play(ev.LinkLost("reset"))
    before = play.machine.session
    effects = connect(play, 1, b"x" * 16)
    assert effects == [fx.Greet(play.machine.session)]
    assert play.machine.session != before


def test_an_unanswered_hello_is_said_again_on_a_new_connection():
    play = make_primary()
    assert kinds(play(ev.LinkUp())) == [fx.Greet, fx.ArmTimer]
    assert play(ev.AckOverdue()) == [fx.Reconnect()]
    assert play.machine.trouble == "the secondary does not answer"


def test_a_refusal_is_kept_in_mind_and_tried_again():
    play = make_primary()
    play(ev.LinkUp())
    assert kinds(play(ev.PeerRefused("has-replica", "it would be lost"))) == [fx.ArmTimer]
    assert play(ev.AckOverdue()) == [fx.Reconnect()]
    assert "it would be lost" in play.machine.trouble


def test_a_full_resync_waits_for_the_bar():
    play = make_primary()
    protect(play)
    play(ev.LinkLost("reset"))
    effects = connect(play, 0)
    assert effects == [fx.OweAll(), fx.RequestAlone()]
    effects = play(ev.AloneGranted())
    assert fx.PassOutput() in effects
    assert fx.CopyLive(2) in effects


def test_link_lost_while_paused_resumes_the_guest():
    play = make_primary()
    protect(play)
    play(ev.EpochDue(), ev.GuestPaused(2, 10))
    assert fx.AbandonEpoch(2) in play(ev.LinkLost("reset"))
    assert play(ev.PagesCopied(2)) == [fx.ResumeGuest(2)]
    play(ev.GuestResumed(2))
    assert play.machine.pipeline.step is Step.IDLE


def test_reconnected_while_the_old_pause_goes_on_starts_after_it():
    play = make_primary()
    protect(play)
    play(ev.EpochDue(), ev.GuestPaused(2, 10), ev.LinkLost("reset"))
    connect(play, 1, digest_of(1))
    play(ev.PagesCopied(2))
    assert play(ev.GuestResumed(2)) == [fx.OpenEpoch(3, 1), fx.CopyLive(3)]


def test_failed_step_resumes_the_guest_and_tells_why():
    play = make_primary()
    protect(play)
    play(ev.EpochDue(), ev.GuestPaused(2, 10), ev.PagesCopied(2))
    effects = play(ev.StepFailed(2, "QEMU refused to save"))
    assert fx.ResumeGuest(2) in effects
    assert fx.RequestAlone() in effects
    assert play.machine.trouble == "QEMU refused to save"


def test_lapsed_lease_freezes_and_the_regained_one_thaws():
    play = make_primary()
    protect(play)
    assert play(ev.LeaseLapsed("arbiter gone")) == [fx.FreezeGuest()]
    assert play(ev.EpochDue()) == []
    assert play(ev.LeaseRegained())[0] == fx.ThawGuest()


def test_lapsed_lease_in_a_pause_denies_the_resume_until_it_is_back():
    play = make_primary()
    protect(play)
    play(ev.EpochDue(), ev.GuestPaused(2, 10), ev.LeaseLapsed("late"))
    play(ev.PagesCopied(2), ev.DeviceStateSaved(2))
    assert play(ev.ResumeDenied(2)) == []
    assert play(ev.LeaseRegained()) == [fx.ResumeGuest(2)]


def test_a_lease_that_comes_back_while_the_guest_is_resumed_does_not_resume_it_twice():
    """Each of them would report, the second one in the middle of what comes next."""
    play = make_primary()
    protect(play)
    play(ev.EpochDue(), ev.GuestPaused(2, 10), ev.PagesCopied(2), ev.DeviceStateSaved(2))
    play(ev.LeaseLapsed("late"))
    assert play(ev.LeaseRegained()) == []
    assert fx.SendEpoch(2) in play(ev.GuestResumed(2))


def test_a_resume_that_turns_out_to_be_denied_once_the_lease_is_back_is_tried_again():
    play = make_primary()
    protect(play)
    play(ev.EpochDue(), ev.GuestPaused(2, 10), ev.PagesCopied(2), ev.DeviceStateSaved(2))
    play(ev.LeaseLapsed("late"), ev.LeaseRegained())
    assert play(ev.ResumeDenied(2)) == [fx.ResumeGuest(2)]
    assert play(ev.ResumeDenied(2)) == [], "nothing has come back since"
    play(ev.LeaseLapsed("again"))
    assert play(ev.LeaseRegained()) == [fx.ResumeGuest(2)]
    assert fx.SendEpoch(2) in play(ev.GuestResumed(2))


def test_overdue_ack_drops_the_link_and_goes_alone():
    play = make_primary()
    protect(play)
    play(ev.EpochDue())
    checkpoint(play, 2)
    effects = play(ev.AckOverdue())
    assert fx.RequestAlone() in effects
    assert fx.Reconnect() in effects
    assert play.machine.link is Link.DOWN


@pytest.mark.parametrize(
    "event",
    [ev.EpochAcked(b"other-session...", 2, digest_of(2)), ev.EpochAcked(b"", 2, digest_of(2))],
)
def test_acks_of_another_session_release_nothing(event):
    play = make_primary()
    protect(play)
    play(ev.EpochDue())
    checkpoint(play, 2)
    play(ev.EpochSealed(2, digest_of(2)))
    assert play(event) == []


def test_ack_with_a_wrong_digest_releases_nothing():
    play = make_primary()
    protect(play)
    play(ev.EpochDue())
    checkpoint(play, 2)
    play(ev.EpochSealed(2, digest_of(2)))
    effects = play(ev.EpochAcked(play.machine.session, 2, b"z" * 16))
    assert fx.ReleaseOutput not in kinds(effects)
    assert fx.RequestAlone() in effects


def test_power_off_says_its_last_words_only_when_nobody_may_promote():
    play = make_primary()
    protect(play)
    assert play(ev.GuestEnded("powered off", died=False)) == [fx.StandDown("powered off", hand_over=False)]
    assert play(ev.StandDownSettled()) == [fx.PassOutput(), fx.EndGuest(graceful=True)]


def test_dead_qemu_hands_over_and_says_nothing_more():
    play = make_primary()
    protect(play)
    effects = play(ev.GuestEnded("QEMU was killed", died=True))
    assert effects == [fx.StandDown("QEMU was killed", hand_over=True), fx.EndGuest(graceful=False)]


def test_qemu_dies_while_the_arbiters_answer_is_on_its_way():
    """Lifted or not, alone or not: the arbiter knows, and gives the guest only to a replica that may have it."""
    lifting = make_primary()
    connect(lifting)
    lifting(live_copied(1, 100))
    checkpoint(lifting, 1)
    commit(lifting, 1)
    assert lifting.machine.bar is Bar.LIFTING
    barring = make_primary()
    protect(barring)
    barring(ev.LinkLost("cut"), ev.PeerSilent())
    assert barring.machine.bar is Bar.BARRING
    for play in (lifting, barring):
        effects = play(ev.GuestEnded("QEMU was killed", died=True))
        assert effects == [fx.StandDown("QEMU was killed", hand_over=True), fx.EndGuest(graceful=False)]


def test_stop_keeps_the_guest_running_unprotected():
    play = make_primary()
    protect(play)
    effects = play(ev.StopOrdered(shut_down=False))
    assert effects[-1] == fx.StandDown("stopped by the operator", hand_over=False)
    assert play(ev.StandDownSettled()) == [fx.PassOutput()]
    assert play.machine.life is Life.UNPROTECTED
    assert play(ev.LinkUp()) == []


def test_without_an_arbiter_only_the_operator_grants():
    play = make_primary(has_arbiter=False)
    protect(play)
    assert fx.RequestAlone() in play(ev.PeerSilent())
    assert play(ev.ArbiterFailed("no arbiter")) == []
    assert not play.machine.passing
    assert fx.PassOutput() in play(ev.AloneGranted())


def test_without_an_arbiter_an_empty_secondary_is_a_grant_of_its_own():
    play = make_primary(has_arbiter=False)
    protect(play)
    play(ev.LinkLost("restarted"))
    effects = connect(play, 0)
    assert fx.PassOutput() in effects
    assert fx.CopyLive(2) in effects


def test_a_report_out_of_order_is_our_own_bug():
    play = make_primary()
    protect(play)
    with pytest.raises(InvariantError):
        play(ev.PagesCopied(2))


def test_a_lost_link_in_the_first_pause_of_a_synchronisation_lets_the_guest_speak_again():
    """The runner holds from that barrier on, and nobody will ack it."""
    play = make_primary()
    connect(play)
    assert kinds(play(live_copied(1, 10))) == [fx.PauseGuest]
    play(ev.LinkLost("cut"))
    effects = play(ev.GuestPaused(1, 5))
    assert effects == [fx.PassOutput(), fx.ResumeGuest(1)]
    assert play.machine.passing


def test_a_lease_that_comes_back_in_a_pause_starts_what_waited():
    play = make_primary()
    protect(play)
    play(ev.EpochDue(), ev.GuestPaused(2, 5), ev.PagesCopied(2), ev.DeviceStateSaved(2))
    play(ev.LeaseLapsed("no answer"), ev.ResumeDenied(2), ev.LinkLost("cut"))
    connect(play, 1, digest_of(1))
    assert play.machine.link is Link.READY
    assert play(ev.LeaseRegained()) == [fx.ResumeGuest(2)]
    assert play(ev.GuestResumed(2)) == [fx.OpenEpoch(3, 1), fx.CopyLive(3)]


def test_a_grant_to_go_alone_leaves_the_watch_over_the_peers_answer():
    play = make_primary()
    protect(play)
    play(ev.LinkLost("cut"), ev.PeerSilent(), ev.LinkUp())
    assert play.machine.link is Link.GREETING
    assert fx.CancelTimer(fx.Timer.ACK) not in play(ev.AloneGranted())
    assert fx.Reconnect() in play(ev.AckOverdue())


def test_a_grant_to_go_alone_leaves_the_watch_over_epochs_on_their_way():
    play = make_primary()
    protect(play)
    play(ev.LinkLost("cut"), ev.PeerSilent())
    connect(play, 1, digest_of(1))
    play(live_copied(2, 5))
    checkpoint(play, 2)
    assert fx.CancelTimer(fx.Timer.ACK) not in play(ev.AloneGranted())
    assert fx.Reconnect() in play(ev.AckOverdue())
