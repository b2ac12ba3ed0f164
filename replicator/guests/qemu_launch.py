"""Start a QEMU process and get hold of it: the monitors, the state file, the userfaultfd.

Used for guests that boot and for standbys alike. Whatever fails, nothing stays behind, and the error carries what QEMU
said itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from replicator import urgency
from replicator.errors import GuestError
from replicator.guests.activity import ThreadActivity
from replicator.guests.base import GuestIdentity, NicEndpoint
from replicator.guests.qemu_agent import AgentChannel
from replicator.guests.qemu_command import Launch, build_command, nic_endpoints
from replicator.guests.qemu_config import QemuGuestConfig
from replicator.guests.qemu_control import Control, FastControl, StateFile
from replicator.guests.qemu_firmware import fill_rom
from replicator.guests.qemu_inspect import read_identity, read_vcpu_threads
from replicator.guests.qemu_kvm import choose_accel
from replicator.guests.qemu_process import QemuProcess, end_leftover, prepare_run_dir, spawn
from replicator.guests.qemu_qmp import FastChannel, QmpSession
from replicator.guests.qemu_tracking import GuestTracker
from replicator.memory import GuestLayout, GuestRam, preload_environment, receive_preloaded_uffd

log = logging.getLogger(__name__)

#: From the start of the process to its userfaultfd and its first word.
START_TIMEOUT_S = 20.0
#: One for the library's session, one for `stop` and loads, one for the save and `cont`.
MONITORS = 3
#: QEMU's name for the thread that reads them, as the kernel shows it.
MONITOR_THREAD = "IO mon_iothread"


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
    #: Of its vCPUs.
    activity: ThreadActivity
    agent: AgentChannel | None = None
    _closing: asyncio.Lock = field(default_factory=asyncio.Lock)
    _is_closed: bool = False

    async def kill(self) -> None:
        """End the process and give everything back. May be repeated: only the first call touches the files, which may
        belong to the next guest by then."""
        async with self._closing:
            if self._is_closed:
                return
            await self.process.kill()
            await self._close()

    async def let_go(self) -> None:
        """Give everything back but leave the process alone."""
        async with self._closing:
            if not self._is_closed:
                self.process.leave_run_dir()
                await self._close()

    async def _close(self) -> None:
        self._is_closed = True
        self.activity.close()
        self.tracker.close()
        self.ram.close()
        self.control.close()
        if self.agent is not None:
            self.agent.close()
        await self.session.close()
        self.process.close()


async def launch(
    config: QemuGuestConfig,
    ram_path: Path,
    run_dir: Path,
    *,
    incoming: bool,
    relay_dir: Path | None = None,
    identity: GuestIdentity | None = None,
) -> Machine:
    """Start QEMU, paused, on the RAM file, which must exist. Must be called on the thread that lives as long as the
    daemon: the process dies with it. `relay_dir` is where the relay's ends of the NICs are, if not in `run_dir`.
    `identity` is that of a machine of the same configuration, if it is known: finding it out takes reading all disks."""
    prepare_run_dir(run_dir)
    end_leftover(run_dir)
    nics = nic_endpoints(config, run_dir, relay_dir)
    for nic in nics:
        nic.guest_path.unlink(missing_ok=True)
    accel = await choose_accel(config)
    async with contextlib.AsyncExitStack() as undo:
        begin = Launch(accel, ram_path, run_dir, (), incoming, relay_dir=relay_dir)
        machine = await _launch(config, begin, nics, identity, undo)
        undo.pop_all()
        return machine


async def _launch(
    config: QemuGuestConfig,
    begin: Launch,
    nics: tuple[NicEndpoint, ...],
    identity: GuestIdentity | None,
    undo: contextlib.AsyncExitStack,
) -> Machine:
    pairs = [socket.socketpair() for _ in range(MONITORS if config.agent is None else MONITORS + 1)]
    ours, theirs = [end for end, _ in pairs], [end for _, end in pairs]
    for end in ours:
        undo.callback(end.close)
    process, uffd = await _start(config, begin, nics, theirs, undo)
    tracker_uffd = contextlib.ExitStack()
    if uffd is not None:
        tracker_uffd.callback(os.close, uffd)
    undo.push(tracker_uffd)
    try:
        session, control = await _open_monitors(config.name, ours[:MONITORS], undo)
        _hurry_monitors(process.pid)
        identity = identity or await read_identity(session, process.pid)
        vcpus = await read_vcpu_threads(session)
        if begin.incoming:
            await fill_rom(session, process.pid)
    except GuestError as error:
        raise await process.explain(error, "QEMU ended") from error
    ram = GuestRam(begin.ram_path, GuestLayout(identity.layout))
    tracker_uffd.pop_all()
    return Machine(
        process=process,
        session=session,
        control=control,
        identity=identity,
        ram=ram,
        tracker=GuestTracker(process.pid, uffd, ram),
        nics=nics,
        activity=ThreadActivity(process.pid, vcpus),
        agent=AgentChannel(ours[MONITORS]) if config.agent is not None else None,
    )


async def _start(
    config: QemuGuestConfig,
    begin: Launch,
    nics: tuple[NicEndpoint, ...],
    ends: Sequence[socket.socket],
    undo: contextlib.AsyncExitStack,
) -> tuple[QemuProcess, int | None]:
    """The process and its userfaultfd, if there is one. `ends`: of its monitors and then the agent's channel; they are
    its own from now on."""
    run_dir = begin.run_dir
    with contextlib.ExitStack() as theirs, _listen(run_dir / "uffd.sock") as listener:
        fds = tuple(theirs.enter_context(end).fileno() for end in ends)
        agent_fd = None if config.agent is None else fds[MONITORS]
        command = build_command(config, replace(begin, qmp_fds=fds[:MONITORS], agent_fd=agent_fd))
        sockets = [nic.guest_path for nic in nics]
        process = spawn(command, preload_environment(listener.getsockname(), {}), fds, run_dir, sockets)
        undo.callback(process.close)
        undo.push_async_callback(process.kill)
        return process, await _receive_uffd(listener, process)


async def _open_monitors(
    name: str, ends: Sequence[socket.socket], undo: contextlib.AsyncExitStack
) -> tuple[QmpSession, FastControl]:
    """What is not urgent, and what is. `ends`: of the monitors, in the order of MONITORS."""
    session_end, channel_end, saver_end = ends
    session, state = QmpSession(name), StateFile()
    undo.callback(state.close)
    undo.push_async_callback(session.close)
    session_end.setblocking(False)
    await session.open(session_end)
    channel, saver = FastChannel(channel_end), FastChannel(saver_end)
    await channel.open()
    await saver.open()
    await state.hand_over(session)
    return session, FastControl(channel, state, saver)


def _hurry_monitors(pid: int) -> None:
    """Let the thread that reads the monitors run as soon as there is something to read, as the thread that carries it
    out does in a pause: it would wait for what the vCPUs leave."""
    for task in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(OSError):
            if (task / "comm").read_text().strip() == MONITOR_THREAD:
                urgency.hurry_thread(int(task.name))


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


async def identify_guest(config: QemuGuestConfig, run_dir: Path) -> GuestIdentity:
    """What a guest of this file is on this host, found out from a QEMU that is started for it and never runs.

    Needs a directory of its own. Takes some 200 ms and no memory to speak of."""
    prepare_run_dir(run_dir)
    ram_path = run_dir / "ram"
    make_ram_file(ram_path, config.ram_bytes, reserve=False)
    try:
        machine = await launch(config, ram_path, run_dir, incoming=True)
        await machine.kill()
        return machine.identity
    finally:
        ram_path.unlink(missing_ok=True)


def make_ram_file(path: Path, size: int, *, reserve: bool) -> None:
    """A new file of zeros, for its owner only. `reserve` takes the memory now."""
    try:
        path.unlink(missing_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, size)
            if reserve:
                os.posix_fallocate(fd, 0, size)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        finally:
            os.close(fd)
    except OSError as error:
        hint = "RAM files belong on a tmpfs with room for the whole guest, such as /dev/shm"
        raise GuestError(
            f"cannot make RAM file {path} of {size} bytes: {error.strerror}", hint=hint
        ) from error
