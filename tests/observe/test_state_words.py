"""The state word claims no more than there is."""

from __future__ import annotations

from playbook import connect, make_primary, protect

from replicator.engine import events as ev
from replicator.engine.secondary import Holding, SecondaryMachine
from replicator.observe.status import Progress, percentiles, word_for_primary, word_for_secondary


def word(play, done: int = 0) -> str:
    return word_for_primary(play.machine, Progress(done, 100), 24_000_000)


def test_words_of_a_primary_through_its_life():
    play = make_primary()
    assert word(play) == "unprotected"
    connect(play)
    assert word(play, 37) == "syncing 37 %"
    assert word(play, 100) == "syncing 99 %"
    play = make_primary()
    protect(play)
    assert word(play) == "protected lag 24 ms"
    play(ev.LinkLost("connection reset"))
    assert word(play) == "degraded: connection reset"
    play(ev.PeerSilent(), ev.AloneGranted())
    assert word(play) == "active-alone"
    play(ev.LeaseTaken("node b holds term 2"))
    assert word(play) == "fenced: node b holds term 2"


def test_protected_is_not_said_before_the_bar_is_lifted():
    play = make_primary()
    protect(play)
    play(ev.LinkLost("x"))
    play(ev.PeerSilent(), ev.AloneGranted())
    assert "protected" not in word(play)


def test_words_of_a_secondary():
    machine = SecondaryMachine(Holding())
    assert word_for_secondary(machine).startswith("standby, not promotable")
    machine = SecondaryMachine(Holding(b"s" * 16, 1, 9, b"d" * 16))
    assert word_for_secondary(machine) == "standby at epoch 9, the primary is silent"
    machine.handle(ev.PeerSpoke(), 0)
    assert word_for_secondary(machine) == "standby at epoch 9"
    machine.handle(ev.PeerSilent(), 0)
    machine.handle(ev.TakeOverRefused("the primary went alone"), 0)
    assert word_for_secondary(machine) == "standby, not promotable: the primary went alone"


def test_percentiles_of_nothing_and_of_one():
    assert percentiles([]).max == 0
    assert percentiles([3.0]).p99 == 3.0
    assert percentiles([float(n) for n in range(101)]).p50 == 50
