"""The secondary machine, scene by scene."""

from __future__ import annotations

import pytest
from playbook import Play, digest_of, kinds

from replicator.engine import effects as fx
from replicator.engine import events as ev
from replicator.engine.secondary import Holding, Life, SecondaryMachine

SESSION = b"session-number-1"
OTHER = b"session-number-2"


def make_secondary(*, has_arbiter: bool = True, holding: Holding | None = None) -> Play:
    return Play(SecondaryMachine(holding or Holding(), has_arbiter=has_arbiter))


def hello(session: bytes = SESSION, term: int = 1, mismatch: str = "", discard: bool = False) -> ev.Event:
    return ev.HelloReceived(session, term, mismatch, discard)


def receive(play: Play, epoch: int, base: int, *, commit: bool = True) -> list[fx.Effect]:
    play(ev.EpochBegun(SESSION, play.machine.term, epoch, base), ev.PartReceived(SESSION, epoch, 0))
    effects = play(ev.EpochEnded(SESSION, epoch, 1, 100, digest_of(epoch), 7))
    return play(ev.EpochCommitted(epoch, digest_of(epoch))) if commit else effects


def make_whole(**settings: bool) -> Play:
    play = make_secondary(**settings)
    play(hello())
    receive(play, 1, 0)
    return play


def test_a_new_session_is_accepted_with_nothing_held():
    play = make_secondary()
    assert play(hello())[-1] == fx.Accept(SESSION, 0, b"")


def test_the_ack_follows_the_commit():
    play = make_secondary()
    play(hello())
    assert play(ev.EpochBegun(SESSION, 1, 1, 0)) == [fx.BeginStore(1, 1, SESSION, full=True)]
    assert play(ev.PartReceived(SESSION, 1, 0)) == [fx.StorePart(1, 0)]
    assert play(ev.EpochEnded(SESSION, 1, 1, 9, digest_of(1), 7)) == [fx.CommitEpoch(1, 1, 9, digest_of(1))]
    assert play(ev.EpochCommitted(1, digest_of(1))) == [
        fx.SendAck(SESSION, 1, digest_of(1)),
        fx.TrimInputs(7),
    ]


def test_an_epoch_with_another_base_is_refused():
    play = make_whole()
    effects = play(ev.EpochBegun(SESSION, 1, 3, 2))
    assert kinds(effects) == [fx.SendAbort]


def test_replayed_and_foreign_epochs_change_nothing():
    play = make_whole()
    assert kinds(play(ev.EpochBegun(SESSION, 1, 1, 1))) == [fx.SendAbort]
    assert play(ev.EpochBegun(OTHER, 1, 2, 1)) == []
    assert play(ev.PartReceived(SESSION, 1, 0)) == []
    assert play(ev.EpochEnded(SESSION, 1, 1, 9, digest_of(1), 7)) == []


def test_a_missing_part_gives_the_epoch_up():
    play = make_whole()
    play(ev.EpochBegun(SESSION, 1, 2, 1), ev.PartReceived(SESSION, 2, 0))
    assert kinds(play(ev.PartReceived(SESSION, 2, 2))) == [fx.AbortStore, fx.SendAbort]


def test_bulk_that_is_broken_gives_the_open_epoch_up():
    play = make_whole()
    play(ev.EpochBegun(SESSION, 1, 2, 1), ev.PartReceived(SESSION, 2, 0))
    assert play(ev.BulkBroken("why")) == [fx.AbortStore(), fx.SendAbort(SESSION, 2, "why")]
    assert play(ev.PartReceived(SESSION, 2, 1)) == []


def test_bulk_that_is_broken_between_two_epochs_is_told_all_the_same():
    """It may have been the next one's beginning, or its end."""
    play = make_whole()
    assert play(ev.BulkBroken("why")) == [fx.SendAbort(SESSION, 2, "why")]
    assert play(hello())[-1] == fx.Accept(SESSION, 1, digest_of(1))


