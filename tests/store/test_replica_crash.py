"""A store whose process is killed with SIGKILL at any point always reopens with one whole epoch.

Two ways to choose the point: at the n-th Python or C call inside the store, for every n there is (so every
border between two steps of a commit is hit), and at random times from outside (so the insides of calls are
hit too).
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, Self

import pytest
from store_tools import MadeEpoch, Pages, Shape, commit, make_epoch, page

from replicator.store import Outcome, ReplicaStore

#: Two records of 8 pages: an epoch with more takes the undo path.
SMALL_STAGING = 2 * (8 + 8 + 8 * 8 + 8 * 4096)
PATHS = pytest.mark.parametrize("staging", [1 << 20, SMALL_STAGING], ids=["redo", "undo"])


#: Kills at random times; more only until one has hit the middle of an epoch.
KILLS_MIN, KILLS_MAX = 25, 300
#: Epochs that a process has before it, to be killed in one of the first.
CHILD_EPOCHS = 6


class KillAfterCalls:
    """Profile hook: SIGKILL to ourselves at the n-th call of anything, Python or C."""

    def __init__(self, calls: int) -> None:
        self._left = calls

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        if event not in ("call", "c_call") or frame.f_code.co_name == "<genexpr>":
            return
        self._left -= 1
        if self._left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)


def run_child(work: Callable[[], object]) -> int:
    """Run `work` in a forked process; return its wait status."""
    pid = os.fork()
    if pid == 0:
        exit_after(work)
    return os.waitpid(pid, 0)[1]


def exit_after(work: Callable[[], object]) -> NoReturn:
    try:
        work()
        os._exit(0)
    finally:
        os._exit(3)


class History:
    """Epochs and, for each, what the store must hold once it is committed."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.epochs: dict[int, MadeEpoch] = {}
        self.images: dict[int, bytes] = {}
        self._ram: Pages = {}

    def add(self, made: MadeEpoch) -> MadeEpoch:
        self._ram.update(made.pages)
        self.epochs[made.epoch] = made
        self.images[made.epoch] = self.shape.ram_image(self._ram)
        return made

    def check(self, store: ReplicaStore) -> int:
        """The store holds exactly one whole epoch; return its number."""
        assert store.committed is not None and store.promotable.ready
        number = store.committed.epoch
        made = self.epochs[number]
        assert store.committed.digest == made.digest
        assert store.device_state() == made.state
        assert store.ram_path.read_bytes() == self.images[number]
        return number


def open_store(shape: Shape, directory: Path, staging: int) -> ReplicaStore:
    store = shape.open(directory, staging)
    store.recover()
    return store


@pytest.fixture
def shape() -> Shape:
    """Four batches."""
    return Shape(low=12, high=20)


@PATHS
def test_killed_at_every_call_of_a_commit(directory: Path, shape: Shape, staging: int) -> None:
    history = History(shape)
    store = open_store(shape, directory, staging)
    commit(store, history.add(make_epoch(1, 1, shape.full(1), b"state 1")))
    store.close()
    outcomes: dict[Outcome, int] = {}
    calls, number = 0, 2
    while True:
        if number not in history.epochs:
            history.add(make_epoch(1, number, shape.full(number), b"state %d" % number))
        calls += 1

        def work(calls: int = calls, number: int = number) -> None:
            child = open_store(shape, directory, staging)
            sys.setprofile(KillAfterCalls(calls))
            commit(child, history.epochs[number])
            sys.setprofile(None)

        status = run_child(work)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            break
        again = shape.open(directory, staging)
        outcome = again.recover().outcome
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        reached = history.check(again)
        assert reached in (number - 1, number)
        again.close()
        if reached == number:
            number += 1
    assert calls > 100, "the hook did not see the calls"
    assert outcomes[Outcome.CLEAN] > 10
    assert outcomes[Outcome.REDONE if staging > SMALL_STAGING else Outcome.ROLLED_BACK] > 5


def test_killed_at_every_call_of_a_rollback(directory: Path, shape: Shape) -> None:
    """The recovery itself may be killed, again and again, and the next one still mends."""
    history = History(shape)
    store = open_store(shape, directory, SMALL_STAGING)
    commit(store, history.add(make_epoch(1, 1, shape.full(1), b"state 1")))
    store.close()
    made = make_epoch(1, 2, shape.full(2), b"state 2")

    def leave_half_applied() -> None:
        child = open_store(shape, directory, SMALL_STAGING)
        child.begin(1, 2)
        for index, payload in enumerate(made.parts[:-1]):
            child.add_part(index, memoryview(payload))
        os.kill(os.getpid(), signal.SIGKILL)

    assert os.WIFSIGNALED(run_child(leave_half_applied))
    calls = 0
    while True:
        calls += 1

        def recover_killed(calls: int = calls) -> None:
            child = shape.open(directory, SMALL_STAGING)
            sys.setprofile(KillAfterCalls(calls))
            child.recover()
            sys.setprofile(None)

        if os.WIFEXITED(run_child(recover_killed)):
            break
    again = shape.open(directory, SMALL_STAGING)
    again.recover()
    assert history.check(again) == 1
    again.close()
    assert calls > 100


@PATHS
def test_killed_at_random_times(directory: Path, staging: int) -> None:
    """The child commits epoch after epoch; the parent kills it somewhere in one of them."""
    shape = Shape(low=64, high=192, high_start=1024)
    chooser = random.Random(staging)
    history = History(shape)
    store = open_store(shape, directory, staging)
    commit(store, history.add(make_epoch(1, 1, shape.full(1), b"state 1")))
    store.close()
    reached = kills = mid_epoch = 0
    epoch_s = 0.002
    while kills < KILLS_MIN or (mid_epoch == 0 and kills < KILLS_MAX):
        kills += 1
        for number in range(len(history.epochs) + 1, reached + CHILD_EPOCHS + 1):
            chosen = chooser.sample(shape.pfns, chooser.randint(100, 256))
            history.add(make_epoch(1, number, {pfn: page(number, pfn) for pfn in chosen}, b"s" * number))
        todo = [history.epochs[number] for number in range(max(reached, 1) + 1, len(history.epochs) + 1)]
        with Committer(shape, directory, staging, todo) as child:
            child.wait_epoch()
            begun_s = time.monotonic()
            child.wait_epoch()
            epoch_s = (epoch_s + time.monotonic() - begun_s) / 2
            time.sleep(chooser.uniform(0, epoch_s))
        again = shape.open(directory, staging)
        mid_epoch += again.recover().outcome in (Outcome.REDONE, Outcome.ROLLED_BACK)
        now = history.check(again)
        assert now >= reached
        reached = now
        again.close()
    assert mid_epoch, "no kill hit the middle of an epoch"


class Committer:
    """A forked process that commits epochs and tells when it begins each; killed at the end of the context."""

    def __init__(self, shape: Shape, directory: Path, staging: int, epochs: list[MadeEpoch]) -> None:
        self._begun, begin = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:

            def work() -> None:
                store = open_store(shape, directory, staging)
                for made in epochs:
                    os.write(begin, b"!")
                    commit(store, made)

            exit_after(work)
        os.close(begin)

    def wait_epoch(self) -> None:
        assert os.read(self._begun, 1) == b"!"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._begun)
