"""Attach to a QEMU that runs already and that somebody else started.

It must satisfy qemu_rules. Its RAM is opened through its own descriptors, so it may be a memfd or a file of another
mount namespace; its userfaultfd is injected. With a second QMP socket given, checkpoints use that one alone and are
about a millisecond shorter. Where QEMU listens on a unix socket for whoever talks to the guest agent, that is us.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import stat
import struct
from pathlib import Path

from replicator.errors import GuestError
from replicator.guests.activity import ThreadActivity
from replicator.guests.base import GuestIdentity, NicEndpoint
from replicator.guests.qemu_agent import AgentChannel
from replicator.guests.qemu_control import Control, FastControl, PlainControl, StateFile
from replicator.guests.qemu_guest import QemuGuest
from replicator.guests.qemu_inspect import (
    read_agent_socket,
    read_identity,
    read_nics,
    read_vcpu_threads,
)
from replicator.guests.qemu_launch import Machine
from replicator.guests.qemu_process import QemuProcess, end_leftover, prepare_run_dir, write_pid_file
from replicator.guests.qemu_qmp import FastChannel, QmpSession
from replicator.guests.qemu_rules import check_rules
from replicator.guests.qemu_tracking import GuestTracker
from replicator.memory import GuestLayout, GuestRam, inject_uffd
from replicator.memory.maps import find_file_areas

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 5.0


async def attach_guest(
    qmp_path: Path,
    run_dir: Path,
    *,
    fast_qmp_path: Path | None = None,
    pid: int | None = None,
    agent_channel: str = "",
) -> QemuGuest:
    """Take a running QEMU under protection. GuestError names every rule that it breaks.

    `agent_channel` names the port of the guest's agent, "" for none; the guest has no agent when no socket leads there.
    `pid` is checked against the process behind the socket, when given. What an earlier daemon left behind in `run_dir`
    is ended first, unless it is this very process."""
    prepare_run_dir(run_dir)
    async with contextlib.AsyncExitStack() as undo:
        sock = await asyncio.to_thread(_connect, qmp_path)
        found = _peer_pid(sock)
        undo.callback(sock.close)
        if pid is not None and pid != found:
            raise GuestError(f"{qmp_path} belongs to process {found}, not to {pid}")
        end_leftover(run_dir, spare=found)
        session = QmpSession(f"attached-{found}")
        undo.push_async_callback(session.close)
        await session.open(sock)
        machine = await _take_over(session, found, run_dir, fast_qmp_path, undo)
        if agent_channel:
            machine.agent = await _open_agent(session, agent_channel, undo)
        status = str((await session.execute("query-status"))["status"])
        write_pid_file(run_dir, found)
        undo.pop_all()
        return QemuGuest(machine, running=status == "running")


async def _take_over(
    session: QmpSession, pid: int, run_dir: Path, fast_qmp_path: Path | None, undo: contextlib.AsyncExitStack
) -> Machine:
    await check_rules(session)
    identity = await read_identity(session, pid)
    nics = await _list_nics(session)
    process = QemuProcess(pid, child=None, run_dir=run_dir, sockets=[nic.guest_path for nic in nics])
    undo.callback(process.close)
    ram = open_process_ram(pid, identity)
    undo.callback(ram.close)
    control = await _open_control(session, fast_qmp_path)
    undo.callback(control.close)
    return Machine(
        process=process,
        session=session,
        control=control,
        identity=identity,
        ram=ram,
        tracker=GuestTracker(pid, await asyncio.to_thread(_try_inject, pid), ram),
        nics=nics,
        activity=ThreadActivity(pid, await read_vcpu_threads(session)),
    )


async def _open_control(session: QmpSession, fast_qmp_path: Path | None) -> Control:
    state = StateFile()
    try:
        await state.hand_over(session)
        if fast_qmp_path is None:
            return PlainControl(session, state)
        channel = FastChannel(await asyncio.to_thread(_connect, fast_qmp_path))
        await channel.open()
        return FastControl(channel, state)
    except GuestError:
        state.close()
        raise


async def _open_agent(
    session: QmpSession, channel: str, undo: contextlib.AsyncExitStack
) -> AgentChannel | None:
    path = await read_agent_socket(session, channel)
    if path is None:
        log.warning("no unix socket leads to the guest's port %s: the agent is out of reach", channel)
        return None
    try:
        agent = AgentChannel(await asyncio.to_thread(_connect, path))
    except GuestError as error:
        log.warning("the guest's agent is out of reach: %s", error)
        return None
    undo.callback(agent.close)
    return agent


async def _list_nics(session: QmpSession) -> tuple[NicEndpoint, ...]:
    return tuple(
        NicEndpoint(f"nic{index}", nic.mac, nic.local, nic.remote)
        for index, nic in enumerate(await read_nics(session))
        if nic.local is not None and nic.remote is not None
    )


def open_process_ram(pid: int, identity: GuestIdentity) -> GuestRam:
    """The RAM of a QEMU process, through the descriptor by which it holds it. GuestError when there is none."""
    layout = GuestLayout(identity.layout)
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except OSError as error:
        raise GuestError(
            f"cannot see the files of process {pid}: {error.strerror}", hint="needs root"
        ) from error
    for name in names:
        path = Path(f"/proc/{pid}/fd/{name}")
        if _is_ram(pid, path, layout.file_bytes):
            return GuestRam(path, layout)
    raise GuestError(f"process {pid} holds no file with the guest's {identity.ram_bytes} bytes of RAM")


def _is_ram(pid: int, path: Path, size: int) -> bool:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size < size:
            return False
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        find_file_areas(pid, fd, size)
    except GuestError:
        return False
    finally:
        os.close(fd)
    return True


def _try_inject(pid: int) -> int | None:
    try:
        return inject_uffd(pid)
    except GuestError as error:
        log.warning("no userfaultfd of QEMU process %d: %s", pid, error)
        return None


def _connect(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(CONNECT_TIMEOUT_S)
        sock.connect(str(path))
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise GuestError(f"cannot connect to socket {path}: {error}") from error
    return sock


def _peer_pid(sock: socket.socket) -> int:
    """The process that listens on the other end."""
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("=3i"))
    return int(struct.unpack("=3i", credentials)[0])
