"""Runs the golden guest on one host of a lab, its NIC wired to the TAP without any hold. Obeys lines on stdin.

    python golden_host.py SCRATCH TAP

freeze SECONDS  pause the guest for a while       checkpoint  keep RAM and device state aside
thaw            let it run again                  rollback    kill the guest and go on from the checkpoint
status          QEMU's word                       quit
Each line is answered with one on stdout.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import sys
from pathlib import Path

from replicator.demo.golden import (
    ensure_golden,
    guest_config,
    listening,
    start_from_golden,
)
from replicator.demo.guest_image import default_cache_dir, ensure_guest_image
from replicator.errors import GuestError
from replicator.guests.qemu_guest import QemuGuest
from replicator.guests.qemu_standby import QemuStandby
from replicator.output.tap import Tap, open_tap


def quiet(_line: str) -> None:
    """Progress that nobody reads."""


class Host:
    """The guest and the wire between its NIC and the TAP."""

    def __init__(self, scratch: Path, tap: Tap) -> None:
        self.scratch = scratch
        self.tap = tap
        image = ensure_guest_image(default_cache_dir(), quiet)
        self.golden = ensure_golden(image, default_cache_dir(), guest_config(image))
        self.guest: QemuGuest
        self.state = b""
        self.runs = 0

    async def serve(self) -> None:
        self.guest = await start_from_golden(
            self.golden, self.scratch / "ram", self.scratch / "run", paused=True
        )
        with listening(self.guest.nics[0]) as wire:
            loop = asyncio.get_running_loop()
            loop.add_reader(wire, self.pass_to_tap, wire)
            loop.add_reader(self.tap.fileno(), self.pass_to_guest, wire)
            await self.guest.resume()
            print("running", flush=True)
            while (line := await loop.run_in_executor(None, sys.stdin.readline)) not in ("", "quit\n"):
                print(await self.obey(line.strip()), flush=True)
        await self.guest.kill()

    def pass_to_tap(self, wire: socket.socket) -> None:
        self.tap.write_frame(wire.recv(65536))

    def pass_to_guest(self, wire: socket.socket) -> None:
        frame = self.tap.read_frame()
        if frame is not None:
            try:
                wire.sendto(frame, str(self.guest.nics[0].guest_path))
            except OSError:
                return  # between two guests nobody listens: a frame lost on the wire

    async def obey(self, command: str) -> str:
        if command == "freeze":
            await self.guest.pause()
        elif command == "thaw":
            await self.guest.resume()
        elif command == "checkpoint":
            await self.guest.pause()
            self.state = await self.guest.save_device_state()
            shutil.copyfile(self.scratch / "ram", self.scratch / "ram.checkpoint")
            await self.guest.resume()
        elif command == "rollback":
            await self.roll_back()
        elif command != "status":
            raise GuestError(f"unknown command {command!r}")
        return await self.guest.query_status()

    async def roll_back(self) -> None:
        await self.guest.kill()
        shutil.copyfile(self.scratch / "ram.checkpoint", self.scratch / "ram")
        standby = QemuStandby(self.golden.config, self.scratch / "run")
        await standby.start(self.scratch / "ram")
        self.guest = await standby.activate(self.state)
        await self.guest.resume()


if __name__ == "__main__":
    asyncio.run(Host(Path(sys.argv[1]), open_tap(sys.argv[2])).serve())
