"""COLO at the primary: epochs that wait for the secondary's VM, checkpoints on demand, and the way back to Remus."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from playbook import Play, commit, connect, digest_of, kinds, live_copied, make_primary

from replicator.engine import effects as fx
from replicator.engine import events as ev
from replicator.engine.colo import RETRY_MAX_NS, WINDOW_NS, Colo, ColoSettings, ColoState
from replicator.engine.pipeline import Step
from replicator.engine.switchover import Phase
from replicator.errors import ConfigError
from replicator.units import NS_PER_MS, NS_PER_S

SETTINGS = ColoSettings()


def make_compared(**settings: float) -> Play:
    """Epoch 1 is committed, and both guests run on from it."""
    play = make_primary(colo=ColoSettings(**settings))
    connect(play)
    play(live_copied(1, 10))
    close(play, 1)
    commit(play, 1)
    play(ev.BarLifted(), ev.SecondaryVmResumed(play.machine.session, 1))
    assert play.machine.colo.compared_from == 1
    return play


def close(play: Play, epoch: int) -> list[fx.Effect]:
    """From the pause to what is sent; the guest is about to pause."""
    play(ev.GuestPaused(epoch, 10))
    return close_paused(play, epoch)


def close_paused(play: Play, epoch: int) -> list[fx.Effect]:
    if epoch > 1:
        play(ev.SecondaryVmSuspended(play.machine.session, epoch))
    play(ev.PagesCopied(epoch), ev.DeviceStateSaved(epoch))
    return play(ev.GuestResumed(epoch), ev.EpochSealed(epoch, digest_of(epoch)))


def ask(play: Play, epoch: int = 2, *, differs: bool = True) -> list[fx.Effect]:
    return play(ev.CheckpointAsked(epoch, differs))


def test_the_first_epoch_waits_for_no_vm_and_starts_one():
    play = make_primary(colo=SETTINGS)
    assert fx.OpenEpoch(1, 0, runs_vm=True) in connect(play)
    play(live_copied(1, 10))
    assert fx.CopyPages(1) in play(ev.GuestPaused(1, 10))


def test_output_is_compared_from_the_secondarys_word_on():
    play = make_primary(colo=SETTINGS)
    connect(play)
    play(live_copied(1, 10))
    close(play, 1)
    commit(play, 1)
    effects = play(ev.SecondaryVmResumed(play.machine.session, 1))
    assert effects[0] == fx.CompareOutput(1)
    assert effects[1].at_ns >= SETTINGS.interval_max_ns, "no checkpoint before it is asked for"


def save(play: Play, epoch: int) -> list[fx.Effect]:
    """From a guest that runs to the effects of its saved state."""
    play(ev.EpochDue(), ev.GuestPaused(epoch, 10), ev.SecondaryVmSuspended(play.machine.session, epoch))
    play(ev.PagesCopied(epoch))
    return play(ev.DeviceStateSaved(epoch))


def test_an_epoch_travels_while_the_guest_is_told_to_go_on():
    play = make_compared()
    assert kinds(save(play, 2)) == [fx.SendEpoch, fx.ResumeGuest, fx.ArmTimer]
    assert fx.SendEpoch not in kinds(play(ev.GuestResumed(2)))
    assert fx.ReleaseOutput(2) in commit(play, 2)


@pytest.mark.parametrize("is_denied", [False, True])
def test_a_twin_that_runs_first_is_compared_once_the_guest_runs(is_denied):
    play = make_compared()
    save(play, 2)
    if is_denied:
        play(ev.ResumeDenied(2))
    commit(play, 2)
    effects = play(ev.SecondaryVmResumed(play.machine.session, 2))
    assert effects == [fx.CancelTimer(fx.Timer.ACK)]
    assert fx.CompareOutput(2) in play(ev.GuestResumed(2))
    assert play.machine.colo.compared_from == 2


def test_an_epoch_that_travels_is_not_abandoned_with_its_link():
    play = make_compared()
    save(play, 2)
    effects = play(ev.LinkLost("gone"))
    assert fx.AbandonEpoch not in kinds(effects)
    play(ev.GuestResumed(2))
    assert not play.machine.pipeline.guest_paused
    assert fx.OweAgain in kinds(connect(play, 1, digest_of(1)))


@pytest.mark.parametrize("session, epoch", [(b"another", 1), (None, 2)])
def test_another_word_begins_nothing(session, epoch):
    play = make_primary(colo=SETTINGS)
    connect(play)
    play(live_copied(1, 10))
    close(play, 1)
    commit(play, 1)
    assert play(ev.SecondaryVmResumed(session or play.machine.session, epoch)) == []


def test_a_checkpoint_that_is_asked_for_comes_at_once():
    play = make_compared()
    armed = ask(play)
    assert kinds(armed) == [fx.ArmTimer]
    assert armed[0].at_ns <= play.now_ns + SETTINGS.interval_min_ns
    effects = play(ev.EpochDue())
    assert effects[:2] == [fx.SuspendSecondaryVm(play.machine.session, 2), fx.PauseGuest(2, hold=True)]


def test_what_is_asked_too_late_makes_no_second_checkpoint():
    play = make_compared()
    play(ev.EpochDue())
    assert ask(play) == []
    close(play, 2)
    commit(play, 2)
    play(ev.SecondaryVmResumed(play.machine.session, 2))
    assert ask(play, 2) == [], "of the epoch before"


def test_what_is_asked_before_the_vm_runs_is_not_forgotten():
    play = make_compared()
    ask(play)
    play(ev.EpochDue())
    close(play, 2)
    commit(play, 2)
    assert ask(play, 3) == [], "the VM could not stand still yet"
    effects = play(ev.SecondaryVmResumed(play.machine.session, 2))
    armed = [each for each in effects if isinstance(each, fx.ArmTimer)]
    assert armed[0].at_ns <= play.now_ns + SETTINGS.interval_min_ns


def test_the_comparison_lasts_from_one_checkpoint_to_the_next_and_ends_with_an_epoch_that_runs_no_vm():
    play = make_compared(differences_max=0.5)
    for epoch in (2, 3):
        ask(play, epoch)
        play(ev.EpochDue())
        effects = play(ev.GuestPaused(epoch, 10))
        assert (fx.StopComparing() in effects) == (epoch == 3)
        close_paused(play, epoch)
        commit(play, epoch)
        play(ev.SecondaryVmResumed(play.machine.session, epoch))


def test_a_pause_that_comes_to_nothing_ends_the_comparison():
    play = make_compared()
    play(ev.EpochDue())
    assert fx.StopComparing() in play(ev.GuestPaused(2, 60_000))


@pytest.mark.parametrize("vm_first", [False, True])
def test_no_page_is_copied_before_the_vm_stands_still(vm_first):
    play = make_compared()
    play(ev.EpochDue())
    suspended, paused = ev.SecondaryVmSuspended(play.machine.session, 2), ev.GuestPaused(2, 10)
    first, second = (suspended, paused) if vm_first else (paused, suspended)
    assert fx.CopyPages(2) not in play(first)
    assert fx.CopyPages(2) in play(second)


def test_a_copy_of_a_running_guest_waits_for_the_vm_too():
    play = make_compared()
    play(ev.EpochDue(), ev.GuestPaused(2, 60_000))
    effects = play(ev.GuestResumed(2))
    assert fx.SuspendSecondaryVm(play.machine.session, 3) in effects
    assert fx.CopyLive(3) not in effects
    assert play(ev.SecondaryVmSuspended(play.machine.session, 2)) == [], "that epoch was given up"
    assert play(ev.SecondaryVmSuspended(play.machine.session, 3))[0] == fx.CopyLive(3)


def test_no_guest_stands_still_while_the_secondarys_vm_is_loaded():
    play = make_compared()
    ask(play)
    play(ev.EpochDue())
    close(play, 2)
    armed = [each for each in commit(play, 2) if isinstance(each, fx.ArmTimer)]
    assert [each.timer for each in armed] == [fx.Timer.ACK]
    assert play(ev.EpochDue()) == [], "it could not stand still at once"
    effects = play(ev.SecondaryVmResumed(play.machine.session, 2))
    assert effects[0] == fx.CompareOutput(2)
    assert fx.CancelTimer(fx.Timer.ACK) in effects
    assert not any(isinstance(each, fx.PauseGuest) for each in effects), "what waited is compared now"


def test_a_vm_that_is_loaded_for_ever_is_a_lost_secondary():
    play = make_compared()
    play(ev.EpochDue())
    close(play, 2)
    commit(play, 2)
    assert fx.RequestAlone() in play(ev.AckOverdue())


def test_a_link_that_goes_while_the_guest_waits_lets_it_run():
    play = make_compared()
    play(ev.EpochDue(), ev.GuestPaused(2, 10))
    assert play.machine.pipeline.step is Step.JOINING
    effects = play(ev.LinkLost("cut"))
    assert fx.ResumeGuest(2) in effects
    assert fx.StopComparing() in effects


def test_a_vm_that_never_stands_still_is_a_lost_secondary():
    play = make_compared()
    armed = [each for each in play(ev.EpochDue()) if isinstance(each, fx.ArmTimer)]
    assert [each.timer for each in armed] == [fx.Timer.ACK]
    play(ev.GuestPaused(2, 10))
    effects = play(ev.AckOverdue())
    assert fx.ResumeGuest(2) in effects
    assert fx.RequestAlone() in effects


def test_a_resumed_session_joins_before_its_first_copy():
    play = make_compared()
    play(ev.LinkLost("cut"), ev.LinkUp())
    effects = play(ev.PeerAccepted(play.machine.session, 1, digest_of(1)))
    assert fx.SuspendSecondaryVm(play.machine.session, 2) in effects
    assert fx.CopyLive(2) not in effects
    assert fx.CopyLive(2) in play(ev.SecondaryVmSuspended(play.machine.session, 2))


def test_a_session_that_is_resumed_with_a_commit_waits_for_no_lost_word():
    """Found by the simulator: the ack and the word that the VM runs were lost with the link."""
    play = make_compared()
    play(ev.EpochDue())
    close(play, 2)
    play(ev.LinkLost("cut"), ev.LinkUp())
    effects = play(ev.PeerAccepted(play.machine.session, 2, digest_of(2)))
    assert fx.SuspendSecondaryVm(play.machine.session, 3) in effects


def test_a_word_that_comes_while_the_lease_has_lapsed_is_not_waited_for_again():
    play = make_compared()
    play(ev.EpochDue())
    close(play, 2)
    commit(play, 2)
    play(ev.LeaseLapsed("late"))
    effects = play(ev.SecondaryVmResumed(play.machine.session, 2))
    assert effects == [fx.CancelTimer(fx.Timer.ACK)], "nothing is compared while this side is mute"
    assert any(isinstance(each, fx.PauseGuest) for each in play(ev.LeaseRegained()))


def test_the_epoch_of_a_hand_over_runs_no_vm():
    play = make_compared()
    play(ev.SwitchoverOrdered(play.machine.pipeline.settings.sync))
    assert play.machine.pipeline.hurries
    assert fx.OpenEpoch(2, 1, runs_vm=False) in play(ev.GuestPaused(2, 10))


@pytest.mark.parametrize("word_first", [False, True])
def test_a_move_is_decided_on_in_the_first_pause_after_which_the_vm_did_not_run(word_first):
    """Its own pages would come on top. The word that it has none may be longer on its way than our guest takes to stand
    still: if the move had to wait for one that comes first, it would never end."""
    play = make_compared()
    play(ev.SwitchoverOrdered(play.machine.pipeline.settings.sync), ev.GuestPaused(2, 10))
    assert play.machine.move.phase is Phase.SHRINKING
    close_paused(play, 2)
    commit(play, 2)
    suspended, paused = ev.SecondaryVmSuspended(play.machine.session, 3), ev.GuestPaused(3, 10)
    for event in (suspended, paused) if word_first else (paused, suspended):
        play(event)
    assert play.machine.move.phase is Phase.CLOSING
    assert play(ev.PagesCopied(3)) == [fx.SaveDeviceState(3, runs_on=False)]
    assert fx.SendEpoch(3) in play(ev.DeviceStateSaved(3))
    assert play.machine.pipeline.step is Step.STANDING


def test_one_epoch_is_in_flight():
    play = make_compared()
    ask(play)
    play(ev.EpochDue())
    close(play, 2)
    assert play(ev.EpochDue()) == []


# The way to Remus's pace and back.


def differ(colo: Colo, times: int, now_ns: int) -> None:
    for _ in range(times):
        colo.differed(now_ns)


def test_too_many_differences_end_the_comparing_for_a_while():
    colo = Colo(ColoSettings(differences_max=5, retry_ns=NS_PER_S))
    differ(colo, 10, 0)
    assert colo.runs_vm(0), "five a second are allowed"
    differ(colo, 1, 0)
    assert not colo.runs_vm(1)
    assert colo.state is ColoState.PACED
    assert not colo.runs_vm(NS_PER_S)
    assert colo.runs_vm(2 * NS_PER_S + 1), "a failure at the very start waits twice as long"


def test_it_waits_longer_each_time_within_bounds():
    colo = Colo(ColoSettings(differences_max=1, retry_ns=NS_PER_S))
    now_ns, waited = 0, []
    for _ in range(9):
        differ(colo, 9, now_ns)
        assert not colo.runs_vm(now_ns)
        began_ns = now_ns
        while not colo.runs_vm(now_ns):
            now_ns += NS_PER_S // 2
        waited.append(now_ns - began_ns)
    assert waited == sorted(waited)
    assert waited[-1] == RETRY_MAX_NS
    now_ns += RETRY_MAX_NS
    differ(colo, 9, now_ns)
    assert not colo.runs_vm(now_ns)
    assert colo.runs_vm(now_ns + NS_PER_S), "what has worked for long is tried again soon"


@given(st.lists(st.integers(0, NS_PER_S), max_size=60))
def test_the_rate_is_that_of_the_window(gaps_ns):
    colo, times, now_ns = Colo(SETTINGS), [], 0
    for gap_ns in gaps_ns:
        now_ns += gap_ns
        times.append(now_ns)
        colo.differed(now_ns)
    expected = sum(now_ns - at <= WINDOW_NS for at in times) * NS_PER_S / WINDOW_NS
    assert colo.rate(now_ns) == expected


@pytest.mark.parametrize(
    "bounds",
    [
        {"interval_min_ns": 2 * NS_PER_S, "interval_max_ns": NS_PER_S},
        {"interval_min_ns": -NS_PER_MS},
        {"interval_max_ns": 0, "interval_min_ns": 0},
        {"differences_max": -1.0},
        {"retry_ns": 0},
    ],
)
def test_bounds_that_contradict_each_other_are_refused(bounds):
    with pytest.raises(ConfigError) as caught:
        ColoSettings(**bounds)
    assert caught.value.hint
