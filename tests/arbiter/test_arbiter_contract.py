"""What every arbiter promises, against the memory, file and etcd adapters."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from arbiter_tools import Bench, new_guest, wait_until

from replicator.arbiter.base import Lease, Replica, TakeOverRefused, boottime_ns
from replicator.arbiter.stored import StoredArbiter
from replicator.errors import ArbiterError, ConfigError, LeaseLost
from replicator.units import NS_PER_MS


def protect(bench: Bench, *, epoch: int = 1) -> tuple[StoredArbiter, Lease]:
    """A holds term 1, B has the replica that may be promoted."""
    arbiter = bench.open()
    lease = arbiter.acquire("a")
    arbiter.lift_bar(lease, "b", "session-1", epoch=epoch)
    return arbiter, lease


def test_an_unknown_guest_has_no_record(bench: Bench) -> None:
    assert bench.open().read() is None


def test_a_fresh_primary_starts_a_barred_term(bench: Bench) -> None:
    lease = bench.open().acquire("a")
    assert (lease.term, lease.holder, lease.is_live()) == (1, "a", True)
    record = bench.open().read()
    assert record is not None
    assert (record.guest, record.term, record.holder) == (bench.guest, 1, "a")
    assert (record.barred, record.replica, record.live) == (True, None, True)


def test_the_deadline_counts_from_before_the_request_less_the_margin(bench: Bench) -> None:
    arbiter = bench.open()
    length_ns = (bench.ttl_ms - bench.margin_ms) * NS_PER_MS
    before = boottime_ns()
    lease = arbiter.acquire("a")
    assert before + length_ns <= lease.deadline_boottime_ns < boottime_ns() + length_ns
    before = boottime_ns()
    renewed = arbiter.renew(lease)
    assert before + length_ns <= renewed.deadline_boottime_ns < boottime_ns() + length_ns
    assert (renewed.term, renewed.holder) == (lease.term, lease.holder)


@pytest.mark.parametrize("node", ["a", "b"])
def test_a_live_lease_is_never_taken(bench: Bench, node: str) -> None:
    protect(bench)
    other = bench.open()
    calls: list[Callable[[], Lease]] = [
        lambda: other.acquire(node, discard_replica=True),
        lambda: other.force_take_over(node),
    ]
    for call in calls:
        with pytest.raises(LeaseLost, match="a holds term 1 with a live lease"):
            call()
    with pytest.raises(LeaseLost, match="a holds term 1 with a live lease"):
        other.take_over("b", 1, 1)


def test_nobody_gets_in_before_the_holder_fell_silent(bench: Bench) -> None:
    arbiter, lease = protect(bench)
    lease = arbiter.renew(lease)
    granted: list[Lease] = []

    def is_granted() -> bool:
        try:
            granted.append(arbiter.take_over("b", 1, 1))
        except LeaseLost:
            return False
        return True

    wait_until(is_granted)
    assert boottime_ns() >= lease.deadline_boottime_ns + bench.margin_ms * NS_PER_MS
    assert not lease.is_live()
    assert granted[0].is_live()


def test_a_lapsed_lease_cannot_be_renewed_but_acquired_again(bench: Bench) -> None:
    arbiter, lease = protect(bench)
    bench.expire(lease)
    with pytest.raises(LeaseLost, match="ran out"):
        arbiter.renew(lease)
    again = arbiter.acquire("a", term=1)
    assert (again.term, again.is_live()) == (1, True)
    record = arbiter.read()
    assert record is not None
    assert (record.barred, record.replica, record.live) == (False, Replica("b", "session-1", 1), True)
    assert arbiter.renew(again).is_live()


def test_the_replica_takes_over_into_a_barred_term(bench: Bench) -> None:
    _, lease = protect(bench)
    bench.expire(lease)
    taken = bench.open().take_over("b", 1, 7, replica_session="session-1")
    assert (taken.term, taken.holder, taken.is_live()) == (2, "b", True)
    record = bench.open().read()
    assert record is not None
    assert (record.term, record.holder, record.barred, record.replica) == (2, "b", True, None)


def test_who_was_replaced_can_do_nothing_any_more(bench: Bench) -> None:
    arbiter, lease = protect(bench)
    bench.expire(lease)
    bench.open().take_over("b", 1, 1)
    before = arbiter.read()
    calls: list[Callable[[], object]] = [
        lambda: arbiter.renew(lease),
        lambda: arbiter.acquire("a", term=1),
        lambda: arbiter.go_alone(lease),
        lambda: arbiter.lift_bar(lease, "b", "session-1"),
    ]
    for call in calls:
        with pytest.raises(LeaseLost):
            call()
    arbiter.release(lease)
    arbiter.release(lease, hand_over=True)
    assert arbiter.read() == before


def test_a_barred_replica_is_refused_whether_the_lease_lives_or_not(bench: Bench) -> None:
    arbiter = bench.open()
    lease = arbiter.acquire("a")
    with pytest.raises(TakeOverRefused, match="barred"):
        arbiter.take_over("b", 1, 1)
    bench.expire(lease)
    with pytest.raises(TakeOverRefused, match="barred"):
        arbiter.take_over("b", 1, 1)


def test_a_take_over_of_nothing_is_refused(bench: Bench) -> None:
    with pytest.raises(TakeOverRefused, match="knows nothing"):
        bench.open().take_over("b", 1, 1)


@pytest.mark.parametrize(
    ("node", "term", "epoch", "session"),
    [("c", 1, 5, None), ("b", 2, 5, None), ("b", 0, 5, None), ("b", 1, 4, None), ("b", 1, 5, "session-0")],
)
@pytest.mark.parametrize("live", [True, False])
def test_another_copy_than_the_recorded_replica_is_refused(
    bench: Bench, node: str, term: int, epoch: int, session: str | None, live: bool
) -> None:
    arbiter, lease = protect(bench, epoch=5)
    if not live:
        bench.expire(lease)
    with pytest.raises(TakeOverRefused):
        arbiter.take_over(node, term, epoch, replica_session=session)


@pytest.mark.parametrize("lapsed", [False, True])
def test_who_goes_alone_bars_the_replica_until_the_bar_is_lifted(bench: Bench, lapsed: bool) -> None:
    arbiter, lease = protect(bench)
    if lapsed:
        bench.expire(lease)
    arbiter.go_alone(lease)
    arbiter.go_alone(lease)
    if not lapsed:
        bench.expire(lease)
    with pytest.raises(TakeOverRefused, match="barred"):
        bench.open().take_over("b", 1, 9)
    lease = bench.open().acquire("a", term=1)
    with pytest.raises(TakeOverRefused, match="barred"):
        bench.open().take_over("b", 1, 9)
    arbiter.lift_bar(lease, "b", "session-2", epoch=10)
    bench.expire(lease)
    assert bench.open().take_over("b", 1, 10, replica_session="session-2").term == 2


def test_the_holder_is_not_its_own_replica(bench: Bench) -> None:
    arbiter = bench.open()
    lease = arbiter.acquire("a")
    with pytest.raises(ArbiterError, match="own replica"):
        arbiter.lift_bar(lease, "a", "session-1")
    record = arbiter.read()
    assert record is not None and record.barred


def test_who_stands_down_takes_the_replica_along(bench: Bench) -> None:
    arbiter, lease = protect(bench)
    arbiter.release(lease)
    record = arbiter.read()
    assert record is not None
    assert (record.term, record.holder, record.barred, record.live) == (1, "", True, False)
    with pytest.raises(TakeOverRefused):
        bench.open().take_over("b", 1, 9)
    with pytest.raises(LeaseLost):
        arbiter.acquire("a", term=1)
    with pytest.raises(LeaseLost):
        arbiter.renew(lease)
    arbiter.release(lease)
    assert bench.open().acquire("b").term == 2


def test_who_hands_over_lets_the_replica_in_at_once(bench: Bench) -> None:
    arbiter, lease = protect(bench)
    arbiter.release(lease, hand_over=True)
    with pytest.raises(LeaseLost):
        arbiter.acquire("a", term=1)
    with pytest.raises(LeaseLost):
        arbiter.renew(lease)
    assert bench.open().take_over("b", 1, 1).term == 2


def test_handing_over_a_barred_replica_lets_nobody_in(bench: Bench) -> None:
    arbiter = bench.open()
    arbiter.release(arbiter.acquire("a"), hand_over=True)
    with pytest.raises(TakeOverRefused):
        arbiter.take_over("b", 1, 1)


def test_a_fresh_start_past_a_replica_must_be_said(bench: Bench) -> None:
    arbiter, lease = protect(bench)
    bench.expire(lease)
    with pytest.raises(TakeOverRefused, match="replica on b may hold") as refusal:
        arbiter.acquire("a")
    assert refusal.value.hint
    fresh = arbiter.acquire("a", discard_replica=True)
    assert fresh.term == 2
    with pytest.raises(TakeOverRefused):
        bench.open().take_over("b", 1, 9)


def test_an_operator_overrides_the_bar_but_no_live_lease(bench: Bench) -> None:
    arbiter = bench.open()
    lease = arbiter.acquire("a")
    with pytest.raises(LeaseLost):
        arbiter.force_take_over("b")
    bench.expire(lease)
    forced = arbiter.force_take_over("b")
    assert (forced.term, forced.holder, forced.is_live()) == (2, "b", True)
    assert bench.open(new_guest()).force_take_over("b").term == 1


def test_guests_do_not_meet(bench: Bench) -> None:
    arbiter, _ = protect(bench)
    # A name that begins with the other's must not be taken for it.
    other = bench.open(bench.guest + "0")
    assert other.read() is None
    assert other.acquire("b").term == 1
    record = arbiter.read()
    assert record is not None and record.holder == "a"


def test_many_calls_leave_one_record(bench: Bench) -> None:
    arbiter, lease = protect(bench)
    for number in range(40):
        lease = arbiter.renew(lease)
        if number % 10 == 0:
            arbiter.go_alone(lease)
            arbiter.lift_bar(lease, "b", f"session-{number}")
    record = bench.open().read()
    assert record is not None
    assert (record.term, record.replica) == (1, Replica("b", "session-30"))


def test_one_of_many_threads_gets_the_lease(bench: Bench) -> None:
    arbiter = bench.open()
    outcomes: list[str] = []
    start = threading.Barrier(8)

    def compete(node: str) -> None:
        start.wait()
        try:
            outcomes.append(f"term {arbiter.acquire(node).term}")
        except LeaseLost:
            outcomes.append("lost")

    threads = [threading.Thread(target=compete, args=(f"node-{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["lost"] * 7 + ["term 1"]


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "a b", "ä", "x" * 65, "a\n"])
def test_a_guest_name_that_cannot_name_a_record_is_refused(bench: Bench, name: str) -> None:
    with pytest.raises(ConfigError):
        type(bench).open(bench, name or "/")


def test_a_lease_must_outlast_its_margin(bench: Bench) -> None:
    bench.ttl_ms, bench.margin_ms = 1000, 1000
    with pytest.raises(ConfigError, match="margin"):
        bench.open()


# A hand-over that is undone.


def test_who_handed_over_gets_the_same_term_back_while_nobody_has_taken_over(bench: Bench) -> None:
    arbiter, lease = protect(bench)
    arbiter.release(lease, hand_over=True)
    back = arbiter.take_back(lease, "session-1", 5)
    assert (back.term, back.holder, back.is_live()) == (1, "a", True)
    record = arbiter.read()
    assert record is not None and not record.barred and record.replica == Replica("b", "session-1", 1)
    with pytest.raises(LeaseLost, match="live lease"):
        bench.open().take_over("b", 1, 5)


def test_a_hand_over_that_was_never_recorded_is_undone_all_the_same(bench: Bench) -> None:
    arbiter, lease = protect(bench)
    assert arbiter.take_back(lease, "session-1", 5).term == 1


def test_what_was_taken_over_is_not_given_back(bench: Bench) -> None:
    arbiter, lease = protect(bench)
    arbiter.release(lease, hand_over=True)
    taken = bench.open().take_over("b", 1, 5)
    with pytest.raises(LeaseLost, match="b holds term 2"):
        arbiter.take_back(lease, "session-1", 5)
    bench.expire(taken)
    with pytest.raises(LeaseLost, match="b holds term 2"):
        arbiter.take_back(lease, "session-1", 5)


def test_what_was_handed_back_is_given_back_in_a_new_term(bench: Bench) -> None:
    arbiter, lease = protect(bench)
    arbiter.release(lease, hand_over=True)
    other = bench.open()
    taken = other.take_over("b", 1, 5)
    other.lift_bar(taken, "a", "session-1", epoch=5)
    other.release(taken, hand_over=True)
    for session, epoch in (("session-2", 5), ("session-1", 4), ("session-1", 6)):
        with pytest.raises(LeaseLost):
            arbiter.take_back(lease, session, epoch)
    back = arbiter.take_back(lease, "session-1", 5)
    assert (back.term, back.holder) == (3, "a")
    record = arbiter.read()
    assert record is not None and record.barred


def test_who_stood_down_for_good_is_no_holder_of_a_newer_term(bench: Bench) -> None:
    arbiter, lease = protect(bench)
    arbiter.release(lease, hand_over=True)
    fresh = bench.open().acquire("b", discard_replica=True)
    bench.open().release(fresh)
    with pytest.raises(LeaseLost, match="nobody holds term 2"):
        arbiter.take_back(lease, "session-1", 5)


def test_of_a_take_over_and_a_taking_back_one_is_refused(bench: Bench) -> None:
    arbiter, lease = protect(bench)
    arbiter.release(lease, hand_over=True)
    granted: list[Lease] = []

    def ask(call: Callable[[], Lease]) -> None:
        try:
            granted.append(call())
        except (LeaseLost, TakeOverRefused):
            return

    other = bench.open()
    racers = [
        threading.Thread(target=ask, args=(lambda: arbiter.take_back(lease, "session-1", 5),)),
        threading.Thread(target=ask, args=(lambda: other.take_over("b", 1, 5),)),
    ]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert len(granted) == 1
