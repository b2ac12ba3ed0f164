"""A QEMU that somebody else started, as a daemon sees it: its guest is not booted but taken hold of."""

from __future__ import annotations

from pathlib import Path

from replicator.errors import ConfigError, GuestError
from replicator.guests.base import Guest
from replicator.guests.qemu_attach import attach_guest
from replicator.guests.qemu_config import QemuGuestConfig
from replicator.guests.qemu_guest import QemuGuest
from replicator.service.agreement import find_differences
from replicator.service.guest_kit import GuestKit
from replicator.service.qemu_kit import QemuKit


class AttachedKit(QemuKit):
    """`start` attaches. The guest file describes the guest all the same: the standby of it is started from there."""

    def __init__(self, config: QemuGuestConfig, qmp_path: Path, fast_qmp_path: Path | None) -> None:
        super().__init__(config)
        self._qmp_path = qmp_path
        self._fast_qmp_path = fast_qmp_path

    async def start(self, ram_path: Path, run_dir: Path) -> Guest:
        """The running guest; `ram_path` is not used. GuestError when it breaks a rule or is not the file's guest: then
        it runs on as it was."""
        described = await self.identify(run_dir)
        guest = await attach_guest(
            self._qmp_path,
            run_dir,
            fast_qmp_path=self._fast_qmp_path,
            agent_channel=self.config.agent.channel if self.config.agent is not None else "",
        )
        try:
            differences = find_differences(described, guest.identity, whose="the running guest")
            if differences:
                raise GuestError(
                    f"the guest behind {self._qmp_path} is not the one of the guest file: {differences}",
                    hint="README.md, Attach, has the command line that fits a guest file",
                )
            if await guest.query_status() == "paused":
                await guest.resume()
        except GuestError:
            await guest.let_go()
            raise
        return guest

    async def give_back(self, guest: Guest) -> None:
        if isinstance(guest, QemuGuest):
            await guest.let_go()


def attach_instead(kit: GuestKit, qmp_path: Path, fast_qmp_path: Path | None) -> AttachedKit:
    """The kit whose guest runs already. ConfigError when guests of this kind cannot be attached."""
    if not isinstance(kit, QemuKit):
        raise ConfigError("only a QEMU guest can be attached", hint='use a guest file with kind = "qemu"')
    return AttachedKit(kit.config, qmp_path, fast_qmp_path)
