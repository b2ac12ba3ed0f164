"""Keeps the threads in real time (urgency.py) off processors that are full while others have room.

When such a thread wakes, the kernel leaves it on the processor where it ran last, though a guest's vCPU computes there
and another processor sleeps; and the vCPU waits, for the kernel looks only now and then whether it could run elsewhere.
Half of what a computing guest lost to its protection was that wait. So a look every quarter of a second, at what
/proc/stat tells of the processors, decides which of them these threads may use until the next one.

What a confined thread starts inherits that. Other threads of this process are freed at the next look; a process is
started within `unconfined`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import Final, NamedTuple

from replicator import urgency

PERIOD_S: Final = 0.25
#: A processor that is idle for less than that share of the time is full. One that has been left has room again from the
#: other share on: threads that come and go have a vCPU go from one processor to the other, after which each is half full.
FULL_SHARE: Final = 0.15
ROOM_SHARE: Final = 0.3
#: From that many processors' worth of work on it may be we who fill the processor.
OWN_SHARE_MAX: Final = 0.5

_STAT: Final = Path("/proc/stat")
#: The lines of some hundreds of processors; those after them are never chosen.
_STAT_BYTES: Final = 1 << 16
_INSTANT_S: Final = 1e-6

#: What this process may use, and what its threads in real time are confined to; empty while they are not.
_every: set[int] = set()
_held: set[int] = set()


class Ticks(NamedTuple):
    """Of one processor since the machine began, in the kernel's unit."""

    idle: int
    total: int


def parse_ticks(stat: bytes) -> dict[int, Ticks]:
    """Of each processor, from the text of /proc/stat, which may break off."""
    found = {}
    for line in stat.splitlines(keepends=True):
        name, *fields = line.split()
        if not name.startswith(b"cpu") or not line.endswith(b"\n"):
            break
        if name != b"cpu":
            # user, nice, system, idle, waiting for disks, interrupts (hard, soft), stolen; guests are in user already.
            ticks = [int(field) for field in fields[:8]]
            found[int(name[3:])] = Ticks(ticks[3] + ticks[4], sum(ticks))
    return found


def choose(idle: Mapping[int, float], own: float, used: Set[int]) -> set[int]:
    """Which processors to use. `idle`: share of the time in which each has nothing to do; `own`: processors' worth of
    work that this process does itself; `used`: those up to now."""
    left = {cpu for cpu, share in idle.items() if share < (FULL_SHARE if cpu in used else ROOM_SHARE)}
    chosen = set(idle) - left
    room = ROOM_SHARE if set(idle) <= used else FULL_SHARE
    if own > OWN_SHARE_MAX or max((idle[cpu] for cpu in chosen), default=0) < room:
        return set(idle)
    return chosen


class Placement:
    """Of this process's threads in real time, from now on until `release`. One at a time. `stat`: /proc/stat."""

    def __init__(self, stat: Path = _STAT) -> None:
        global _every
        _every = os.sched_getaffinity(0)
        self._fd = os.open(stat, os.O_RDONLY | os.O_CLOEXEC)
        self._ticks = self._read_ticks()
        self._own_s, self._at_s = time.process_time(), time.monotonic()

    def look(self) -> None:
        """Judge the time since the last look. Some 0.1 ms."""
        before, self._ticks = self._ticks, self._read_ticks()
        own_before_s, self._own_s = self._own_s, time.process_time()
        before_s, self._at_s = self._at_s, time.monotonic()
        own = (self._own_s - own_before_s) / max(self._at_s - before_s, _INSTANT_S)
        idle = {
            cpu: (now.idle - then.idle) / (now.total - then.total)
            for cpu, now in self._ticks.items()
            if cpu in _every and (then := before.get(cpu)) and now.total > then.total
        }
        _confine(choose(idle, own, _held or _every) or _every)

    def release(self) -> None:
        _confine(_every)
        os.close(self._fd)

    def _read_ticks(self) -> dict[int, Ticks]:
        return parse_ticks(os.pread(self._fd, _STAT_BYTES, 0))


async def keep() -> None:
    """Until it is cancelled; nothing where there is no choice or no thread in real time."""
    if not urgency.is_begun() or len(os.sched_getaffinity(0)) < 2:
        return
    placement = Placement()
    try:
        while True:
            await asyncio.sleep(PERIOD_S)
            placement.look()
    finally:
        placement.release()


@contextlib.contextmanager
def unconfined() -> Iterator[None]:
    """What this thread starts within this may use all processors that this process may."""
    if not _held:
        yield
        return
    os.sched_setaffinity(0, _every)
    try:
        yield
    finally:
        os.sched_setaffinity(0, _held or _every)


def _confine(wanted: set[int]) -> None:
    global _held
    if wanted == _every and not _held:
        return
    for name in os.listdir("/proc/self/task"):
        # It may have ended, or may not be touched.
        with contextlib.suppress(OSError):
            _place(int(name), wanted)
    _held = set() if wanted == _every else wanted


def _place(thread: int, wanted: set[int]) -> None:
    has = os.sched_getaffinity(thread)
    if urgency.is_hurried(thread):
        if has != wanted:
            os.sched_setaffinity(thread, wanted)
    elif _held and has == _held:
        os.sched_setaffinity(thread, _every)
