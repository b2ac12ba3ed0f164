"""Injection into a process that is busy with other things: nothing of it may get lost."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from memory_tools import TIMEOUT_S, Writer

from replicator._native import ffi, lib
from replicator.memory import inject_uffd
from replicator.memory.uffd import find_syscall_instruction

StartWriter = Callable[..., Writer]

#: Without the care that this test is for, a signal is lost every second.
INJECTING_S = 4.0
#: Sends SIGUSR1 to a process and waits for its answer, over and over; ends at the first that is lost.
SENDER = """
import os, select, signal, sys
pid, answers, patience_s = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
sent = lost = 0
while not lost and not select.select([0], [], [], 0)[0]:
    os.kill(pid, signal.SIGUSR1)
    sent += 1
    if select.select([answers], [], [], patience_s)[0]:
        os.read(answers, 1)
    else:
        lost += 1
print(sent, lost)
"""


@contextmanager
def beside(work: Callable[[], None]) -> Iterator[None]:
    """Repeat `work` in a thread meanwhile; an error of it is raised at the end."""
    over = threading.Event()
    errors: list[BaseException] = []

    def run() -> None:
        try:
            while not over.is_set():
                work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    if errors:
        raise errors[0]


def test_no_signal_is_lost_between_attaching_and_stopping(start_writer: StartWriter) -> None:
    """One signal at a time, each answered before the next: a lost one is never answered."""
    writer = start_writer("echo")
    assert writer.process.stdout is not None
    answers = writer.process.stdout.fileno()
    command = [sys.executable, "-c", SENDER, str(writer.pid), str(answers), str(TIMEOUT_S)]
    sender = subprocess.Popen(command, pass_fds=[answers], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    slot = ffi.new("int *")
    address = find_syscall_instruction(writer.pid)
    end_s = time.monotonic() + INJECTING_S
    while time.monotonic() < end_s:
        assert lib.rp_inject_uffd(writer.pid, writer.pid, address, False, slot) == 0
        os.close(slot[0])
    said, _ = sender.communicate(b"stop", TIMEOUT_S + 5)
    sent, lost = map(int, said.split())
    assert lost == 0 and sent > 100
    writer.write_pages([0])


def test_who_waits_for_any_child_does_not_get_the_tracer(start_writer: StartWriter) -> None:
    writer = start_writer("read")

    def reap() -> None:
        assert os.waitpid(-1, os.WNOHANG) == (0, 0)

    with beside(reap):
        for _ in range(100):
            os.close(inject_uffd(writer.pid))


def test_a_process_that_ignores_its_children_can_inject(start_writer: StartWriter) -> None:
    writer = start_writer("read")
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        os.close(inject_uffd(writer.pid))
    finally:
        signal.signal(signal.SIGCHLD, before)
    writer.write_pages([0])


def test_a_thread_that_runs_astray_is_brought_back(start_writer: StartWriter) -> None:
    """No system call where one should be, but a loop without an end: given up, and the thread goes on as before."""
    writer = start_writer("read")
    slot = ffi.new("int *")
    astray = int(writer.tell("endless"))
    begin_s = time.monotonic()
    assert lib.rp_inject_uffd(writer.pid, writer.pid, astray, False, slot) == -errno.ETIMEDOUT
    assert time.monotonic() - begin_s < TIMEOUT_S / 2
    writer.write_pages([0])
    address = find_syscall_instruction(writer.pid)
    assert lib.rp_inject_uffd(writer.pid, writer.pid, address, False, slot) == 0
    os.close(slot[0])
    writer.write_pages([1])
