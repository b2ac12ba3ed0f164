"""The pipeline within the primary machine: pace, early copies, pauses that find too much, copies that are given up."""

from __future__ import annotations

import pytest
from playbook import (
    INTERVAL_NS,
    Play,
    checkpoint,
    commit,
    connect,
    digest_of,
    kinds,
    live_copied,
    make_primary,
    protect,
)

from replicator.engine import effects as fx
from replicator.engine import events as ev
from replicator.engine.pacing import QUIET_NS, Goal, Mode, PacingSettings
from replicator.engine.pipeline import Step
from replicator.engine.precopy import DowntimePolicy, OnBusy
from replicator.engine.primary import Bar, Link
from replicator.observe.status import Progress, word_for_primary
from replicator.units import NS_PER_MS, NS_PER_S

ADAPTIVE = PacingSettings(
    INTERVAL_NS, Mode.ADAPTIVE, NS_PER_MS, 100 * NS_PER_MS, Goal(latency_ns=10 * NS_PER_MS)
)
ABORTING = DowntimePolicy(100 * NS_PER_MS, on_busy=OnBusy.ABORT)
BUSY = (live_copied(1, 60_000, 60_000),) * 3


def timer_of(effects: list[fx.Effect], timer: fx.Timer = fx.Timer.EPOCH) -> int | None:
    """When it was armed for, None when it was not."""
    return next((e.at_ns for e in effects if isinstance(e, fx.ArmTimer) and e.timer is timer), None)


def spend(play: Play, span_ns: int) -> None:
    play.now_ns += span_ns


# Pace.


def test_output_that_waits_brings_the_next_epoch_forward() -> None:
    play = make_primary(pacing=ADAPTIVE)
    protect(play)
    spend(play, 20 * NS_PER_MS)
    effects = play(ev.OutputWaits())
    due_ns = timer_of(effects)
    assert due_ns is not None and play.now_ns < due_ns <= play.now_ns + 10 * NS_PER_MS
    assert fx.WatchIdle(0) in effects
    assert play(ev.OutputWaits()) == [], "once an epoch"


def test_a_guest_that_has_nothing_to_do_while_output_waits_is_paused() -> None:
    play = make_primary(pacing=ADAPTIVE)
    protect(play)
    spend(play, 20 * NS_PER_MS)
    assert play(ev.GuestIdle()) == [], "nobody waits for it"
    play(ev.OutputWaits())
    assert play(ev.GuestIdle()) == [fx.PauseGuest(2, hold=True)]
    assert play(ev.GuestIdle()) == []


def test_a_guest_that_was_frozen_is_idle_and_no_epoch_is_made_of_it() -> None:
    play = make_primary(pacing=ADAPTIVE)
    protect(play)
    spend(play, 20 * NS_PER_MS)
    play(ev.OutputWaits(), ev.LeaseLapsed("the arbiter does not answer"))
    assert play(ev.GuestIdle()) == []


def test_an_idle_guest_is_not_paused_before_it_has_run_for_its_part() -> None:
    play = make_primary(pacing=ADAPTIVE)
    protect(play)
    play(ev.OutputWaits())
    earliest_ns = play.machine.pipeline.pacer.earliest_ns()
    play.now_ns = earliest_ns - NS_PER_MS
    assert play(ev.GuestIdle()) == [fx.ArmTimer(fx.Timer.EPOCH, earliest_ns)]


def test_an_idle_guest_of_many_clients_waits_for_those_whose_output_is_in_flight() -> None:
    play = make_primary(pacing=ADAPTIVE)
    protect(play)
    for epoch in range(2, 12):
        play(ev.EpochDue())
        checkpoint(play, epoch, held_frames=50)
        commit(play, epoch)
    spend(play, 20 * NS_PER_MS)
    play(ev.EpochDue())
    checkpoint(play, 12, held_frames=50)
    spend(play, 20 * NS_PER_MS)
    play(ev.OutputWaits())
    assert play(ev.GuestIdle()) == []
    assert fx.WatchIdle(QUIET_NS) in commit(play, 12), "they may have more to ask for"
    assert fx.PauseGuest(13, hold=True) in play(ev.GuestIdle())


def test_a_fixed_interval_is_not_moved_by_output() -> None:
    play = make_primary()
    protect(play)
    effects = play(ev.OutputWaits())
    due_ns = timer_of(effects)
    assert due_ns is not None and due_ns > play.now_ns + INTERVAL_NS // 2
    assert kinds(effects) == [fx.ArmTimer]


def test_output_of_the_closing_epoch_does_not_hurry_the_next_one() -> None:
    play = make_primary(pacing=ADAPTIVE)
    protect(play)
    play(ev.OutputWaits(), ev.EpochDue(), ev.OutputWaits(), ev.GuestPaused(2, 5, 1), ev.OutputWaits())
    play(ev.PagesCopied(2), ev.DeviceStateSaved(2))
    due_ns = timer_of(play(ev.GuestResumed(2)))
    assert due_ns is not None and due_ns > play.now_ns + 90 * NS_PER_MS


