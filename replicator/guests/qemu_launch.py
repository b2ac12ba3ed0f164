"""Start a QEMU process and get hold of it: both monitors, the state file, the userfaultfd.

Used for guests that boot and for standbys alike. Whatever fails, nothing stays behind, and the error carries what QEMU
said itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from replicator.errors import GuestError
from replicator.guests.base import GuestIdentity, NicEndpoint
from replicator.guests.qemu_command import Launch, build_command, nic_endpoints
from replicator.guests.qemu_config import QemuGuestConfig
from replicator.guests.qemu_control import Control, FastControl, StateFile
from replicator.guests.qemu_inspect import read_identity
from replicator.guests.qemu_kvm import choose_accel
from replicator.guests.qemu_process import QemuProcess, end_leftover, prepare_run_dir, spawn
from replicator.guests.qemu_qmp import FastChannel, QmpSession
from replicator.guests.qemu_tracking import GuestTracker
from replicator.memory import GuestLayout, GuestRam, preload_environment, receive_preloaded_uffd

log = logging.getLogger(__name__)

#: From the start of the process to its userfaultfd and its first word.
START_TIMEOUT_S = 20.0

Result = TypeVar("Result")


@dataclass(slots=True)
class Machine:
    """A QEMU process with all that we hold of it."""

    process: QemuProcess
    session: QmpSession
    control: Control
    identity: GuestIdentity
    ram: GuestRam
    tracker: GuestTracker
    nics: tuple[NicEndpoint, ...]

    async def kill(self) -> None:
        """End the process and give everything back. May be repeated."""
        await self.process.kill()
        await self.let_go()
        for nic in self.nics:
            nic.guest_path.unlink(missing_ok=True)

    async def let_go(self) -> None:
        """Give everything back but leave the process alone."""
        self.tracker.close()
        self.ram.close()
        self.control.close()
        await self.session.close()
        self.process.close()


async def launch(config: QemuGuestConfig, ram_path: Path, run_dir: Path, *, incoming: bool) -> Machine:
    """Start QEMU, paused, on the RAM file, which must exist. Must be called on the thread that lives as long as the
    daemon: the process dies with it."""
    prepare_run_dir(run_dir)
    end_leftover(run_dir)
    for nic in nic_endpoints(config, run_dir):
        nic.guest_path.unlink(missing_ok=True)
    accel = await choose_accel(config)
    async with contextlib.AsyncExitStack() as undo:
        machine = await _launch(config, ram_path, run_dir, accel, incoming, undo)
        undo.pop_all()
        return machine


async def _launch(
    config: QemuGuestConfig,
    ram_path: Path,
    run_dir: Path,
    accel: str,
    incoming: bool,
    undo: contextlib.AsyncExitStack,
) -> Machine:
    (ours, theirs), (fast_ours, fast_theirs) = socket.socketpair(), socket.socketpair()
    for end in (ours, fast_ours):
        undo.callback(end.close)
    with theirs, fast_theirs, _listen(run_dir / "uffd.sock") as listener:
        fds = (theirs.fileno(), fast_theirs.fileno())
        command = build_command(config, Launch(accel, ram_path, run_dir, fds, incoming))
        process = spawn(command, preload_environment(listener.getsockname(), {}), fds, run_dir)
        undo.callback(process.close)
        undo.push_async_callback(process.kill)
        uffd = await _receive_uffd(listener, process)
    tracker_uffd = contextlib.ExitStack()
    if uffd is not None:
        tracker_uffd.callback(os.close, uffd)
    undo.push(tracker_uffd)
    session, channel, state = QmpSession(config.name), FastChannel(fast_ours), StateFile()
    undo.callback(state.close)
    undo.push_async_callback(session.close)
    identity = await _or_last_words(process, _open_monitors(session, ours, channel, state))
    ram = GuestRam(ram_path, GuestLayout(identity.layout))
    tracker_uffd.pop_all()
    return Machine(
        process=process,
        session=session,
        control=FastControl(channel, state),
        identity=identity,
        ram=ram,
        tracker=GuestTracker(process.pid, uffd, ram),
        nics=nic_endpoints(config, run_dir),
    )


async def _open_monitors(
    session: QmpSession, sock: socket.socket, channel: FastChannel, state: StateFile
) -> GuestIdentity:
    sock.setblocking(False)
    await session.open(sock)
    await channel.open()
    await state.hand_over(session)
    return await read_identity(session)


async def _or_last_words(process: QemuProcess, work: Awaitable[Result]) -> Result:
    """The result of `work`; when QEMU ends meanwhile, an error with what it said."""
    try:
        return await work
    except GuestError as error:
        with contextlib.suppress(TimeoutError):
            how = await asyncio.wait_for(process.wait(), 1.0)
            raise GuestError(f"QEMU ended: {process.log_tail() or how}") from error
        raise


@contextlib.contextmanager
def _listen(path: Path) -> Iterator[socket.socket]:
    """A socket that only our user can reach: its directory is 0700."""
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        try:
            listener.bind(str(path))
        except OSError as error:
            raise GuestError(f"cannot make socket {path}: {error}") from error
        try:
            path.chmod(0o600)
            listener.listen(1)
            yield listener
        finally:
            path.unlink(missing_ok=True)


async def _receive_uffd(listener: socket.socket, process: QemuProcess) -> int | None:
    """The userfaultfd that the preloaded library hands over; None, with a warning, when there is none."""
    try:
        return await asyncio.to_thread(
            receive_preloaded_uffd, listener, process.pid, timeout_s=START_TIMEOUT_S
        )
    except GuestError as error:
        log.warning("no userfaultfd of QEMU process %d: %s", process.pid, error)
        return None
