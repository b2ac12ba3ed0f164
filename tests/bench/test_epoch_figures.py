"""What journals say of epochs, synchronisations and deaths."""

from __future__ import annotations

import pytest

from replicator.bench.figures.epochs import read_epochs
from replicator.bench.figures.failovers import Death, describe_death
from replicator.bench.scale import find_full_epoch
from replicator.bench.sync import read_sync
from replicator.demo.timeline import Event
from replicator.errors import GuestError
from replicator.units import NS_PER_MS, NS_PER_S

MS = NS_PER_MS


def epoch(
    number: int, at_ms: float, *, pause_ms: float = 2, commit_ms: float = 3, pages: int = 100
) -> list[Event]:
    """The lines of one epoch whose pause begins at `at_ms`."""
    lines = [
        (0, "pausing", {}),
        (pause_ms / 2, "paused", {"dirty_pages": pages}),
        (pause_ms, "resumed", {}),
        (pause_ms + 1, "sealed", {"bytes": pages * 5000}),
        (pause_ms + 1 + commit_ms, "acked", {}),
    ]
    return [
        Event(round((at_ms + after_ms) * MS), "a", name, {"epoch": number, **fields})
        for after_ms, name, fields in lines
    ]


def test_epochs_of_a_window():
    events = [line for number in range(1, 11) for line in epoch(number, 100 * number, pause_ms=number)]
    metrics = read_epochs(events, 0, NS_PER_S * 2).to_metrics()
    assert metrics["epochs"] == 5
    assert metrics["pause p50"] == pytest.approx(5)
    assert metrics["pause max"] == pytest.approx(10)
    assert metrics["guest paused"] == pytest.approx(55 / 2000 * 100)
    assert metrics["commit p50"] == pytest.approx(3)
    assert metrics["dirty bytes"] == pytest.approx(10 * 100 * 4096 / 2 / 1e6)
    assert metrics["stream bytes"] == pytest.approx(10 * 100 * 5000 / 2 / 1e6)


def test_an_epoch_belongs_to_the_window_in_which_its_pause_began():
    events = [*epoch(1, 99), *epoch(2, 150), *epoch(3, 201)]
    found = read_epochs(events, 100 * MS, 200 * MS)
    assert len(found.pauses_ms) == 1
    assert found.dirty_pages == [100]


def test_an_epoch_that_was_not_acked_has_no_commit():
    found = read_epochs(epoch(1, 10)[:-1], 0, NS_PER_S)
    assert found.commits_ms == []
    assert found.to_metrics()["commit p99"] == 0


def test_no_epoch_no_metrics():
    assert read_epochs([], 0, NS_PER_S).to_metrics() == {}


def test_epochs_in_flight_together_keep_their_own_commits():
    first, second = epoch(1, 0, commit_ms=50), epoch(2, 20, commit_ms=40)
    events = sorted([*first, *second], key=lambda event: event.at_ns)
    assert read_epochs(events, 0, NS_PER_S).commits_ms == pytest.approx([50, 40])


def test_a_synchronisation_is_from_consent_to_ack():
    events = [
        *epoch(7, 10),
        Event(100 * MS, "a", "accepted", {}),
        Event(110 * MS, "a", "opened", {"epoch": 8}),
        *epoch(8, 300, pause_ms=4, commit_ms=15),
    ]
    assert read_sync(events, 50 * MS) == (pytest.approx(0.22), pytest.approx(4))


def test_a_journal_without_synchronisation_is_refused():
    with pytest.raises(GuestError, match="no synchronisation"):
        read_sync(epoch(1, 0), 0)


def test_the_epoch_of_all_pages_is_found_once_it_is_committed():
    events = [
        *epoch(1, 0, pages=1),
        *epoch(2, 50, pages=950, pause_ms=20, commit_ms=30),
        *epoch(3, 150, pages=50),
    ]
    assert find_full_epoch(events[:9], 0, 1000) is None
    found = find_full_epoch(events, 0, 1000)
    assert found is not None
    assert (found["pages in the epoch"], found["pause max"], found["commit max"]) == (950, 20, 30)
    assert found["throughput"] == pytest.approx(950 * 4096 / 50 / 1e3)


def test_a_death_has_its_moments():
    replies = tuple(ms * MS for ms in (0, 40, 95, 260, 261, 700))
    metrics = describe_death(Death(100 * MS, 180 * MS, 190 * MS, replies, (99 * MS, 205 * MS)))
    assert metrics == {
        "death to granted": 80, "granted to running": 10, "death to running": 90,
        "death to first echo": 105, "death to first answer": 160, "client gap": 165,
    }  # fmt: skip


def test_a_reply_that_was_on_its_way_is_no_answer_of_the_survivor():
    replies = tuple(ms * MS for ms in (95, 101, 300))
    metrics = describe_death(Death(100 * MS, 180 * MS, 190 * MS, replies, (99 * MS, 205 * MS)))
    assert metrics["death to first answer"] == 200
    assert metrics["client gap"] == 199


@pytest.mark.parametrize("replies", [(), (10,), (10, 20)])
def test_a_client_that_heard_nothing_afterwards_proves_nothing(replies):
    with pytest.raises(GuestError, match="before and after"):
        describe_death(Death(100, 180, 190, replies, (200,)))
