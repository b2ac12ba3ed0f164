"""A real guest for live tests: the golden image, and a host on the other end of its NIC socket."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from replicator.demo.guest_image import default_cache_dir, ensure_guest_image
from replicator.demo.guest_scripts import COMMAND_PORT, COUNTER_PORT, READY_MARK, READY_PORT
from replicator.guests.base import Guest, NicEndpoint
from replicator.guests.qemu_config import NicConfig, QemuGuestConfig
from replicator.guests.qemu_guest import QemuGuest, start_guest
from replicator.guests.qemu_standby import QemuStandby
from replicator.memory import GuestRam
from replicator.units import PAGE_SIZE

TIMEOUT_S = 60.0
GUEST_IP = socket.inet_aton("10.77.0.10")
HOST_IP = socket.inet_aton("10.77.0.1")
HOST_MAC = bytes.fromhex("525400770001")
HOST_PORT = 40_000


def make_config(vcpus: int = 1) -> QemuGuestConfig:
    image = ensure_guest_image(default_cache_dir(), print)
    return QemuGuestConfig(
        name="live",
        uuid="9f954b95-7e83-50b9-8675-0dbc60895937",
        memory_mib=128,
        vcpus=vcpus,
        kernel=image.kernel,
        initrd=image.initrd,
        cmdline=image.cmdline,
        nics=(NicConfig("52:54:00:77:00:10"),),
    )


class Wire:
    """The other end of a NIC: one host that answers ARP and speaks UDP, without any network of this machine."""

    def __init__(self, nic: NicEndpoint) -> None:
        self._guest_mac = bytes.fromhex(nic.mac.replace(":", ""))
        self._guest_path = str(nic.guest_path)
        nic.relay_path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(nic.relay_path))
        self._socket.setblocking(False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._socket.close()

    async def ask(self, port: int, request: str) -> str:
        """Send one UDP request, wait for its answer."""
        self.send(port, request)
        return await asyncio.wait_for(self.receive(port), TIMEOUT_S)

    async def count(self, request: str) -> tuple[int, int]:
        """How often the guest's counter was asked, and how often with this request."""
        total, seen, echo = (await self.ask(COUNTER_PORT, request)).split(" ")
        assert echo == request
        return int(total), int(seen)

    async def command(self, command: str) -> None:
        assert await self.ask(COMMAND_PORT, command) == f"ok {command}"

    async def wait_ready(self) -> None:
        """Wait for the broadcast by which the guest says that its services run."""
        assert (await asyncio.wait_for(self.receive(READY_PORT, of_guest=False), TIMEOUT_S)) == READY_MARK

    def send(self, port: int, request: str) -> None:
        body = request.encode()
        udp = struct.pack("!4H", HOST_PORT, port, 8 + len(body), 0) + body
        head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, HOST_IP, GUEST_IP)
        head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
        self._send_frame(0x0800, head + udp)

    async def receive(self, port: int, *, of_guest: bool = True) -> str:
        """The next datagram from the guest's `port`, or for ours. Answers ARP meanwhile."""
        while True:
            frame = await asyncio.get_running_loop().sock_recv(self._socket, 65_536)
            kind, body = frame[12:14], frame[14:]
            if kind == b"\x08\x06" and body[6:8] == b"\x00\x01" and body[24:28] == HOST_IP:
                self._send_frame(0x0806, body[:6] + b"\x00\x02" + HOST_MAC + HOST_IP + body[8:18])
            elif kind == b"\x08\x00" and body[9] == 17:
                udp = body[(body[0] & 15) * 4 :]
                source, target, length = struct.unpack_from("!3H", udp)
                if (source if of_guest else target) == port:
                    return udp[8:length].decode().strip()

    def _send_frame(self, ethertype: int, body: bytes) -> None:
        frame = self._guest_mac + HOST_MAC + struct.pack("!H", ethertype) + body
        self._socket.sendto(frame.ljust(60, b"\0"), self._guest_path)


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


@dataclass(frozen=True)
class Golden:
    """A booted guest, saved: starting from it takes a fraction of a second."""

    config: QemuGuestConfig
    ram_path: Path
    state: bytes

    async def wake(self, ram_path: Path, run_dir: Path) -> QemuGuest:
        """A new guest that goes on from the saved state, running."""
        shutil.copyfile(self.ram_path, ram_path)
        standby = QemuStandby(self.config, run_dir)
        await standby.start(ram_path)
        guest = await standby.activate(self.state)
        await guest.resume()
        return guest


async def make_golden(config: QemuGuestConfig, folder: Path) -> Golden:
    """Boot a guest up to its services and save it."""
    guest = await start_guest(config, folder / "ram", folder / "run", paused=True)
    try:
        with Wire(guest.nics[0]) as wire:
            await guest.resume()
            await wire.wait_ready()
            await wire.count("golden")
            await guest.pause()
            state = await guest.save_device_state()
    finally:
        await guest.kill()
    return Golden(config, folder / "ram", state)


class Replica:
    """The least that a secondary is: a RAM file that gets the dirty pages of each checkpoint."""

    def __init__(self, path: Path, guest: Guest) -> None:
        self.path = path
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        os.ftruncate(fd, guest.identity.ram_bytes)
        os.close(fd)
        self._ram = GuestRam(path, guest.ram.layout)
        self._guest = guest
        self._bitmap = guest.ram.layout.new_bitmap()
        self.state = b""

    def copy_dirty(self) -> int:
        """Copy what was written since the last time, whether the guest runs or not."""
        self._guest.scan_dirty(self._bitmap)
        pfns = self._bitmap.read_and_clear()
        pages = bytearray(len(pfns) * PAGE_SIZE)
        self._guest.ram.gather(pfns, pages)
        self._ram.scatter(pfns, pages)
        return len(pfns)

    def synchronize(self) -> int:
        """The first copy and the live rounds in which the dirty tracker is audited; pages of the first one."""
        pages = self.copy_dirty()
        while "+" in self._guest.tracker_name:
            self.copy_dirty()
        return pages

    async def checkpoint(self, *, resume: bool = True) -> int:
        await self._guest.pause()
        copied = self.copy_dirty()
        self.state = await self._guest.save_device_state()
        if resume:
            await self._guest.resume()
        return copied

    def equals_guest(self) -> bool:
        """Whether each page is the guest's; it must be paused."""
        pfns = self._guest.ram.layout.pfns()
        mine, its = bytearray(len(pfns) * PAGE_SIZE), bytearray(len(pfns) * PAGE_SIZE)
        self._ram.gather(pfns, mine)
        self._guest.ram.gather(pfns, its)
        return mine == its

    def close(self) -> None:
        self._ram.close()
