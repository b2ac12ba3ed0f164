"""Processes: watched and ended by pidfd, dying with their parent, found again by the pid file."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator.errors import GuestError
from replicator.guests.qemu_process import (
    PID_FILE,
    QemuProcess,
    end_leftover,
    prepare_run_dir,
    read_start_time,
    spawn,
    write_pid_file,
)

SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)"]


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(SLEEPER)
    yield child
    child.kill()
    child.wait()


def run(run_dir: Path, program: str) -> QemuProcess:
    return spawn([sys.executable, "-c", program], {"ADDED": "a=b"}, (), run_dir)


def test_spawn_kill_and_files(tmp_path: Path) -> None:
    async def scenario() -> None:
        run_dir = tmp_path / "run"
        prepare_run_dir(run_dir)
        process = run(run_dir, "import time; time.sleep(600)")
        assert run_dir.stat().st_mode & 0o777 == 0o700
        assert all(path.stat().st_mode & 0o077 == 0 for path in run_dir.iterdir())
        assert (run_dir / PID_FILE).read_text().split()[0] == str(process.pid)
        assert not process.has_ended()
        waiter = asyncio.create_task(process.wait())
        await asyncio.gather(process.kill(), process.kill())
        assert await waiter == "killed by SIGKILL"
        assert not (run_dir / PID_FILE).exists()
        process.close()

    asyncio.run(scenario())


def test_end_and_last_words(tmp_path: Path) -> None:
    async def scenario() -> None:
        process = run(tmp_path, "import os, sys; print(os.environ['ADDED']); print('no RAM'); sys.exit(3)")
        assert await process.wait() == "exit status 3"
        assert process.has_ended()
        assert process.log_tail() == "a=b / no RAM"
        process.close()

    asyncio.run(scenario())


def test_missing_program_is_named(tmp_path: Path) -> None:
    with pytest.raises(GuestError, match="qemu-system-none is not installed") as caught:
        spawn(["qemu-system-none"], {}, (), tmp_path)
    assert "apt install" in caught.value.hint


PARENT = """
import os, sys
from pathlib import Path
from replicator.guests.qemu_process import spawn
process = spawn([sys.executable, "-c", "import sys, time; open(sys.argv[1], 'w').write('1'); time.sleep(600)",
                 sys.argv[2]], {}, (), Path(sys.argv[1]))
print(process.pid, flush=True)
sys.stdin.read()
"""


def test_the_process_dies_with_the_daemon(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    root = str(Path(__file__).resolve().parents[2])
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path), str(fifo)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert parent.stdin is not None and parent.stdout is not None
    with parent.stdin, parent.stdout:
        pid = int(parent.stdout.readline())
        assert fifo.read_text() == "1"  # the program runs: what was asked of the kernel outlasted exec
        pidfd = os.pidfd_open(pid)
        try:
            parent.send_signal(signal.SIGKILL)
            parent.wait()
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            assert poll.poll(20_000), "the process outlived its daemon"
        finally:
            os.close(pidfd)


def test_leftover_is_found_and_ended(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    write_pid_file(tmp_path, sleeper.pid)
    assert end_leftover(tmp_path) == sleeper.pid
    assert sleeper.wait() == -signal.SIGKILL
    assert not (tmp_path / PID_FILE).exists()
    assert end_leftover(tmp_path) is None


def test_another_process_with_that_number_is_left_alone(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    start_time = read_start_time(sleeper.pid)
    assert start_time is not None
    (tmp_path / PID_FILE).write_text(f"{sleeper.pid} {start_time - 1}\n")
    assert end_leftover(tmp_path) is None
    assert read_start_time(sleeper.pid) == start_time
    assert not (tmp_path / PID_FILE).exists()


@pytest.mark.parametrize("text", ["", "12", "x y\n", "1 2 3"])
def test_broken_pid_file_is_no_leftover(tmp_path: Path, text: str) -> None:
    (tmp_path / PID_FILE).write_text(text)
    assert end_leftover(tmp_path) is None


def test_start_time_of_what_is_gone() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert read_start_time(child.pid) is None  # a zombie runs nothing
    child.wait()
    assert read_start_time(child.pid) is None
