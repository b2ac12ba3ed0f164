"""Whether threads of another process have anything to do, as the kernel tells it. Real processes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator.guests.activity import ThreadActivity

PATIENCE_S = 20.0
#: Computes for each line it reads, and says when it is done; sleeps otherwise.
WORKER = """
import sys
print("ready", flush=True)
for line in sys.stdin:
    sum(range(int(line)))
    print("done", flush=True)
"""


class Worker:
    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        self.stdout.readline()

    def order(self, amount: int) -> None:
        self.stdin.write(f"{amount}\n")
        self.stdin.flush()


@pytest.fixture
def worker() -> Iterator[Worker]:
    made = Worker()
    yield made
    made.process.kill()
    made.process.communicate()


def read_asleep(activity: ThreadActivity) -> int:
    """Once it sleeps."""
    deadline = time.monotonic() + PATIENCE_S
    while (seen := activity.read()) is None:
        assert time.monotonic() < deadline, "it never sleeps"
        time.sleep(0.001)
    return seen


def test_who_sleeps_shows_the_same_again_and_who_has_worked_meanwhile_does_not(worker: Worker) -> None:
    activity = ThreadActivity(worker.process.pid, (worker.process.pid,))
    first = read_asleep(activity)
    assert all(activity.read() == first for _ in range(20))
    worker.order(1)
    worker.stdout.readline()
    assert read_asleep(activity) > first
    activity.close()


def test_who_computes_is_busy_also_while_another_has_its_processor(worker: Worker) -> None:
    activity = ThreadActivity(worker.process.pid, (worker.process.pid,))
    worker.order(1 << 62)
    deadline = time.monotonic() + PATIENCE_S
    while activity.read() is not None:
        assert time.monotonic() < deadline, "it does not begin"
    assert all(activity.read() is None for _ in range(1_000))
    activity.close()


#: Says the numbers of its two threads; the second one computes for ever.
PAIR = """
import sys, threading
def compute():
    print(threading.get_native_id(), flush=True)
    while True:
        pass
print(threading.get_native_id(), flush=True)
threading.Thread(target=compute, daemon=True).start()
sys.stdin.read()
"""


def test_one_of_several_that_is_busy_is_enough() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PAIR], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        idle, busy = (int(process.stdout.readline()) for _ in range(2))
        one = ThreadActivity(process.pid, (idle,))
        read_asleep(one)
        one.close()
        both = ThreadActivity(process.pid, (idle, busy))
        assert all(both.read() is None for _ in range(100))
        both.close()
        process.kill()


def test_nothing_is_known_of_who_has_ended_or_never_was(worker: Worker) -> None:
    activity = ThreadActivity(worker.process.pid, (worker.process.pid,))
    worker.process.kill()
    worker.process.wait()
    assert activity.read() is None
    assert ThreadActivity(worker.process.pid, (worker.process.pid,)).read() is None
    activity.close()
    activity.close()
    assert activity.read() is None


def test_no_descriptor_is_left_behind(worker: Worker) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    activity = ThreadActivity(worker.process.pid, (worker.process.pid,))
    assert len(list(Path("/proc/self/fd").iterdir())) == before + 2
    activity.close()
    ThreadActivity(worker.process.pid, (worker.process.pid, 1 << 30)).close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
