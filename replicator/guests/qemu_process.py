"""The process of a QEMU: how it is started, watched and ended, and how one left over by a crash is found.

A QEMU that we started never outlives us: it asks the kernel to be killed when the thread that started it ends
(PR_SET_PDEATHSIG, see qemu_exec.py), so that thread must be the daemon's event loop. See docs/adr/0002-orphan-guests.md. The pid file is
the second line, for attached guests and for what slipped through; it holds the start time as well, so that a number
that was given to another process since harms nobody. Processes are watched and signalled by pidfd, which never means
another one either.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from replicator import placement
from replicator.errors import GuestError
from replicator.guests import qemu_exec

PID_FILE = "qemu.pid"
LOG_FILE = "qemu.log"
KILL_TIMEOUT_S = 10.0
#: From the end of a connection to the end of the process, if it is one.
END_TIMEOUT_S = 1.0
#: What of QEMU's own words goes into an error.
LOG_TAIL_BYTES = 400


class QemuProcess:
    """A running QEMU, our child or not. Closing it does not end it.

    The pid file says whose the run directory is: files there are removed only by the process that it names, for
    another guest may have moved in. `sockets` are removed with it at `kill`."""

    def __init__(
        self,
        pid: int,
        *,
        child: subprocess.Popen[bytes] | None,
        run_dir: Path,
        sockets: Sequence[Path] = (),
    ) -> None:
        self.pid = pid
        self.run_dir = run_dir
        self._sockets = tuple(sockets)
        self._child = child
        self._end: str | None = None
        try:
            self._pidfd = os.pidfd_open(pid)
        except OSError as error:
            raise GuestError(f"cannot watch process {pid}: {error.strerror}") from error

    @property
    def is_child(self) -> bool:
        return self._child is not None

    def has_ended(self) -> bool:
        return self._end is not None or _is_readable(self._pidfd, 0)

    async def wait(self) -> str:
        """Wait for the end of the process; returns how it ended."""
        if not self.has_ended():
            await _until_readable(self._pidfd)
        return self._reap()

    async def kill(self) -> None:
        """End the process at once and wait for that. May be repeated."""
        if self._end is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            await self.wait()
        if self.leave_run_dir():
            for path in self._sockets:
                path.unlink(missing_ok=True)

    def leave_run_dir(self) -> bool:
        """Remove the pid file; False when the directory belongs to another process by now."""
        named = _read_pid_file(self.run_dir)
        if named is None or named[0] != self.pid:
            return False
        (self.run_dir / PID_FILE).unlink(missing_ok=True)
        return True

    async def explain(self, error: GuestError, what: str) -> GuestError:
        """`error`, or if QEMU ended, which may show a moment later, an error with its last words."""
        try:
            how = await asyncio.wait_for(self.wait(), END_TIMEOUT_S)
        except TimeoutError:
            return error
        return GuestError(f"{what}: {self.log_tail() or how}")

    def log_tail(self) -> str:
        """The last words of QEMU, for error messages; empty when it said nothing."""
        with contextlib.suppress(OSError):
            data = (self.run_dir / LOG_FILE).read_bytes()[-LOG_TAIL_BYTES:]
            return " / ".join(data.decode(errors="replace").split("\n")).strip(" /")
        return ""

    def close(self) -> None:
        """Give the descriptor back, once nobody waits any more."""
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
            self._end = self._end or "unknown"

    def _reap(self) -> str:
        if self._end is None:
            self._end = "ended" if self._child is None else _describe_status(self._child.wait())
        return self._end


def spawn(
    command: Sequence[str],
    variables: dict[str, str],
    fds: Sequence[int],
    run_dir: Path,
    sockets: Sequence[Path] = (),
) -> QemuProcess:
    """Start QEMU as our child, which dies with the calling thread. `variables` come on top of our environment; what
    QEMU says goes to a log in `run_dir`."""
    if shutil.which(command[0]) is None:
        raise GuestError(
            f"{command[0]} is not installed", hint="install QEMU (Debian: apt install qemu-system-x86)"
        )
    helper = [sys.executable, "-I", "-S", qemu_exec.__file__, str(os.getpid())]
    added = [f"{name}={value}" for name, value in variables.items()]
    log = os.open(run_dir / LOG_FILE, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with placement.unconfined():
            child = subprocess.Popen(
                [*helper, *added, "--", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=tuple(fds),
                umask=0o077,
                start_new_session=True,
            )
    except OSError as error:
        raise GuestError(f"cannot start {command[0]}: {error.strerror}") from error
    finally:
        os.close(log)
    process = QemuProcess(child.pid, child=child, run_dir=run_dir, sockets=sockets)
    write_pid_file(run_dir, child.pid)
    return process


def read_start_time(pid: int) -> int | None:
    """Start time of a process in clock ticks since boot; None when it is gone or only its remains are left."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def write_pid_file(run_dir: Path, pid: int) -> None:
    path = run_dir / PID_FILE
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w", encoding="ascii") as file:
        file.write(f"{pid} {read_start_time(pid)}\n")


def end_leftover(run_dir: Path, *, spare: int | None = None) -> int | None:
    """End the QEMU that a daemon before us left behind in `run_dir`, if there is one; returns its pid.

    `spare` is left alone: the guest that is about to be attached again. Blocks until it is gone. GuestError when it
    cannot be ended: then the guest must not be started again."""
    named = _read_pid_file(run_dir)
    if named is None or named[0] == spare:
        return None
    ended = _end_process(*named)
    (run_dir / PID_FILE).unlink(missing_ok=True)
    return named[0] if ended else None


def _read_pid_file(run_dir: Path) -> tuple[int, int] | None:
    """Pid and start time of the process that the run directory belongs to."""
    try:
        pid, start_time = (int(word) for word in (run_dir / PID_FILE).read_text(encoding="ascii").split())
    except (OSError, ValueError):
        return None
    return pid, start_time


def _end_process(pid: int, start_time: int) -> bool:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if read_start_time(pid) != start_time:
            return False
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        if not _is_readable(pidfd, KILL_TIMEOUT_S):
            raise GuestError(f"QEMU process {pid} of an earlier run does not end")
        return True
    except ProcessLookupError:
        return True
    except PermissionError as error:
        raise GuestError(f"may not end QEMU process {pid} of an earlier run") from error
    finally:
        os.close(pidfd)


def prepare_run_dir(run_dir: Path) -> None:
    """Make the directory for sockets, log and pid file, for its owner only."""
    try:
        run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        run_dir.chmod(0o700)
    except OSError as error:
        raise GuestError(f"cannot make run directory {run_dir}: {error.strerror}") from error


def _describe_status(status: int) -> str:
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


def _is_readable(fd: int, timeout_s: float) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))


async def _until_readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()
    # A descriptor of our own: the loop knows one reader a number, and several may wait.
    own = os.dup(fd)
    loop.add_reader(own, set_done, readable)
    try:
        await readable
    finally:
        loop.remove_reader(own)
        os.close(own)


def set_done(future: asyncio.Future[None]) -> None:
    """Wake whoever waits; a descriptor may be reported readable more than once."""
    if not future.done():
        future.set_result(None)
