"""Two daemons on loopback around a synthetic guest, with real zeromq and the file arbiter."""

from __future__ import annotations

import os
import random
import selectors
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from replicator.service.control import ask_daemon

PATIENCE_S = 30.0
CONFIG = """[node]
name = "{name}"
state_dir = "{folder}/{name}"
[guest]
file = "{folder}/guest.toml"
[listen]
host = "127.0.0.1"
port = {port}
[peer]
host = "127.0.0.1"
port = {peer}
"""


def free_ports() -> tuple[int, int]:
    """Two bases with four free ports each, below those that the kernel gives to outgoing connections."""
    bases: list[int] = []
    while len(bases) < 2:
        base = random.randrange(10_000, 32_000, 4)
        if base not in bases and all(map(_is_free, range(base, base + 4))):
            bases.append(base)
    return bases[0], bases[1]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class Side:
    """One daemon's process; it tells its state word, a line for each change."""

    def __init__(self, folder: Path, name: str, role: str, *options: str, phase: str = "") -> None:
        """`phase` is where the daemon dies once it gets SIGUSR1: see mortal_daemon.py."""
        self.name, self.folder = name, folder
        mortal = [str(Path(__file__).with_name("mortal_daemon.py")), phase]
        argv = [
            sys.executable,
            *(mortal if phase else ["-m", "replicator.cli.main"]),
            "-v",
            role,
            str(folder / f"{name}.toml"),
            *options,
        ]
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)
        self._pipe = self.process.stdout
        self.text = ""
        self._seen = 0

    def wait_for(self, word: str) -> None:
        """Until a line that was not looked at yet contains the word."""
        deadline = time.monotonic() + PATIENCE_S
        with selectors.DefaultSelector() as selector:
            selector.register(self._pipe, selectors.EVENT_READ)
            while (found := self.text.find(word, self._seen)) < 0:
                left = deadline - time.monotonic()
                assert left > 0, f"{self.name} never said {word!r}: {self.text}"
                assert selector.select(left) or left < 0.1, f"{self.name} never said {word!r}: {self.text}"
                piece = self._pipe.read()
                assert piece != b"", f"{self.name} ended before it said {word!r}: {self.text}"
                self.text += (piece or b"").decode()
            self._seen = found + len(word)

    def status(self) -> dict[str, Any]:
        return ask_daemon(self.folder / self.name, "status")

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.process.wait(PATIENCE_S)

    def end(self) -> None:
        if self.process.poll() is None:
            self.signal(signal.SIGCONT)
            self.kill()
        self._pipe.close()


class Pair:
    """Configurations of both sides, and the daemons that a test starts."""

    def __init__(self, folder: Path, *, arbiter: bool = True) -> None:
        self.folder = folder
        (folder / "guest.toml").write_text('kind = "synthetic"\nmemory_mib = 16\nnic = false\n')
        (folder / "arbiter").mkdir(mode=0o700)
        ports = free_ports()
        for name, port, peer in (("a", *ports), ("b", *reversed(ports))):
            text = CONFIG.format(name=name, folder=folder, port=port, peer=peer)
            if arbiter:
                text += f'[arbiter]\nurl = "file://{folder}/arbiter"\nttl_ms = 1000\nmargin_ms = 50\n'
            (folder / f"{name}.toml").write_text(text)
        self.sides: list[Side] = []

    def start(self, name: str, role: str, *options: str, phase: str = "") -> Side:
        side = Side(self.folder, name, role, *options, phase=phase)
        self.sides.append(side)
        return side

    def protect(self, *options: str, phase: str = "") -> tuple[Side, Side]:
        """`options` are both sides', `phase` is the primary's."""
        secondary = self.start("b", "secondary", *options)
        secondary.wait_for("standby")
        primary = self.start("a", "primary", *options, phase=phase)
        primary.wait_for("primary: protected")
        return primary, secondary

    def end(self) -> None:
        for side in self.sides:
            side.end()
