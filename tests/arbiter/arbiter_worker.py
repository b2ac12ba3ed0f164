"""A process of the arbiter tests: `arbiter_worker.py URL GUEST TTL_MS MARGIN_MS`, orders on stdin, one line an answer.

An order is the name of a call and its arguments; the answer is `ok TERM DEADLINE_NS` or the error's class name.
`die-at N` and `stop-at EVENT` make it kill itself at its Nth look at the file system from now on, or stop itself
right before the next one of that kind (audit events, as `os.link`). `keep NODE` acquires and keeps the lease;
`speak` then tells whether it may speak at this moment.
"""

from __future__ import annotations

import os
import signal
import sys

from replicator.arbiter.base import Arbiter, Lease, boottime_ns
from replicator.arbiter.keeper import LeaseCallbacks, LeaseDeadline, LeaseKeeper
from replicator.arbiter.open import open_arbiter
from replicator.errors import ReplicatorError

FILE_EVENTS = ("open", "os.listdir", "os.link", "os.remove", "os.mkdir")


class Fate:
    """What happens to this process, and where."""

    def __init__(self) -> None:
        self.die_at = 0
        self.stop_at = ""

    def watch(self, event: str, _: object) -> None:
        if event == self.stop_at:
            self.stop_at = ""
            os.kill(os.getpid(), signal.SIGSTOP)
        if self.die_at and event in FILE_EVENTS:
            self.die_at -= 1
            if not self.die_at:
                os.kill(os.getpid(), signal.SIGKILL)


class Side:
    """One side of a pair."""

    def __init__(self, arbiter: Arbiter, fate: Fate) -> None:
        self.arbiter = arbiter
        self.fate = fate
        self.deadline = LeaseDeadline()
        self.word = "kept"

    def obey(self, order: str, *words: str) -> str:
        handler = getattr(self, "do_" + order.replace("-", "_"))
        try:
            lease = handler(*words)
        except ReplicatorError as error:
            return type(error).__name__
        if isinstance(lease, Lease):
            return f"ok {lease.term} {lease.deadline_boottime_ns}"
        return lease or "ok"

    def do_die_at(self, count: str) -> None:
        self.fate.die_at = int(count)

    def do_stop_at(self, event: str) -> None:
        self.fate.stop_at = event

    def do_acquire(self, node: str) -> Lease:
        return self.arbiter.acquire(node, discard_replica=True)

    def do_force(self, node: str) -> Lease:
        return self.arbiter.force_take_over(node)

    def do_renew(self, node: str, term: str) -> Lease:
        return self.arbiter.renew(_lease(node, term))

    def do_take_over(self, node: str, term: str) -> Lease:
        return self.arbiter.take_over(node, int(term), 1)

    def do_go_alone(self, node: str, term: str) -> None:
        self.arbiter.go_alone(_lease(node, term))

    def do_lift_bar(self, node: str, term: str, replica: str) -> None:
        self.arbiter.lift_bar(_lease(node, term), replica, "s")

    def do_keep(self, node: str) -> None:
        lease = self.arbiter.acquire(node)
        keeper = LeaseKeeper(
            self.arbiter, lease, self.deadline, LeaseCallbacks(on_lost=lambda _: self._lose())
        )
        keeper.start()

    def do_speak(self) -> str:
        may_speak = boottime_ns() < self.deadline.deadline_ns
        return f"{'may' if may_speak else 'mute'} {self.word}"

    def _lose(self) -> None:
        self.word = "lost"


def _lease(node: str, term: str) -> Lease:
    return Lease(int(term), node, 0)


def main() -> None:
    url, guest, ttl_ms, margin_ms = sys.argv[1:]
    fate = Fate()
    sys.addaudithook(fate.watch)
    arbiter = open_arbiter(
        url, guest, ttl_ms=int(ttl_ms), margin_ms=int(margin_ms), timeout_ms=int(ttl_ms) // 2
    )
    side = Side(arbiter, fate)
    print("ready", flush=True)
    for line in sys.stdin:
        print(side.obey(*line.split()), flush=True)


main()