def test_bulk_that_is_broken_before_any_greeting_concerns_nobody():
    assert make_secondary()(ev.BulkBroken("why")) == []


def test_the_same_session_is_told_what_is_held():
    play = make_whole()
    assert play(hello())[-1] == fx.Accept(SESSION, 1, digest_of(1))


def test_another_session_of_the_same_term_discards():
    play = make_whole()
    assert kinds(play(hello(OTHER))) == [fx.DiscardReplica, fx.CancelTimer, fx.Accept]
    assert play(ev.PeerSilent()) == [], "an empty replica asks for nothing"


def test_a_stranger_may_not_make_us_discard_a_promotable_replica():
    play = make_whole()
    assert play(hello(OTHER, term=2)) == [fx.Refuse("has-replica", play.machine._describe_replica())]
    assert fx.DiscardReplica in kinds(play(hello(OTHER, term=2, discard=True)))


def test_wrong_guest_and_stale_term_are_refused():
    play = make_secondary(holding=Holding(SESSION, 5, 3, digest_of(3)))
    assert play(hello(mismatch="RAM size differs"))[0] == fx.Refuse("wrong-guest", "RAM size differs")
    assert play(hello(term=4))[0].code == "stale-term"


def test_silence_asks_the_arbiter_and_the_grant_activates():
    play = make_whole()
    assert play(ev.PeerSilent()) == [fx.TakeOver(SESSION, 1, force=False)]
    assert kinds(play(ev.TakeOverPostponed("lease is live"))) == [fx.ArmTimer]
    assert play(ev.RetryDue()) == [fx.TakeOver(SESSION, 1, force=False)]
    assert play(ev.TakeOverGranted(2))[-1] == fx.ActivateGuest(1)
    play(ev.GuestActivated())
    assert play.machine.life is Life.PROMOTED
    assert play(hello(term=1))[0].code == "stale-term"


def test_silence_in_mid_epoch_throws_the_open_epoch_away():
    play = make_whole()
    play(ev.EpochBegun(SESSION, 1, 2, 1))
    assert play(ev.PeerSilent()) == [fx.AbortStore(), fx.TakeOver(SESSION, 1, force=False)]


def test_a_barred_replica_asks_again_when_the_primary_was_heard_meanwhile():
    """Found by the simulator: the primary came back for a moment, lifted the bar, and its guest died."""
    play = make_whole()
    play(ev.PeerSilent(), ev.TakeOverRefused("the primary went alone"), ev.PeerSpoke())
    assert play.machine.barred, "until the arbiter says otherwise"
    assert kinds(play(ev.PeerSilent())) == [fx.TakeOver]


def test_a_barred_replica_asks_no_more_until_a_new_epoch():
    play = make_whole()
    play(ev.PeerSilent(), ev.TakeOverRefused("the primary went alone"))
    assert play(ev.PeerSilent()) == []
    receive(play, 2, 1)
    assert kinds(play(ev.PeerSilent())) == [fx.TakeOver]


def test_a_primary_that_speaks_again_ends_the_asking():
    play = make_whole()
    play(ev.PeerSilent(), ev.TakeOverPostponed("lease is live"))
    assert play(ev.PeerSpoke()) == [fx.CancelTimer(fx.Timer.RETRY)]
    assert play(ev.RetryDue()) == []


def test_without_an_arbiter_only_the_operator_promotes():
    play = make_whole(has_arbiter=False)
    assert play(ev.PromoteOrdered(force=False)) == [], "the primary is alive"
    assert play(ev.PeerSilent()) == []
    assert play(ev.PromoteOrdered(force=False)) == [fx.TakeOver(SESSION, 1, force=True)]


def test_stood_down_never_promotes():
    play = make_whole()
    assert fx.DiscardReplica("stopped") in play(ev.StoodDown("stopped"))
    assert play(ev.PeerSilent()) == []
    assert play(ev.PromoteOrdered(force=True)) == []


