"""What the tests of the synthetic guest's process share."""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Awaitable
from dataclasses import replace
from pathlib import Path

from replicator.guests.base import NicEndpoint
from replicator.guests.synthetic import SyntheticConfig, SyntheticGuest
from replicator.guests.synthetic_frames import (
    BEACON_SEQUENCE,
    Reply,
    decode_reply,
    encode_request,
    parse_mac,
)
from replicator.units import PAGE_SIZE

QUIET = SyntheticConfig(ram_bytes=64 * PAGE_SIZE, steps_per_ms=0)
PEER_MAC = parse_mac("52:54:00:00:00:09")
TIMEOUT_S = 20.0


def run(body: Awaitable[None]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(body, TIMEOUT_S)

    asyncio.run(bounded())


class Relay:
    """The other end of the guest's NIC."""

    def __init__(self, nic: NicEndpoint) -> None:
        self.nic = nic
        self.mac = parse_mac(nic.mac)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(self.nic.relay_path))
        self.socket.setblocking(False)

    def connect(self) -> None:
        """To the guest's end: then a full queue there makes `ask` wait."""
        self.socket.connect(str(self.nic.guest_path))

    async def ask(self, sequence: int) -> None:
        await asyncio.get_running_loop().sock_sendall(
            self.socket, encode_request(PEER_MAC, self.mac, sequence)
        )

    async def next_frame(self) -> bytes:
        return await asyncio.get_running_loop().sock_recv(self.socket, 65536)

    async def next_reply(self) -> Reply:
        """To a request, or a beacon."""
        reply = decode_reply(await self.next_frame())
        assert reply is not None
        return reply

    async def hear(self, *, beacons: int, answers: int) -> tuple[list[bytes], list[bytes]]:
        """Frames until there were so many of both kinds: all beacons, all answers."""
        heard: tuple[list[bytes], list[bytes]] = ([], [])
        while len(heard[0]) < beacons or len(heard[1]) < answers:
            frame = await self.next_frame()
            reply = decode_reply(frame)
            assert reply is not None
            heard[reply.sequence != BEACON_SEQUENCE].append(frame)
        return heard

    def read_empty(self) -> list[Reply | None]:
        frames = []
        while select.select([self.socket], [], [], 0)[0]:
            frames.append(decode_reply(self.socket.recv(65536)))
        return frames

    def close(self) -> None:
        self.socket.close()


def with_nic(config: SyntheticConfig, folder: Path) -> SyntheticConfig:
    return replace(config, nic_guest_path=folder / "guest.sock", nic_relay_path=folder / "relay.sock")


def scan(guest: SyntheticGuest) -> list[int]:
    bitmap = guest.ram.layout.new_bitmap()
    reported = guest.scan_dirty(bitmap)
    assert bitmap.count() == reported
    return list(bitmap.pfns())