def test_output_that_waits_before_the_resume_is_reported_counts() -> None:
    play = make_primary(pacing=ADAPTIVE)
    protect(play)
    play(ev.EpochDue(), ev.GuestPaused(2, 5, 1), ev.PagesCopied(2), ev.DeviceStateSaved(2), ev.OutputWaits())
    due_ns = timer_of(play(ev.GuestResumed(2)))
    assert due_ns is not None and due_ns < play.now_ns + 10 * NS_PER_MS


def test_four_epochs_may_be_in_flight_and_acks_settle_them_by_number() -> None:
    play = make_primary(pipeline={"in_flight_max": 4})
    protect(play)
    for epoch in range(2, 6):
        assert play(ev.EpochDue()) == [fx.PauseGuest(epoch, hold=True)]
        checkpoint(play, epoch)
        play(ev.EpochSealed(epoch, digest_of(epoch)))
    assert play(ev.EpochDue()) == []
    effects = play(ev.EpochAcked(play.machine.session, 4, digest_of(4)))
    assert effects[:2] == [fx.ReleaseOutput(4), fx.SettleOwed(4)]
    assert fx.PauseGuest(6, hold=True) in effects
    assert play.machine.pipeline.in_flight == [5]


def test_the_next_epoch_closes_while_the_last_is_on_its_way() -> None:
    play = make_primary()
    protect(play)
    play(ev.EpochDue())
    checkpoint(play, 2)
    assert play(ev.EpochDue()) == [fx.PauseGuest(3, hold=True)]
    assert fx.OpenEpoch(3, 2) in play(ev.GuestPaused(3, 9)), "a delta to one that is not acked yet"


def test_waiting_for_epochs_in_flight_is_measured() -> None:
    play = make_primary(pipeline={"in_flight_max": 1})
    protect(play)
    play(ev.EpochDue())
    for epoch in range(2, 12):
        checkpoint(play, epoch)
        play(ev.EpochDue())
        spend(play, 20 * NS_PER_MS)
        commit(play, epoch)
    throttle = play.machine.pipeline.pacer.throttle()
    assert throttle.waiting_share > 0.9 and "in flight" in throttle.reason


def test_tuning_changes_the_pace_at_once() -> None:
    play = make_primary()
    protect(play)
    effects = play(ev.TuneOrdered(pacing=PacingSettings(8 * NS_PER_MS)))
    assert kinds(effects) == [fx.ArmTimer]
    due_ns = timer_of(effects)
    assert due_ns is not None and due_ns < play.now_ns + 9 * NS_PER_MS
    assert play.machine.pipeline.settings.pacing.interval_ns == 8 * NS_PER_MS


def test_tuning_in_a_pause_counts_from_the_resume_on() -> None:
    play = make_primary()
    protect(play)
    play(ev.EpochDue())
    assert play(ev.TuneOrdered(pacing=PacingSettings(8 * NS_PER_MS))) == []
    due_ns = timer_of(checkpoint(play, 2))
    assert due_ns is not None and due_ns < play.now_ns + 9 * NS_PER_MS


# Early copies.


def make_large_epochs(dirty: int = 300) -> Play:
    """Protected; the last epochs were large enough for an early copy."""
    play = make_primary(pipeline={"early_pages": 200})
    protect(play)
    for epoch in range(2, 5):
        play(ev.EpochDue())
        checkpoint(play, epoch, dirty=dirty)
        commit(play, epoch)
    return play


def test_a_large_epoch_is_copied_in_part_before_its_pause() -> None:
    play = make_large_epochs()
    assert play(ev.EarlyDue()) == [fx.OpenEpoch(5, 4), fx.CopyEarly(5)]
    assert play(ev.EarlyCopied(5, 200)) == []
    assert play(ev.EpochDue()) == [fx.PauseGuest(5, hold=True, pages_max=4096)]
    assert play(ev.GuestPaused(5, 100)) == [fx.CopyPages(5)], "it is open already"
    play(ev.PagesCopied(5), ev.DeviceStateSaved(5))
    effects = play(ev.GuestResumed(5))
    assert effects[0] == fx.SendEpoch(5)
    early_ns, due_ns = timer_of(effects, fx.Timer.EARLY), timer_of(effects)
    assert early_ns is not None and due_ns is not None and early_ns < due_ns


def test_small_epochs_are_not_copied_early() -> None:
    play = make_large_epochs(dirty=100)
    assert play(ev.EarlyDue()) == []


def test_a_pause_that_is_due_waits_for_the_early_copy() -> None:
    play = make_large_epochs()
    play(ev.EarlyDue())
    assert play(ev.EpochDue()) == []
    assert kinds(play(ev.EarlyCopied(5, 200))) == [fx.PauseGuest]


def test_too_much_after_an_early_copy_is_copied_live_in_the_same_epoch() -> None:
    play = make_large_epochs()
    play(ev.EarlyDue(), ev.EarlyCopied(5, 200), ev.EpochDue())
    assert play(ev.PauseOverrun(5, 60_000)) == [fx.ResumeGuest(5)]
    assert play(ev.GuestResumed(5)) == [fx.CopyLive(5)]
    assert kinds(play(live_copied(5, 60_000, 10))) == [fx.PauseGuest]


