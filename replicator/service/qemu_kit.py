"""The QEMU guest as a daemon sees it before it runs."""

from __future__ import annotations

from pathlib import Path

from replicator.guests.base import Guest, GuestIdentity, NicEndpoint, Standby, VmStarter
from replicator.guests.qemu_command import nic_endpoints
from replicator.guests.qemu_config import QemuGuestConfig, load_guest_file
from replicator.guests.qemu_guest import start_guest
from replicator.guests.qemu_launch import identify_guest
from replicator.guests.qemu_secondary import QemuVmStarter
from replicator.guests.qemu_standby import QemuStandby

_PROBE = "probe"


class QemuKit:
    """Implements guest_kit.GuestKit."""

    def __init__(self, config: QemuGuestConfig) -> None:
        self._config = config

    @property
    def config(self) -> QemuGuestConfig:
        return self._config

    @property
    def name(self) -> str:
        return self._config.name

    @property
    def nic_count(self) -> int:
        return len(self._config.nics)

    @property
    def has_agent(self) -> bool:
        return self._config.agent is not None

    async def identify(self, run_dir: Path) -> GuestIdentity:
        """Of a machine that is started for the question and ended again: only QEMU knows its memory map."""
        return await identify_guest(self._config, run_dir / _PROBE)

    async def start(self, ram_path: Path, run_dir: Path) -> Guest:
        return await start_guest(self._config, ram_path, run_dir)

    async def give_back(self, guest: Guest) -> None:
        await guest.kill()

    def make_standby(self, run_dir: Path) -> Standby:
        return QemuStandby(self._config, run_dir)

    def nics(self, run_dir: Path) -> tuple[NicEndpoint, ...]:
        return nic_endpoints(self._config, run_dir)

    def make_vm_starter(self, ram_path: Path, run_dir: Path) -> VmStarter:
        return QemuVmStarter(self._config, ram_path, run_dir)


def load_qemu_kit(path: Path) -> QemuKit:
    return QemuKit(load_guest_file(path))
