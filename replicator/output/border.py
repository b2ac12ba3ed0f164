"""A secondary's NIC towards the world: shut until the take-over, and shifted after it.

Shut means that there is no way through: nothing is read from the network and nothing written to it, whatever the rest
of the relay does."""

from __future__ import annotations

from replicator.output.core import NicPort
from replicator.output.native_shifts import Shifts


class BorderPort:
    """The same NIC to the guest as `port`."""

    def __init__(self, port: NicPort, nic: int, table: Shifts) -> None:
        self._port = port
        self._nic = nic
        self._table = table
        self._is_open = False
        self.mac = port.mac
        self.recv_guest = port.recv_guest
        self.send = port.send
        self.unread_bytes = port.unread_bytes

    @property
    def connected(self) -> bool:
        return self._port.connected

    def open(self) -> None:
        """After the table's `take_over`."""
        self._is_open = True

    def recv_network(self) -> bytes | None:
        if not self._is_open:
            return None
        data = self._port.recv_network()
        return None if data is None else self._table.to_guest(data, self._nic)

    def send_network(self, data: bytes) -> bool:
        return self._is_open and self._port.send_network(self._table.from_guest(data, self._nic))
