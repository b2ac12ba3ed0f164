"""COLO's VM at the secondary: when it stands still, what it makes of the replica, and who takes the guest over."""

from __future__ import annotations

import pytest
from playbook import Play, digest_of, kinds
from test_secondary import OTHER, SESSION, hello, make_secondary

from replicator.engine import effects as fx
from replicator.engine import events as ev
from replicator.engine.secondary import Life
from replicator.engine.secondary_vm import Vm


def receive(play: Play, epoch: int, base: int, *, runs_vm: bool = True) -> list[fx.Effect]:
    play(ev.EpochBegun(SESSION, 1, epoch, base, runs_vm), ev.PartReceived(SESSION, epoch, 0))
    play(ev.EpochEnded(SESSION, epoch, 1, 100, digest_of(epoch), 7))
    return play(ev.EpochCommitted(epoch, digest_of(epoch)))


def make_running() -> Play:
    play = make_secondary()
    play(hello())
    receive(play, 1, 0)
    play(ev.VmLoaded(), ev.VmResumed())
    assert play.machine.vm.state is Vm.RUNNING
    return play


def test_after_the_commit_it_is_loaded_then_run_and_each_state_is_told():
    play = make_secondary()
    play(hello())
    assert kinds(receive(play, 1, 0)) == [fx.SendAck, fx.TrimInputs, fx.LoadVm]
    assert play(ev.VmLoaded()) == [fx.RunVm(1), fx.TellVmState(SESSION, 1, runs=False)]
    assert play(ev.VmResumed()) == [fx.TellVmState(SESSION, 1, runs=True)]


def test_an_epoch_that_is_not_compared_runs_no_vm():
    play = make_secondary()
    play(hello())
    assert kinds(receive(play, 1, 0, runs_vm=False)) == [fx.SendAck, fx.TrimInputs]
    assert play.machine.vm.state is Vm.NONE


def test_it_stands_still_before_anything_is_written_into_its_ram():
    play = make_running()
    effects = play(ev.EpochBegun(SESSION, 1, 2, 1, True))
    assert kinds(effects) == [fx.SuspendVm, fx.BeginStore]
    assert play(ev.SuspendOrdered(SESSION, 2)) == [fx.TellVmSuspended(SESSION, 2)]


def test_what_it_wrote_is_told_for_each_epoch_that_is_asked_for():
    play = make_running()
    assert play(ev.SuspendOrdered(SESSION, 2)) == [fx.SuspendVm(), fx.TellVmSuspended(SESSION, 2)]
    assert play(ev.SuspendOrdered(SESSION, 3)) == [fx.TellVmSuspended(SESSION, 3)], "epoch 2 was given up"


@pytest.mark.parametrize("session, epoch", [(OTHER, 2), (SESSION, 1)])
def test_a_stale_order_does_not_stop_it(session, epoch):
    play = make_running()
    assert play(ev.SuspendOrdered(session, epoch)) == []
    assert play.machine.vm.state is Vm.RUNNING


def test_running_it_takes_over_as_it_is():
    play = make_running()
    play(ev.PeerSilent())
    assert play(ev.TakeOverGranted(2))[-1] == fx.ActivateVm(1)
    assert play.machine.life is Life.PROMOTING


def test_suspended_in_an_epoch_that_never_came_it_takes_over_too():
    play = make_running()
    play(ev.SuspendOrdered(SESSION, 2), ev.EpochBegun(SESSION, 1, 2, 1, True), ev.PeerSilent())
    assert kinds(play(ev.TakeOverGranted(2))) == [fx.CancelTimer, fx.ActivateVm]


def test_parked_its_ram_is_an_epoch_that_the_standby_takes_over():
    play = make_running()
    play(ev.SuspendOrdered(SESSION, 2))
    receive(play, 2, 1, runs_vm=False)
    assert play.machine.vm.state is Vm.PARKED
    play(ev.PeerSilent())
    assert kinds(play(ev.TakeOverGranted(2))) == [fx.CancelTimer, fx.EndVm, fx.ActivateGuest]


def test_its_death_takes_its_replica_along_and_the_primary_is_told():
    play = make_running()
    effects = play(ev.VmFailed("QEMU was killed by signal 9"))
    assert kinds(effects) == [fx.EndVm, fx.DiscardReplica, fx.SendAbort]
    assert not play.machine.committed
    assert play(ev.PeerSilent()) == [], "nothing is left to be promoted"


def test_that_its_replica_is_lost_is_told_with_each_beat_until_the_primary_greets():
    play = make_running()
    told = play(ev.VmFailed("QEMU was killed by signal 9"))[-1]
    assert told == fx.SendAbort(SESSION, 2, "QEMU was killed by signal 9")
    assert play(ev.PeerSpoke()) == [told], "the first one may be lost"
    assert play(ev.PeerSpoke()) == [told]
    play(hello())
    assert play(ev.PeerSpoke()) == []


def test_a_primary_that_was_silent_meanwhile_hears_of_the_loss_too():
    play = make_running()
    play(ev.PeerSilent())
    told = play(ev.VmFailed("killed"))[-1]
    assert play(ev.PeerSpoke()) == [fx.CancelTimer(fx.Timer.RETRY), told]


def test_who_stood_down_has_no_loss_to_tell():
    play = make_running()
    play(ev.VmFailed("killed"), ev.StoodDown("why"))
    assert play(ev.PeerSpoke()) == []


def test_the_death_of_a_parked_one_costs_nothing():
    play = make_running()
    play(ev.SuspendOrdered(SESSION, 2))
    receive(play, 2, 1, runs_vm=False)
    assert play(ev.VmFailed("killed")) == [fx.EndVm()]
    assert play.machine.committed == 2


def test_a_new_session_ends_it():
    play = make_running()
    assert fx.EndVm() in play(hello(OTHER))
    assert play.machine.vm.state is Vm.NONE


def test_the_same_session_again_finds_it_as_it_was():
    play = make_running()
    play(ev.LinkLost("cut"))
    assert play(hello())[-1] == fx.Accept(SESSION, 1, digest_of(1))
    assert play.machine.vm.state is Vm.RUNNING
