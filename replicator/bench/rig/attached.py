"""A pair around a QEMU that was started here, with a monitor of our own beside the daemon's two.

So the very guest that is protected can also be paused, saved and migrated by QEMU's own commands.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from replicator.bench.rig.monitor import Monitor
from replicator.bench.rig.pair import BenchPair
from replicator.demo.lab import HOST_A, HOST_B
from replicator.demo.stage import READY_TIMEOUT_S
from replicator.guests.qemu_command import Launch, build_command
from replicator.guests.qemu_config import load_guest_file
from replicator.guests.qemu_launch import make_ram_file

#: Of a monitor of a QEMU: two for the daemon, one for us.
OURS, SLOW, FAST = "qmp-bench", "qmp", "qmp-fast"
_ACCEL = "tcg"


class AttachedPair(BenchPair):
    """See BenchPair. QEMU runs with TCG: the pause and the copy are what is compared, on one guest."""

    def start_primary(self) -> subprocess.Popen[bytes]:
        self.config = load_guest_file(self.stage.scratch / "guest.toml")
        self.qemu = self.start_qemu(HOST_A, "source", incoming=False)
        with self.monitor("source") as monitor:
            monitor.execute("cont")
        folder, path = self.folder("source"), self.stage.scratch / "a"
        return self.stage.start_python(
            "a",
            [
                *("-m", "replicator.cli.main", "-v", "primary", f"{path}.toml", "--events", f"{path}.events"),
                *("--attach", str(folder / SLOW), "--attach-fast", str(folder / FAST)),
            ],
        )

    def guest_pids(self) -> list[int]:
        return [self.qemu.pid]

    def folder(self, name: str) -> Path:
        """Where a QEMU has its sockets."""
        return self.stage.scratch / name

    def ram_path(self, name: str) -> Path:
        return self.stage.scratch / f"{name}.ram"

    def monitor(self, name: str) -> Monitor:
        """Ours, of the QEMU with this name; to be entered."""
        return Monitor(self.folder(name) / OURS)

    def start_qemu(self, host: str, name: str, *, incoming: bool) -> subprocess.Popen[bytes]:
        """A paused QEMU of the pair's guest on new RAM; returns when its monitors listen."""
        folder = self.folder(name)
        folder.mkdir(mode=0o700, exist_ok=True)
        make_ram_file(self.ram_path(name), self.config.ram_bytes, reserve=True)
        command = build_command(self.config, Launch(_ACCEL, self.ram_path(name), folder, (), incoming))
        for monitor in (SLOW, FAST, OURS):
            (folder / monitor).unlink(missing_ok=True)
            command += ["-qmp", f"unix:{folder / monitor},server=on,wait=off"]
        with (self.stage.scratch / f"{name}.log").open("wb") as log:
            qemu = self.lab.run(host, command, stdout=log, stderr=log)
        self.stage.wait_until("QEMU listens", READY_TIMEOUT_S, (folder / OURS).exists, qemu)
        return qemu

    @contextmanager
    def destination(self) -> Iterator[Monitor]:
        """A QEMU on the other host that waits for a migration, while the context lasts."""
        qemu = self.start_qemu(HOST_B, "target", incoming=True)
        try:
            with self.monitor("target") as monitor:
                yield monitor
        finally:
            qemu.kill()
            qemu.wait()
            self.ram_path("target").unlink(missing_ok=True)
