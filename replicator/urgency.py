"""Threads that run as soon as they have something to do, before the guests and all else of this machine.

Who was woken may have to wait some ms until a guest's vCPU has used up its slice, and each step of a pause, a frame on
its way, a heartbeat and a lease's renewal is such a wait. So the daemons schedule the threads of those in real time
(SCHED_RR, at the lowest priorities). That needs CAP_SYS_NICE or RLIMIT_RTPRIO; without, nothing changes. The kernel
keeps a twentieth of each second for others (sched_rt_runtime_us). What such a thread starts, a guest's process or a
thread of a pool, does not inherit it.
"""

from __future__ import annotations

import contextlib
import os
from typing import Final

#: Of the event loop and of threads with a purpose; what carries bytes between two of them goes first.
PRIORITY: Final = 1
IO_PRIORITY: Final = 2

_begun = False


def begin() -> bool:
    """Let this process have such threads, and this thread be one. False when it may not."""
    global _begun
    try:
        _schedule()
    except OSError:
        return False
    _begun = True
    return True


def is_begun() -> bool:
    return _begun


def hurry() -> None:
    """Let this thread be such a one, if this process has them."""
    if _begun:
        _schedule()


def hurry_thread(thread: int) -> None:
    """Let a thread of a process of ours be such a one for now, if this process has them; a process's number is that of
    its main thread. One that has ended or may not be touched is left as it is."""
    if _begun:
        with contextlib.suppress(OSError):
            _schedule(thread)


def relax_thread(thread: int) -> None:
    """Let it be like any other again."""
    if _begun:
        with contextlib.suppress(OSError):
            os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))


def is_hurried(thread: int) -> bool:
    """Whether a thread is such a one now. OSError when it has ended."""
    return os.sched_getscheduler(thread) & ~os.SCHED_RESET_ON_FORK == os.SCHED_RR


def _schedule(thread: int = 0) -> None:
    os.sched_setscheduler(thread, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(PRIORITY))
