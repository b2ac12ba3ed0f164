"""The thread that keeps a lease, with real arbiters under it."""

from __future__ import annotations

import itertools
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from arbiter_tools import TIMEOUT_S, MemoryBench, Worker, wait_until

from replicator.arbiter.base import Lease, boottime_ns
from replicator.arbiter.file import FileArbiter
from replicator.arbiter.keeper import LeaseCallbacks, LeaseDeadline, LeaseKeeper, LeaseRenewal
from replicator.arbiter.memory import MemoryArbiter, MemoryStore
from replicator.errors import ArbiterError, LeaseLost


class Link(MemoryArbiter):
    """A memory arbiter that can be out of reach, and tells of each renewal."""

    def __init__(self, bench: MemoryBench) -> None:
        super().__init__(bench.store, bench.guest, ttl_ms=bench.ttl_ms, margin_ms=bench.margin_ms)
        self.is_cut = False
        self.is_broken = False
        #: Whoever holds it delays the answers.
        self.slow = threading.Lock()
        self.renewals: queue.Queue[Lease] = queue.Queue()

    def renew(self, lease: Lease) -> Lease:
        self._cross()
        with self.slow:
            renewed = super().renew(lease)
        self.renewals.put(renewed)
        return renewed

    def acquire(self, node: str, *, term: int | None = None, discard_replica: bool = False) -> Lease:
        self._cross()
        return super().acquire(node, term=term, discard_replica=discard_replica)

    def _cross(self) -> None:
        if self.is_broken:
            raise RuntimeError("a bug in an adapter")
        if self.is_cut:
            raise ArbiterError("the arbiter is out of reach")


class Side:
    """A holder with its keeper; what it is told lands in `told`."""

    def __init__(self, bench: MemoryBench, **options: Any) -> None:
        self.bench = bench
        self.link = Link(bench)
        self.deadline = LeaseDeadline()
        self.told: queue.Queue[tuple[str, Any]] = queue.Queue()
        self.makes_progress = True
        callbacks: dict[str, Any] = {
            "progress": lambda: self.makes_progress,
            "on_lapsed": lambda error: self.told.put(("lapsed", error)),
            "on_regained": lambda lease: self.told.put(("regained", lease)),
            "on_lost": lambda error: self.told.put(("lost", error)),
            **options,
        }
        self.keeper = LeaseKeeper(
            self.link, self.link.acquire("a"), self.deadline, LeaseCallbacks(**callbacks)
        )

    def may_speak(self) -> bool:
        return boottime_ns() < self.deadline.deadline_ns

    def hear(self, word: str) -> Any:
        said, what = self.told.get(timeout=TIMEOUT_S)
        assert said == word
        return what

    def await_renewals(self, count: int) -> list[Lease]:
        return [self.link.renewals.get(timeout=TIMEOUT_S) for _ in range(count)]


@pytest.fixture
def bench() -> MemoryBench:
    bench = MemoryBench()
    bench.ttl_ms, bench.margin_ms = 120, 20
    return bench


@pytest.fixture
def start_side(bench: MemoryBench) -> Iterator[Callable[..., Side]]:
    sides: list[Side] = []

    def start(**options: Any) -> Side:
        sides.append(Side(bench, **options))
        sides[-1].keeper.start()
        return sides[-1]

    yield start
    for side in sides:
        side.keeper.stop()


def test_a_lease_is_kept_for_many_ttls(start_side: Callable[..., Side]) -> None:
    side = start_side()
    assert side.may_speak()
    renewed = side.await_renewals(12)
    assert all(
        one.deadline_boottime_ns < two.deadline_boottime_ns for one, two in itertools.pairwise(renewed)
    )
    assert side.may_speak()
    assert side.keeper.lease.term == 1
    assert side.told.empty()


def test_without_progress_the_lease_runs_out_and_with_it_comes_back(start_side: Callable[..., Side]) -> None:
    side = start_side()
    side.makes_progress = False
    assert "no progress" in str(side.hear("lapsed"))
    assert not side.may_speak()
    wait_until(lambda: not side.link.read().live)  # type: ignore[union-attr]
    side.makes_progress = True
    assert side.hear("regained").term == 1
    assert side.may_speak()
    side.await_renewals(2)
    assert side.told.empty()


def test_out_of_reach_the_side_falls_silent_before_others_may_come(
    start_side: Callable[..., Side], bench: MemoryBench
) -> None:
    side = start_side()
    side.link.is_cut = True
    assert "out of reach" in str(side.hear("lapsed"))
    record = bench.open().read()
    assert not side.may_speak()
    assert record is not None and record.live
    side.link.is_cut = False
    assert side.hear("regained").term == 1
    assert side.may_speak()


def test_a_lapse_that_ends_before_it_is_noticed_is_told_all_the_same(start_side: Callable[..., Side]) -> None:
    side = start_side()
    side.await_renewals(1)
    with side.link.slow:
        wait_until(lambda: not side.may_speak())
    side.hear("lapsed")
    assert side.hear("regained").term == 1
    assert side.may_speak()


