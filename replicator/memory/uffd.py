"""How we come by a userfaultfd of the guest's process, which is what lets us write-protect its pages from
outside.

Preload, for guests that we start: `preload_environment` names our little library and a socket of ours; the
library opens the descriptor in the new process, sends it (`receive_preloaded_uffd`) and takes both
variables out of the environment. Start the guest's program itself, not a shell around it: the first program
of the process hands over, and exec ends it.

Injection, for processes that run already: `inject_uffd` stops one thread for well under a millisecond and
has it make the system call. Its system call in progress, if any, is restarted by the kernel as after any
stop.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import platform
import socket
import struct
from collections.abc import Iterable
from pathlib import Path

from replicator._native import ffi, lib
from replicator.errors import GuestError, NativeError
from replicator.memory.check import check
from replicator.memory.maps import Area, read_areas

#: Names the socket to native/preload.c.
SOCKET_VARIABLE = "REPLICATOR_UFFD_SOCKET"
#: Attempts before a thread that is always in a restartable sequence is given up.
ATTEMPTS_MAX = 100
#: The system call instruction of 64-bit x86.
SYSCALL_X86_64 = b"\x0f\x05"

_HINT_KERNEL = (
    "needs Linux 6.7 or newer and, for users other than root, vm.unprivileged_userfaultfd or CAP_SYS_PTRACE"
)
_HINT_PTRACE = "needs root, or the same user and kernel.yama.ptrace_scope=0"


def find_preload_library() -> Path:
    """The library for LD_PRELOAD, built with the package."""
    spec = importlib.util.find_spec("replicator._preload")
    if spec is None or spec.origin is None:
        raise GuestError("the preload library is missing", hint="build the package: pip install -e .")
    return Path(spec.origin)


def preload_environment(
    socket_path: str | os.PathLike[str], base: dict[str, str] | None = None
) -> dict[str, str]:
    """The environment with which to start a guest so that it hands its userfaultfd to the listener at
    `socket_path`."""
    environment = dict(os.environ if base is None else base)
    environment["LD_PRELOAD"] = str(find_preload_library())
    environment[SOCKET_VARIABLE] = os.fspath(socket_path)
    return environment


def receive_preloaded_uffd(listener: socket.socket, pid: int, *, timeout_s: float) -> int:
    """The userfaultfd of process `pid`, which was started with `preload_environment`. The descriptor is the
    caller's.

    Blocks for at most `timeout_s`. GuestError when nothing comes, when another process answers or when the
    process may not open a userfaultfd."""
    listener.settimeout(timeout_s)
    try:
        peer, _ = listener.accept()
        with peer:
            peer.settimeout(timeout_s)
            return _receive_fd(peer, pid)
    except TimeoutError as error:
        raise GuestError(f"process {pid} handed over no userfaultfd within {timeout_s} s") from error


def _receive_fd(peer: socket.socket, pid: int) -> int:
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("=3i"))
    sender = struct.unpack("=3i", credentials)[0]
    _, fds, _, _ = socket.recv_fds(peer, 1, 1)
    if not fds:
        raise GuestError(f"process {sender} could not open a userfaultfd", hint=_HINT_KERNEL)
    if sender != pid:
        os.close(fds[0])
        raise GuestError(f"process {sender} handed over a userfaultfd instead of process {pid}")
    os.set_inheritable(fds[0], False)
    return fds[0]


def open_own_uffd() -> int:
    """A userfaultfd of this process, for RAM that this process itself writes as a guest would."""
    slot = ffi.new("int *")
    check(lib.rp_uffd_open(slot), "cannot open a userfaultfd", hint=_HINT_KERNEL)
    return int(slot[0])


def inject_uffd(pid: int) -> int:
    """Open a userfaultfd in a running process and take it over; the process goes on as if nothing had
    happened.

    Blocks for about a millisecond, at worst two seconds a thread that cannot be stopped. Only x86-64, only
    64-bit processes. GuestError when it cannot be done; the process then is as it was."""
    if platform.machine() != "x86_64":
        raise GuestError(
            f"injection is not written for {platform.machine()}", hint="start the guest with preload"
        )
    address = find_syscall_instruction(pid)
    confined = _is_confined(pid)
    problem: NativeError | None = None
    for tid in _list_threads(pid):
        try:
            return _inject_into_thread(pid, tid, address, confined)
        except NativeError as error:
            problem = error
    raise GuestError(f"no thread of process {pid} could be borrowed: {problem}", hint=_HINT_PTRACE)


def _inject_into_thread(pid: int, tid: int, address: int, confined: bool) -> int:
    slot = ffi.new("int *")
    code = -errno.EAGAIN
    for _ in range(ATTEMPTS_MAX):
        code = lib.rp_inject_uffd(pid, tid, address, confined, slot)
        if code != -errno.EAGAIN:
            break
    check(code, f"injection into thread {tid} of process {pid}", hint=_HINT_PTRACE)
    return int(slot[0])


def find_syscall_instruction(pid: int) -> int:
    """Address of a system call instruction in executable memory of the process: the vDSO has one, the C
    library many."""
    areas = [area for area in read_areas(pid) if "x" in area.access and area.name != "[vsyscall]"]
    areas.sort(key=lambda area: area.name != "[vdso]")
    try:
        found = _search_areas(pid, areas)
    except OSError as error:
        raise GuestError(
            f"cannot read the memory of process {pid}: {error.strerror}", hint=_HINT_PTRACE
        ) from error
    if found is None:
        raise GuestError(f"process {pid} has no system call instruction in its memory")
    return found


def _search_areas(pid: int, areas: Iterable[Area]) -> int | None:
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for area in areas:
            memory.seek(area.start)
            place = memory.read(area.end - area.start).find(SYSCALL_X86_64)
            if place >= 0:
                return area.start + place
    return None


def _list_threads(pid: int) -> list[int]:
    """Thread ids, the first thread first."""
    try:
        return sorted(
            (int(name) for name in os.listdir(f"/proc/{pid}/task")), key=lambda tid: (tid != pid, tid)
        )
    except OSError as error:
        raise GuestError(f"process {pid} is gone") from error


def _is_confined(pid: int) -> bool:
    """Whether seccomp filters the system calls of the process; they are lifted for the injected ones."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError as error:
        raise GuestError(f"process {pid} is gone") from error
    return any(line.split() == ["Seccomp:", "2"] for line in status.splitlines())
