"""Threads in real time: each case in a process of its own, for there is no way back."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from replicator import urgency

TELL = """
    import os, subprocess, sys, threading, zmq
    from replicator import urgency
    from replicator.link.sockets import make_context

    def policies():
        return {name: os.sched_getscheduler(int(name)) for name in os.listdir("/proc/self/task")}

    def in_thread(work):
        found = []
        thread = threading.Thread(target=lambda: found.append((work(), os.sched_getscheduler(0))[1]))
        thread.start()
        thread.join()
        return found[0]
"""


def run(body: str) -> list[str]:
    script = textwrap.dedent(TELL) + textwrap.dedent(body)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def may_schedule() -> bool:
    try:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    except OSError:
        return False
    return os.geteuid() == 0


needs_right = pytest.mark.skipif(not may_schedule(), reason="needs root, to schedule in real time")


@needs_right
def test_only_those_that_ask_are_urgent() -> None:
    told = run("""
        print(in_thread(urgency.hurry))
        print(urgency.begin(), urgency.is_begun(), os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK)
        print(in_thread(int), in_thread(urgency.hurry) & ~os.SCHED_RESET_ON_FORK)
        child = "import os; print(os.sched_getscheduler(0))"
        sys.stdout.flush()
        subprocess.run([sys.executable, "-c", child], check=True)
    """)
    other, rr = str(os.SCHED_OTHER), str(os.SCHED_RR)
    assert told == [other, "True", "True", rr, other, rr, other]


@needs_right
def test_what_carries_bytes_between_urgent_threads_is_urgent_too() -> None:
    told = run("""
        urgency.begin()
        before = set(os.listdir("/proc/self/task"))
        context = make_context()
        reader, writer = context.socket(zmq.PULL), context.socket(zmq.PUSH)
        reader.bind("tcp://127.0.0.1:0")
        writer.connect(reader.last_endpoint)
        writer.send(b"what came through has set the I/O thread going")
        reader.recv()
        threads = [int(name) for name in set(os.listdir("/proc/self/task")) - before]
        print(max(os.sched_getparam(thread).sched_priority for thread in threads))
        context.destroy(linger=0)
    """)
    assert told == [str(urgency.IO_PRIORITY)]


@needs_right
def test_a_process_is_urgent_for_as_long_as_it_is_told_to_be() -> None:
    told = run("""
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        def policy():
            return os.sched_getscheduler(child.pid) & ~os.SCHED_RESET_ON_FORK
        urgency.hurry_thread(child.pid)
        print(policy())
        urgency.begin()
        urgency.hurry_thread(child.pid)
        print(policy())
        urgency.relax_thread(child.pid)
        print(policy())
        child.communicate(b"\\n")
        urgency.hurry_thread(child.pid)
        urgency.relax_thread(child.pid)
    """)
    other, rr = str(os.SCHED_OTHER), str(os.SCHED_RR)
    assert told == [other, rr, other]


@needs_right
def test_who_may_not_goes_on_as_before() -> None:
    told = run("""
        os.setuid(65534)
        print(urgency.begin(), urgency.is_begun())
        urgency.hurry()
        context = make_context()
        context.socket(1).close()
        context.destroy(linger=0)
        print(os.sched_getscheduler(0))
    """)
    assert told == ["False", "False", str(os.SCHED_OTHER)]