def test_who_was_replaced_is_told_once_and_for_all(
    start_side: Callable[..., Side], bench: MemoryBench
) -> None:
    side = start_side()
    side.link.is_cut = True
    side.hear("lapsed")
    other = bench.open()
    wait_until(lambda: not other.read().live)  # type: ignore[union-attr]
    assert other.force_take_over("b").term == 2
    side.link.is_cut = False
    error = side.hear("lost")
    assert isinstance(error, LeaseLost)
    assert "b holds term 2" in str(error)
    assert not side.may_speak()
    assert side.keeper.stop()
    assert side.told.empty()


def test_an_arbiter_that_forgot_the_lease_makes_it_lapse_and_come_back(
    start_side: Callable[..., Side], bench: MemoryBench
) -> None:
    side = start_side()
    bench.store.expires_ns[bench.guest] = 0
    assert isinstance(side.hear("lapsed"), LeaseLost)
    assert side.hear("regained").term == 1
    assert side.may_speak()


def test_a_bug_in_the_adapter_ends_the_lease_but_not_the_thread(start_side: Callable[..., Side]) -> None:
    side = start_side()
    side.link.is_broken = True
    assert "a bug in an adapter" in str(side.hear("lapsed"))
    side.link.is_broken = False
    assert side.hear("regained").term == 1


def test_a_callback_that_fails_does_not_end_the_renewals(start_side: Callable[..., Side]) -> None:
    failed = threading.Event()

    def fail(_: object) -> None:
        failed.set()
        raise RuntimeError("a bug in the service")

    side = start_side(on_lapsed=fail)
    side.link.is_cut = True
    assert failed.wait(TIMEOUT_S)
    side.link.is_cut = False
    assert side.hear("regained").term == 1


def test_progress_that_fails_is_no_progress(start_side: Callable[..., Side]) -> None:
    def fail() -> bool:
        raise RuntimeError("a bug in the service")

    side = start_side(progress=fail)
    assert "no progress" in str(side.hear("lapsed"))


def test_stopping_makes_mute_and_leaves_the_lease(start_side: Callable[..., Side]) -> None:
    side = start_side()
    side.await_renewals(1)
    assert side.keeper.stop()
    assert not side.may_speak()
    record = side.link.read()
    assert record is not None and record.live
    side.link.release(side.keeper.lease)
    record = side.link.read()
    assert record is not None and not record.live
    assert side.told.empty()


def test_a_keeper_may_be_stopped_before_its_start_and_from_a_callback(bench: MemoryBench) -> None:
    assert Side(bench).keeper.stop()
    bench.store.expires_ns[bench.guest] = 0
    stopped = threading.Event()
    side: Side

    def stop(_: object) -> None:
        assert side.keeper.stop()
        stopped.set()

    side = Side(bench, on_lapsed=stop)
    side.keeper.start()
    side.makes_progress = False
    assert stopped.wait(TIMEOUT_S)
    assert side.keeper.stop()
    assert not side.may_speak()


def test_a_frozen_side_wakes_up_mute(tmp_path: Path, start_worker: Callable[..., Worker]) -> None:
    ttl_ms, margin_ms = 200, 50
    worker = start_worker(f"file://{tmp_path}", "g", ttl_ms, margin_ms)
    worker.ask("keep", "a")
    assert worker.ask("speak") == "may kept"
    os.kill(worker.pid, signal.SIGSTOP)
    arbiter = FileArbiter(tmp_path, "g", ttl_ms=ttl_ms, margin_ms=margin_ms)
    wait_until(lambda: not arbiter.read().live)  # type: ignore[union-attr]
    assert arbiter.force_take_over("b").term == 2
    worker.tell("speak")
    os.kill(worker.pid, signal.SIGCONT)
    assert worker.hear().startswith("mute")
    wait_until(lambda: worker.ask("speak") == "mute lost")


class EndsWhileItAsks(MemoryArbiter):
    """Whoever renews stops in the middle of a renewal, which fails because the lease was given up meanwhile."""

    stop: Callable[[], None]

    def renew(self, lease: Lease) -> Lease:
        self.stop()
        self.release(lease, hand_over=True)
        return super().renew(lease)


def test_who_has_stopped_hears_nothing_of_a_renewal_that_was_under_way() -> None:
    arbiter = EndsWhileItAsks(MemoryStore(), "web")
    deadline, news = LeaseDeadline(), []
    renewal = LeaseRenewal(
        arbiter, arbiter.acquire("a"), deadline, LeaseCallbacks(on_lost=news.append, on_lapsed=news.append)
    )
    arbiter.stop = renewal.end
    renewal.begin()
    assert not renewal.tick()
    assert news == [] and deadline.deadline_ns == 0
