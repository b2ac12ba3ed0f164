"""A QEMU that waits for the state of another one. Implements guests.base.Standby.

It runs the primary's command line with `-incoming defer` on the replica's RAM file and touches no page of it. The
device state reaches it as an incoming migration without RAM, from a memory file of ours: the one way that works, for
`xen-load-devices-state` aborts in QEMU 7.2. A process loads one state in its life.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from replicator.errors import GuestError, require
from replicator.guests.base import GuestIdentity, NicEndpoint
from replicator.guests.qemu_config import QemuGuestConfig
from replicator.guests.qemu_guest import QemuGuest
from replicator.guests.qemu_launch import Machine, launch

LOAD_TIMEOUT_S = 20.0
#: Between two looks at the loading, which takes 3 to 7 ms.
LOOK_INTERVAL_S = 0.001
_STATE_NAME = "device-state"


class QemuStandby:
    """A paused and empty QEMU beside its RAM file. After `activate` the guest returned owns the process."""

    def __init__(self, config: QemuGuestConfig, run_dir: Path) -> None:
        self._config = config
        self._run_dir = run_dir
        self._machine: Machine | None = None
        self._is_activated = False

    async def start(self, ram_path: Path) -> None:
        """See guests.base.Standby. The file must have the size of the guest's RAM."""
        require(self._machine is None, "a standby is started once")
        check_ram_file(self._config, ram_path)
        self._machine = await launch(self._config, ram_path, self._run_dir, incoming=True)

    @property
    def identity(self) -> GuestIdentity:
        """Of the machine that waits here; it can take over from a guest with an equal one. After `start`."""
        return self._started().identity

    @property
    def nics(self) -> tuple[NicEndpoint, ...]:
        return self._started().nics

    @property
    def pid(self) -> int:
        return self._started().process.pid

    @property
    def is_alive(self) -> bool:
        return self._machine is not None and not self._machine.process.has_ended()

    async def activate(self, device_state: bytes) -> QemuGuest:
        machine = self._started()
        if self._is_activated:
            raise GuestError("a standby is activated once")
        self._is_activated = True
        try:
            await load_incoming(machine, device_state)
        except GuestError:
            await machine.kill()
            raise
        return QemuGuest(machine, running=False)

    async def wait(self) -> str:
        how = await self._started().process.wait()
        return self._started().process.log_tail() or how

    async def kill(self) -> None:
        if self._machine is not None and not self._is_activated:
            await self._machine.kill()
            self._machine = None

    def _started(self) -> Machine:
        if self._machine is None:
            raise GuestError("the standby was not started, or was ended")
        return self._machine


def check_ram_file(config: QemuGuestConfig, ram_path: Path) -> None:
    """GuestError when there is no such file, or one of another size than the guest's RAM."""
    try:
        size = ram_path.stat().st_size
    except OSError as error:
        raise GuestError(f"cannot use RAM file {ram_path}: {error.strerror}") from error
    if size != config.ram_bytes:
        raise GuestError(f"RAM file {ram_path} has {size} bytes, the guest has {config.ram_bytes}")


async def load_incoming(machine: Machine, device_state: bytes) -> None:
    """Load the state into a machine that was launched to wait for one; it is paused afterwards."""
    fd = os.memfd_create(_STATE_NAME, os.MFD_CLOEXEC)
    try:
        written = os.pwrite(fd, device_state, 0)
        require(written == len(device_state), "a memory file takes all that is written")
        await machine.session.pass_fd(fd, "getfd", fdname=_STATE_NAME)
    finally:
        os.close(fd)
    await machine.session.execute("migrate-incoming", uri=f"fd:{_STATE_NAME}")
    try:
        await asyncio.wait_for(_until_loaded(machine), LOAD_TIMEOUT_S)
    except TimeoutError:
        raise GuestError(f"the device state was not loaded within {LOAD_TIMEOUT_S} s") from None
    except GuestError as error:
        raise await machine.process.explain(error, "QEMU refuses the device state") from error


async def _until_loaded(machine: Machine) -> None:
    while True:
        status = (await machine.session.execute("query-status"))["status"]
        if status == "paused":
            return
        if status != "inmigrate":
            raise GuestError(f"the standby is {status} instead of paused")
        await asyncio.sleep(LOOK_INTERVAL_S)
