"""Two and more processes that want the same guest at the same time."""

from __future__ import annotations

import itertools
import os
import random
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from arbiter_tools import Bench, EtcdBench, EtcdServer, FileBench, Worker, new_guest, wait_until

from replicator.arbiter.base import boottime_ns
from replicator.units import NS_PER_MS

StartWorker = Callable[..., Worker]


@pytest.fixture(params=["file", "etcd"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Bench, str, int]:
    """A bench that other processes reach, its address, and how many races are affordable."""
    if request.param == "file":
        return FileBench(tmp_path / "arbiter"), f"file://{tmp_path}/arbiter", 12
    server: EtcdServer = request.getfixturevalue("etcd_server")
    return EtcdBench(server), server.url, 6


def race(workers: list[Worker], orders: list[tuple[object, ...]]) -> list[str]:
    """Answers to orders that are given at once."""
    for worker, order in zip(workers, orders, strict=True):
        worker.tell(*order)
    return [worker.hear() for worker in workers]


def start_pair(start_worker: StartWorker, bench: Bench, url: str, guest: str) -> list[Worker]:
    return [start_worker(url, guest, bench.ttl_ms, bench.margin_ms) for _ in range(2)]


def test_taking_over_and_going_alone_never_both_succeed(
    shared: tuple[Bench, str, int], start_worker: StartWorker
) -> None:
    bench, url, rounds = shared
    for number in range(rounds):
        bench.guest = new_guest()
        arbiter = bench.open()
        lease = arbiter.acquire("a")
        arbiter.lift_bar(lease, "b", "s", epoch=1)
        bench.expire(lease)
        orders: list[tuple[object, ...]] = [("go-alone", "a", 1), ("take-over", "b", 1)]
        first = number % 2
        workers = start_pair(start_worker, bench, url, bench.guest)
        answers = race(workers, [orders[first], orders[1 - first]])
        alone, taken = answers[first], answers[1 - first]
        record = arbiter.read()
        assert record is not None
        if taken.startswith("ok 2"):
            assert alone in ("LeaseLost", "ok")
            assert (record.term, record.holder) == (2, "b")
            assert alone == "LeaseLost"
        else:
            assert (taken, alone) == ("TakeOverRefused", "ok")
            assert (record.term, record.holder, record.barred) == (1, "a", True)
        for worker in workers:
            worker.end()


def test_one_of_two_starts_wins(shared: tuple[Bench, str, int], start_worker: StartWorker) -> None:
    bench, url, rounds = shared
    for _ in range(rounds // 2):
        guest = new_guest()
        workers = start_pair(start_worker, bench, url, guest)
        answers = race(workers, [("acquire", "a"), ("acquire", "b")])
        assert sorted(answer.split()[0] for answer in answers) == ["LeaseLost", "ok"]
        record = bench.open(guest).read()
        assert record is not None
        assert (record.term, record.holder) == (1, "ab"[answers[0] == "LeaseLost"])
        for worker in workers:
            worker.end()


class Claimant(threading.Thread):
    """Makes one process want the guest again and again; notes when it had it."""

    def __init__(self, worker: Worker, node: str) -> None:
        super().__init__()
        self.worker = worker
        self._node = node
        self.enough = threading.Event()
        #: (term, known to be granted since, published deadline)
        self.held: list[tuple[int, int, int]] = []

    def run(self) -> None:
        while not self.enough.is_set():
            answer = self._ask("acquire", self._node)
            while answer and answer[0] == "ok":
                self.held.append((int(answer[1]), boottime_ns(), int(answer[2])))
                if random.random() < 0.3:
                    break
                answer = self._ask("renew", self._node, answer[1])
            if not answer:
                return

    def _ask(self, *order: str) -> list[str]:
        """Nothing when the process was killed."""
        try:
            return self.worker.ask(*order).split()
        except BrokenPipeError:
            return []


def test_no_two_leases_overlap_whoever_is_frozen_or_killed(tmp_path: Path, start_worker: StartWorker) -> None:
    """A lease counts from its term's first answer to the last deadline that its side was told."""
    guest, ttl_ms, margin_ms = new_guest(), 20, 4
    claimants = []
    for number in range(3):
        worker = start_worker(f"file://{tmp_path}", guest, ttl_ms, margin_ms)
        claimants.append(Claimant(worker, f"node-{number}"))
    for claimant in claimants:
        claimant.start()
    nap = threading.Event()
    for number in range(60):
        pid = claimants[number % 3].worker.pid
        os.kill(pid, signal.SIGSTOP)
        nap.wait(random.uniform(0, 0.04))
        os.kill(pid, signal.SIGCONT)
    os.kill(claimants[0].worker.pid, signal.SIGKILL)
    claimants[0].join()
    death = max(term for claimant in claimants for term, _, _ in claimant.held)
    wait_until(lambda: max(term for term, _, _ in claimants[1].held + claimants[2].held) > death + 2)
    for claimant in claimants[1:]:
        claimant.enough.set()
        claimant.join()
    check_terms([held for claimant in claimants for held in claimant.held], margin_ms)


def check_terms(held: list[tuple[int, int, int]], margin_ms: int) -> None:
    last: dict[int, int] = {}
    first: dict[int, int] = {}
    for term, granted_at, deadline in held:
        last[term] = max(last.get(term, 0), deadline)
        first[term] = min(first.get(term, granted_at), granted_at)
    terms = sorted(first)
    assert len(terms) > 10
    for earlier, later in itertools.pairwise(terms):
        assert first[later] >= last[earlier] + margin_ms * NS_PER_MS
