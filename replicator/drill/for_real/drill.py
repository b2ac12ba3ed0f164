"""Kills the daemon and the guest of this host, and watches the other side take over. Destructive, and meant to be.

Only a guest that is protected right now is killed, with both processes held by pidfd before the last look, so that no
number can have passed to anybody else. What is seen afterwards is what anybody could see: the arbiter's record, and
frames of the guest's MAC that come from another host.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from replicator.arbiter.base import Arbiter, ArbiterRecord
from replicator.drill.for_real.ear import GuestEar
from replicator.drill.for_real.report import ForRealReport
from replicator.errors import ArbiterError, ConfigError, DrillFailed, FenceError
from replicator.service import wiring
from replicator.service.config import DaemonConfig
from replicator.service.control import ask_daemon
from replicator.service.qemu_kit import QemuKit

#: From the kill to the other side's term; etcd's lease takes 3 s.
TAKE_OVER_TIMEOUT_S = 30.0
#: From then on to the first frame.
HEAR_TIMEOUT_S = 5.0
END_TIMEOUT_S = 60.0
LOOK_S = 0.005

Say = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Victim:
    """The processes that are to die, and the term in which they do."""

    daemon: int
    guest: int
    term: int
    status: dict[str, Any]


def describe(config: DaemonConfig) -> str:
    """The question. It says what is lost and who goes on."""
    guest = wiring.make_kit(config).name
    return (
        f"This kills, by SIGKILL, the daemon {config.node.name} on this host and the guest {guest} that it runs.\n"
        f"The secondary at {config.peer.host} has to take the guest over from its last committed epoch. Until this\n"
        "host is started again as a secondary, the guest is not protected. Kill it now?"
    )


def drill_for_real(config: DaemonConfig, *, say: Say) -> ForRealReport:
    """FenceError unless the guest is protected, ConfigError where nobody would take it over by himself, DrillFailed
    when nobody did in time."""
    if not config.has_arbiter:
        raise ConfigError(
            f"{config.path}: without an [arbiter] no side takes over by itself",
            hint="`replicator promote` on the other host is what would start the guest there",
        )
    kit = wiring.make_kit(config)
    arbiter = wiring.make_arbiter(config, kit.name)
    try:
        with _hold_victim(config) as (victim, kill), _listen(kit) as ear:
            killed_ns = kill()
            say(f"killed daemon {victim.daemon} and guest {victim.guest}; waiting for {config.peer.host}")
            taken = _await_take_over(arbiter, victim.term, config.node.name)
            record, seen_ns = taken.record, taken.seen_ns
            say(f"{record.holder} has the guest in term {record.term}")
            heard_ns = ear.wait(HEAR_TIMEOUT_S, since_ns=taken.not_yet_wall_ns)
    finally:
        arbiter.close()
    return ForRealReport(
        config.node.name,
        kit.name,
        victim.term,
        str(victim.status["state"]),
        int(victim.status["committed"]),
        record.term,
        record.holder,
        (seen_ns - killed_ns) / 1e6,
        (heard_ns - killed_ns) / 1e6 if heard_ns is not None else None,
        ear.why_deaf,
    )


@contextlib.contextmanager
def _hold_victim(config: DaemonConfig) -> Iterator[tuple[Victim, Callable[[], int]]]:
    """The victim, and what kills it and returns when. In the end both processes are gone, if they were killed."""
    pids = ask_daemon(config.state_dir, "pids")
    with contextlib.ExitStack() as opened:
        fds = []
        for what in ("daemon", "guest"):
            try:
                fd = os.pidfd_open(pids[what]) if pids[what] else -1
            except OSError as error:
                raise FenceError(f"the {what}'s process {pids[what]} is gone: {error.strerror}") from error
            if fd >= 0:
                opened.callback(os.close, fd)
                fds.append(fd)
        # After the processes are held: what is killed is what this status is about.
        status = ask_daemon(config.state_dir, "status")
        if ask_daemon(config.state_dir, "pids") != pids:
            raise FenceError("the guest was replaced just now", hint="try again when it is protected")
        _require_protected(status, config)
        yield Victim(pids["daemon"], pids["guest"], int(status["term"]), status), lambda: _kill(fds)
        _await_ends(fds)


def _require_protected(status: dict[str, Any], config: DaemonConfig) -> None:
    if status["role"] != "primary":
        raise FenceError(
            f"{config.node.name} is {status['role']}: the guest does not run here",
            hint="run this drill on the primary's host, with its CONFIG",
        )
    if not str(status["state"]).startswith("protected"):
        raise FenceError(
            f"the guest is not protected, it is {status['state']}: a kill would be the end of it",
            hint="wait until `replicator status` says protected",
        )


def _kill(pidfds: list[int]) -> int:
    """The daemon first: a guest that dies alone is handed over, which is not what a dead host does."""
    killed_ns = time.monotonic_ns()
    for fd in pidfds:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(fd, signal.SIGKILL)
    return killed_ns


def _await_ends(pidfds: list[int]) -> None:
    """Giving back a large guest's memory takes seconds, in which it does nothing any more."""
    for fd in pidfds:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        if not poll.poll(END_TIMEOUT_S * 1000):
            raise DrillFailed("a process does not end after SIGKILL", hint="ps -o pid,stat,wchan shows it")


def _listen(kit: object) -> GuestEar:
    """For the guest of a QEMU guest file; other kinds have no MAC that is worth a look."""
    macs = [nic.mac for nic in kit.config.nics] if isinstance(kit, QemuKit) else []
    return GuestEar(macs)


@dataclass(frozen=True, slots=True)
class TakenOver:
    """The record in which another side holds a newer term, and when it was seen."""

    record: ArbiterRecord
    seen_ns: int
    #: CLOCK_REALTIME of the last look at which nobody had the guest yet: whatever speaks later is not what was killed.
    not_yet_wall_ns: int


def _await_take_over(arbiter: Arbiter, term: int, node: str) -> TakenOver:
    deadline_s = time.monotonic() + TAKE_OVER_TIMEOUT_S
    trouble, looked_ns = "", time.time_ns()
    while time.monotonic() < deadline_s:
        looking_ns = time.time_ns()
        try:
            record = arbiter.read()
        except ArbiterError as error:
            record, trouble = None, f"; the arbiter: {error}"
        if record is not None and record.term > term and record.holder not in ("", node):
            return TakenOver(record, time.monotonic_ns(), looked_ns)
        looked_ns = looking_ns
        # Another host's word: nothing here to wait for.
        time.sleep(LOOK_S)
    raise DrillFailed(
        f"nobody took the guest over within {TAKE_OVER_TIMEOUT_S:.0f} s{trouble}",
        hint="`replicator status` and `replicator promote` on the other host; its replica is where it was",
    )