@pytest.mark.parametrize("copied", [False, True])
def test_an_early_copy_is_abandoned_with_its_link(copied: bool) -> None:
    play = make_large_epochs()
    play(ev.EarlyDue())
    if copied:
        play(ev.EarlyCopied(5, 200))
    assert fx.AbandonEpoch(5) in play(ev.LinkLost("cut"))
    assert play(ev.EarlyCopied(5, 200)) == [], "whoever was copying reports late"
    assert fx.OpenEpoch(6, 4) in connect(play, 4, digest_of(4))


# Pauses that find too much, and busy guests.


def test_a_pause_that_finds_more_than_forecast_is_given_up_without_a_barrier() -> None:
    play = make_primary()
    connect(play)
    play(live_copied(1, 60_000, 100))
    assert play(ev.PauseOverrun(1, 50_000)) == [fx.ResumeGuest(1)]
    assert play.machine.passing, "nothing is held before the barrier"
    assert play(ev.GuestResumed(1)) == [fx.CopyLive(1)]
    play(live_copied(1, 50_000, 10))
    assert play(ev.GuestPaused(1, 20)) == [fx.CopyPages(1)]


def test_a_link_that_is_lost_while_a_pause_is_given_up() -> None:
    play = make_primary()
    connect(play)
    play(live_copied(1, 60_000, 100), ev.LinkLost("cut"))
    assert play(ev.PauseOverrun(1, 50_000)) == [fx.ResumeGuest(1)]
    assert play(ev.GuestResumed(1)) == []
    assert play.machine.pipeline.step is Step.IDLE


def test_a_busy_guest_is_left_alone_and_told_until_the_operator_orders_otherwise() -> None:
    play = make_primary(pipeline={"sync": ABORTING})
    connect(play)
    effects = play(*BUSY)
    assert effects[:2] == [fx.CancelTimer(fx.Timer.EPOCH), fx.AbandonEpoch(1)]
    assert effects[-1] == fx.Reconnect()
    assert play.machine.passing and play.machine.link is Link.DOWN
    word = word_for_primary(play.machine, Progress(), 0)
    assert word.startswith("unprotected: the VM is too active") and "max_downtime" in word
    assert play(ev.LinkUp()) == [], "nobody is greeted"
    assert play(ev.TuneOrdered(pacing=PacingSettings(8 * NS_PER_MS))) == [], "which would not help"
    assert play(ev.TuneOrdered(sync=DowntimePolicy(NS_PER_S))) == [fx.Reconnect()]
    assert connect(play)[-1] == fx.CopyLive(2)
    assert kinds(play(live_copied(2, 60_000, 60_000))) == [fx.PauseGuest]


def test_a_retry_starts_anew_under_the_same_policy() -> None:
    play = make_primary(pipeline={"sync": ABORTING})
    connect(play)
    play(*BUSY)
    assert play(ev.TuneOrdered(retry=True)) == [fx.Reconnect()]
    connect(play)
    assert play.machine.pipeline.gave_up == ""


def test_a_busy_guest_whose_replica_could_be_promoted_asks_to_go_alone_first() -> None:
    play = make_primary(pipeline={"sync": ABORTING})
    protect(play)
    play(ev.LinkLost("cut"))
    connect(play, 1, digest_of(1))
    effects = play(*(live_copied(2, 60_000, 60_000),) * 3)
    assert fx.RequestAlone() in effects and fx.PassOutput() not in effects
    assert not play.machine.passing and play.machine.bar is Bar.BARRING
    assert fx.PassOutput() in play(ev.AloneGranted())
    assert word_for_primary(play.machine, Progress(), 0).startswith("active-alone: the VM is too active")


def test_a_pause_may_be_what_shows_that_the_guest_is_too_busy() -> None:
    play = make_primary(pipeline={"sync": ABORTING})
    connect(play)
    for _ in range(2):
        play(live_copied(1, 60_000, 100), ev.PauseOverrun(1, 90_000), ev.GuestResumed(1))
    play(live_copied(1, 60_000, 100))
    effects = play(ev.PauseOverrun(1, 90_000))
    assert fx.AbandonEpoch(1) in effects and fx.ResumeGuest(1) in effects and effects[-1] == fx.Reconnect()
    assert play(ev.GuestResumed(1)) == []
    assert "3 pauses found more" in play.machine.pipeline.gave_up


def test_a_protected_guest_with_a_large_epoch_is_completed_whatever_the_policy() -> None:
    play = make_primary(pipeline={"sync": ABORTING})
    protect(play)
    play(ev.EpochDue(), ev.GuestPaused(2, 60_000), ev.GuestResumed(2))
    effects = play(*(live_copied(3, 60_000, 60_000),) * 3)
    assert effects == [fx.PauseGuest(3, hold=True)]


def test_figures_of_the_newest_copy_are_kept() -> None:
    play = make_primary()
    protect(play)
    report = play.machine.pipeline.precopy
    assert report is not None and report.passes == 1 and report.copied_pages == 100