def test_a_failed_commit_is_told_to_the_primary():
    play = make_whole()
    receive(play, 2, 1, commit=False)
    effects = play(ev.EpochFailed(2, "no space"))
    assert effects == [fx.AbortStore(), fx.SendAbort(SESSION, 2, "no space")]
    assert play.machine.committed == 1


# A hand-over of the primary.


def handed(play: Play, epoch: int = 1) -> list[fx.Effect]:
    return play(ev.HandOverReceived(SESSION, 1, epoch))


def test_what_is_handed_over_is_asked_for_at_once_though_the_primary_is_heard():
    play = make_whole()
    assert handed(play) == [fx.TakeOver(SESSION, 1, force=False)]
    assert play(ev.PeerSpoke()) == []
    play(ev.TakeOverPostponed("no answer"))
    assert play(ev.RetryDue()) == [fx.TakeOver(SESSION, 1, force=False)]
    assert fx.ActivateGuest(1) in play(ev.TakeOverGranted(2))
    assert play(ev.GuestActivated()) == [fx.AnswerHandOver(SESSION, 1, True, "")]


def test_without_an_arbiter_the_primarys_word_is_the_grant():
    assert handed(make_whole(has_arbiter=False)) == [fx.TakeOver(SESSION, 1, force=True)]


@pytest.mark.parametrize(
    ("event", "why"),
    [
        (ev.HandOverReceived(OTHER, 1, 1), "another session"),
        (ev.HandOverReceived(SESSION, 2, 1), "another session"),
        (ev.HandOverReceived(SESSION, 1, 2), "holds epoch 1, not epoch 2"),
    ],
)
def test_what_is_not_the_replica_here_is_not_taken(event, why):
    play = make_whole()
    (answer,) = play(event)
    assert isinstance(answer, fx.AnswerHandOver) and not answer.taken and why in answer.detail
    assert play.machine.life is Life.FOLLOWING


def test_who_stood_down_takes_nothing():
    play = make_whole()
    play(ev.StoodDown("stopped"))
    (answer,) = handed(play)
    assert not answer.taken


def test_a_refused_hand_over_is_answered():
    play = make_whole()
    handed(play)
    assert play(ev.TakeOverRefused("barred")) == [fx.AnswerHandOver(SESSION, 1, False, "barred")]


def test_a_primary_that_runs_again_ends_a_hand_over():
    play = make_whole()
    handed(play)
    assert play(ev.EpochBegun(SESSION, 1, 1, 0)) == [], "a late echo of the epoch that was handed over"
    assert play.machine.life is Life.ASKING
    effects = play(ev.EpochBegun(SESSION, 1, 2, 1))
    assert effects[0] == fx.CancelTimer(fx.Timer.RETRY) and kinds(effects)[-1] is fx.BeginStore
    handed(play)
    assert play(hello())[-1] == fx.Accept(SESSION, 1, digest_of(1))
    assert play(ev.RetryDue()) == []


def test_a_guest_that_cannot_start_is_handed_back():
    play = make_whole()
    handed(play)
    play(ev.TakeOverGranted(2))
    assert play(ev.ActivationFailed("no standby")) == [
        fx.HandBack(SESSION, 1),
        fx.AnswerHandOver(SESSION, 1, False, "no standby"),
        fx.EndFailed("no standby"),
    ]


def test_a_guest_that_may_have_run_is_not_handed_back():
    play = make_whole()
    handed(play)
    play(ev.TakeOverGranted(2))
    assert play(ev.ActivationFailed("no answer", may_have_run=True)) == [fx.EndFailed("no answer")]


def test_a_failed_take_over_after_a_death_has_nobody_to_hand_back_to():
    play = make_whole()
    play(ev.PeerSilent(), ev.TakeOverGranted(2))
    assert play(ev.ActivationFailed("no standby")) == [fx.EndFailed("no standby")]
