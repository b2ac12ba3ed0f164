"""The pair that is soaked: daemons that die and return around one guest, and a thread that measures them while the guest
is protected. Knows when what dies; judges nothing."""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

import soak_samples
from soak_judge import DAEMON, HOSTS, QEMU, Sample

from replicator.demo.lab import Lab
from replicator.demo.stage import HOSTS as SIDES
from replicator.demo.stage import Stage, children_of
from replicator.errors import GuestError

Daemon = subprocess.Popen[bytes]
PATIENCE_S = 60.0
END_S = 60.0
#: Each takes an epoch: the guest really goes on.
ENOUGH_INCREMENTS = 20
PRIMARY, SECONDARY = "primary", "secondary"
#: Who dies, again and again. A primary sees several secondaries, and each side is each in turn.
DEATHS = (PRIMARY, SECONDARY, SECONDARY)
OTHER = {"a": "b", "b": "a"}
Start = Callable[[str, str], Daemon]


class SoakPair:
    """Both daemons and the client. `start` makes a daemon of a side in a role (None: the stage's way)."""

    def __init__(self, stage: Stage, start: Start | None = None) -> None:
        self.stage = stage
        self.primary = "a"
        self.deaths = 0
        self._began_s = time.monotonic()
        #: The guest has not moved yet.
        self.is_as_started = True
        self._start = start or stage.start_daemon
        self._daemons: dict[str, tuple[int, Daemon]] = {}
        self._lives = itertools.count(1)
        self._client: Daemon | None = None

    def protect(self) -> None:
        """Boot the guest on "a", connect the client, start the secondary on "b"."""
        primary = self._begin("a", PRIMARY)
        self._client = self.stage.start_client(primary)
        self._begin("b", SECONDARY)
        self._wait_protected()

    def kill(self, role: str) -> None:
        """The host of this role dies, the guest goes on alone, then the side returns as secondary."""
        victim = self.primary if role == PRIMARY else OTHER[self.primary]
        survivor = OTHER[victim]
        _, daemon = self._daemons.pop(victim)
        self.stage.kill_host(daemon)
        daemon.wait(PATIENCE_S)
        self.deaths += 1
        self._wait_state(survivor, "active-alone")
        self.is_as_started &= role == SECONDARY
        self.primary = survivor
        self._wait_increments()
        self._begin(victim, SECONDARY)
        self._wait_protected()
        self._wait_increments()

    def rest(self, seconds: float) -> None:
        """Let the time pass; GuestError as soon as a process of the pair ends."""
        assert self._client is not None
        with contextlib.ExitStack() as stack:
            watched = []
            for process in (*self._running(), self._client):
                watched.append(os.pidfd_open(process.pid))
                stack.callback(os.close, watched[-1])
            if select.select(watched, [], [], max(0.0, seconds))[0]:
                raise GuestError("a daemon or the client ended by itself", hint=str(self.stage.logs()))

    def end(self) -> list[str]:
        """Stop the load and both daemons as an operator does; what was not as it should be."""
        troubles = self._end_client()
        # The secondary first stands down, by the primary's word; it ends by its own operator's.
        for side in (self.primary, OTHER[self.primary]):
            troubles += self._end_daemon(side)
        return troubles

    def _end_client(self) -> list[str]:
        if self._client is not None and self._client.stdin is not None:
            # It reads everything back, at some 200 keys an epoch: that takes its part of the time it took to write.
            self._client.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._client.wait(END_S + time.monotonic() - self._began_s)
        report = self.stage.stop_client(self._client) if self._client is not None else None
        if report is None:
            return ["the client has no report"]
        return [f"the client: {promise}" for promise in report.broken]

    def _end_daemon(self, side: str) -> list[str]:
        _, daemon = self._daemons.pop(side, (0, None))
        if daemon is None:
            return [f"no daemon is left on {side}"]
        daemon.terminate()
        try:
            code = daemon.wait(END_S)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
            return [f"the daemon on {side} does not end"]
        return [f"the daemon on {side} ended with {code}"] if code else []

    def daemons(self) -> list[tuple[str, int, int]]:
        """Of each daemon that runs: its side, the number of its life, its process."""
        return [(side, life, daemon.pid) for side, (life, daemon) in list(self._daemons.items())]

    def _begin(self, side: str, role: str) -> Daemon:
        daemon = self._start(side, role)
        self._daemons[side] = (next(self._lives), daemon)
        return daemon

    def _running(self) -> list[Daemon]:
        return [daemon for _, daemon in self._daemons.values()]

    def _wait_protected(self) -> None:
        self.stage.wait_protected(self.primary, *self._running())

    def _wait_state(self, side: str, beginning: str) -> None:
        def done() -> bool:
            return str(self.stage.status(side)["state"]).startswith(beginning)

        self.stage.wait_until(f"{side} is {beginning}", PATIENCE_S, done, *self._running())

    def _wait_increments(self) -> None:
        assert self._client is not None
        wanted = self.stage.count_increments() + ENOUGH_INCREMENTS
        self.stage.wait_until(
            "the client goes on", PATIENCE_S, lambda: self.stage.count_increments() >= wanted, self._client
        )


class Sampler:
    """Context manager: measures every `interval_s`, as long as the guest is protected."""

    def __init__(self, lab: Lab, pair: SoakPair, interval_s: float) -> None:
        self.samples: list[Sample] = []
        self._lab, self._pair, self._interval_s = lab, pair, interval_s
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ending.wait(self._interval_s):
            primary, deaths = self._pair.primary, self._pair.deaths
            taken = self._take(primary) if self._is_protected(primary) else []
            # Not of a time at which somebody died.
            if (primary, deaths) == (self._pair.primary, self._pair.deaths) and self._is_protected(primary):
                self.samples += taken

    def _is_protected(self, side: str) -> bool:
        return str(self._pair.stage.status(side)["state"]).startswith("protected")

    def _take(self, primary: str) -> Sequence[Sample]:
        now = time.monotonic()
        # A host on which the guest was started and one that was a secondary do not have the same files.
        when = "before the guest moved" if self._pair.is_as_started else "since the guest moved"
        found = [Sample(now, HOSTS, when, f"both hosts {when}", soak_samples.measure_hosts(self._lab))]
        for side, life, pid in self._pair.daemons():
            role = PRIMARY if side == primary else SECONDARY
            whose = f"of {SIDES[side]}, life {life}, {role}"
            subjects = {pid: (DAEMON, f"{DAEMON} {whose}")}
            # A standby that is replaced is another subject: each process is compared with itself.
            subjects |= {child: (QEMU, f"{QEMU} {child} {whose}") for child in _guests_of(pid)}
            for number, (kind, subject) in subjects.items():
                values = soak_samples.measure_process(number)
                if values is not None:
                    found.append(Sample(now, kind, role, subject, values))
        return found


def _guests_of(pid: int) -> list[int]:
    """The daemon's children that are QEMUs: whatever else it started must not be averaged with them."""
    try:
        return [child for child in children_of(pid) if soak_samples.program_of(child).startswith("qemu")]
    except FileNotFoundError:
        return []
