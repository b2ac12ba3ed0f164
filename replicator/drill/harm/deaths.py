"""Deaths and freezes of daemons and guests."""

from __future__ import annotations

import os
import signal

from replicator.drill.harm.injury import Injury
from replicator.drill.matrix.phases import Role
from replicator.errors import GuestError

#: Less than the lease of the file arbiter (stand_config.TTL_MS) and than the peer's patience.
SHORT_FREEZE_S = 0.12


class KillHost(Injury):
    def strike(self) -> None:
        self.stand.kill(self.primary)


class KillDaemon(Injury):
    def strike(self) -> None:
        self.stand.kill_daemon(self.primary)


class KillGuest(Injury):
    """The daemon sees its guest's death, hands over and ends."""

    def strike(self) -> None:
        for pid in self.stand.guests_of(self.primary):
            os.kill(pid, signal.SIGKILL)

    def mend(self) -> None:
        self.stand.wait_end(self.primary)


class KillSecondary(Injury):
    def strike(self) -> None:
        self.stand.kill(self.other)


class KillStandby(Injury):
    """Protection goes on; the daemon starts another standby."""

    def strike(self) -> None:
        self._old = self.stand.standbys_of(self.other)
        for pid in self._old:
            os.kill(pid, signal.SIGKILL)

    def mend(self) -> None:
        self.stand.wait_new_standby(self.other, self._old)


class KillVm(Injury):
    """Its replica is gone with it: the pair begins anew."""

    def strike(self) -> None:
        self._old = self.stand.vm_of(self.other)
        if not self._old:
            # And 0 would be this process's own group.
            raise GuestError("no VM has run beside the primary's")
        os.kill(self._old, signal.SIGKILL)

    def mend(self) -> None:
        self.stand.wait_new_vm(self.other, self._old)


class KillBoth(Injury):
    """Only the replica is left; its daemon takes over when it is started again."""

    def strike(self) -> None:
        self.stand.kill(self.primary)
        self.stand.kill(self.other)
        self.stand.start(self.other, Role.SECONDARY)


class FreezeLong(Injury):
    """It wakes up after its lease, finds it taken and fences itself."""

    def strike(self) -> None:
        self.stand.signal(self.primary, signal.SIGSTOP)

    def mend(self) -> None:
        self.stand.signal(self.primary, signal.SIGCONT)
        self.stand.wait_end(self.primary)


class FreezeShort(Injury):
    """The only fault whose length is a time: it is one by its nature."""

    def strike(self) -> None:
        self.stand.signal(self.primary, signal.SIGSTOP)
        self.stand.pass_time(SHORT_FREEZE_S)
        self.stand.signal(self.primary, signal.SIGCONT)


class FreezeSecondary(Injury):
    def strike(self) -> None:
        self.stand.signal(self.other, signal.SIGSTOP)

    def mend(self) -> None:
        self.stand.signal(self.other, signal.SIGCONT)
