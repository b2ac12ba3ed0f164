"""Where a daemon of the drill stands still: it tells the drill that it is in the phase asked for, and waits for a word.

One stream socket of the drill's, a line a message. To the drill: JSON objects `{"event": NAME, "at_ns":
CLOCK_MONOTONIC, ...}`. From the drill: `arm PHASE`, and `go` for a daemon that stands. Whoever waits blocks the event
loop's thread and nothing else, as a daemon does that is slow just there. When the drill is gone the daemon ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from replicator.drill.matrix.phases import Phase

_READ_BYTES = 4096
ARM, GO = "arm", "go"


class StopPoint:
    """Connects at once. `watch` is to be called in the event loop."""

    def __init__(self, path: Path, node: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(str(path))
        self._buffer = b""
        self._armed: Phase | None = None
        self.tell("here", node=node, pid=os.getpid())

    def watch(self) -> None:
        """Take orders from now on."""
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._obey)

    def tell(self, event: str, **fields: Any) -> None:
        line = json.dumps({"event": event, "at_ns": time.monotonic_ns(), **fields})
        try:
            self._socket.sendall(line.encode() + b"\n")
        except OSError:
            end_orphan()

    def reach(self, phase: Phase) -> None:
        """The daemon is in this phase; if it is the one asked for, stand until `go`."""
        if self._armed is not phase:
            return
        self._armed = None
        self.tell("hit", phase=phase.value)
        while self._next_line() != GO:
            pass

    def _obey(self) -> None:
        self._receive()
        while b"\n" in self._buffer:
            verb, _, name = self._next_line().partition(" ")
            if verb == ARM:
                self._armed = Phase(name)

    def _next_line(self) -> str:
        while b"\n" not in self._buffer:
            self._receive()
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode()

    def _receive(self) -> None:
        try:
            piece = self._socket.recv(_READ_BYTES)
        except OSError:
            piece = b""
        if not piece:
            end_orphan()
        self._buffer += piece


def end_orphan() -> None:
    """End this process at once: nobody is left to end it."""
    os._exit(1)
