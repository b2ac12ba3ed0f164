"""The event loop with exact timers."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import statistics
import time

import pytest

from replicator import fine_timers

DELAY_S = 0.0004


async def measure_lateness() -> float:
    """Median of what a short sleep takes beyond its time, in seconds."""
    late = []
    for _ in range(41):
        began = time.perf_counter()
        await asyncio.sleep(DELAY_S)
        late.append(time.perf_counter() - began - DELAY_S)
    assert min(late) >= 0
    return statistics.median(late)


def test_a_timer_does_not_wait_for_the_next_millisecond() -> None:
    coarse, fine = asyncio.run(measure_lateness()), fine_timers.run(measure_lateness())
    assert fine < coarse


async def hear_from_another() -> bytes:
    loop = asyncio.get_running_loop()
    ours, theirs = os.pipe()
    heard = loop.create_future()
    try:
        loop.add_reader(ours, lambda: heard.done() or heard.set_result(os.read(ours, 9)))
        loop.call_later(60, heard.cancel)
        await loop.run_in_executor(None, os.write, theirs, b"here")
        return await heard
    finally:
        loop.remove_reader(ours)
        os.close(ours)
        os.close(theirs)


def test_who_waits_for_a_timer_hears_a_descriptor_at_once() -> None:
    assert fine_timers.run(hear_from_another()) == b"here"


async def interrupt_itself() -> None:
    asyncio.get_running_loop().call_later(0.001, signal.raise_signal, signal.SIGINT)
    await asyncio.sleep(60)


def test_ctrl_c_ends_the_work() -> None:
    with pytest.raises(KeyboardInterrupt):
        fine_timers.run(interrupt_itself())


def test_a_loop_beyond_the_descriptors_of_select_is_coarse_but_works() -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(limit[0], 4096), max(limit[1], 4096)))
    low, high = os.pipe()
    taken = []
    try:
        while not taken or taken[-1] < 1024:
            taken.append(os.dup(low))
        assert fine_timers.run(hear_from_another()) == b"here"
    finally:
        for fd in (low, high, *taken):
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
