"""Harm to what a pair stands on: its arbiter, and the secondary's disk."""

from __future__ import annotations

import socket
from pathlib import Path

from replicator.demo.lab import CLIENT
from replicator.drill.harm.injury import Injury
from replicator.drill.stand import rooms
from replicator.drill.stand.config import arbiter_folder, arbiter_link
from replicator.drill.stand.guests import GUEST_IP
from replicator.drill.stand.voice import call_inside

#: While the secondary stands in its phase, epochs wait and the guest's changes gather in one; nothing tells when.
BURST_S = 0.25


class ArbiterLost(Injury):
    """The sides' links to the arbiter's folder are gone."""

    @property
    def sides(self) -> tuple[str, ...]:
        return (self.primary, self.other)

    def strike(self) -> None:
        for name in self.sides:
            arbiter_link(self.stand.scratch, name).unlink()

    def mend(self) -> None:
        for name in self.sides:
            arbiter_link(self.stand.scratch, name).symlink_to(arbiter_folder(self.stand.scratch))


class ArbiterLostPrimary(ArbiterLost):
    @property
    def sides(self) -> tuple[str, ...]:
        return (self.primary,)


class ArbiterLostSecondary(ArbiterLost):
    @property
    def sides(self) -> tuple[str, ...]:
        return (self.other,)


class EtcdFrozen(Injury):
    def strike(self) -> None:
        self.stand.etcd.freeze()

    def mend(self) -> None:
        self.stand.etcd.thaw()


class EtcdKilled(EtcdFrozen):
    def strike(self) -> None:
        self.stand.etcd.end()

    def mend(self) -> None:
        self.stand.etcd.start()


class DiskFull(Injury):
    """Epochs that fit staging need no space; so the guest is told to change more than that at once."""

    def strike(self) -> None:
        rooms.fill(self._room)
        port, datagram = self.stand.guest.burst
        namespace = self.stand.lab.namespaces[CLIENT]
        with call_inside(namespace, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
            sender.sendto(datagram, (GUEST_IP, port))
        self.stand.pass_time(BURST_S)

    def mend(self) -> None:
        rooms.empty(self._room)

    @property
    def _room(self) -> Path:
        return self.stand.scratch / self.other
