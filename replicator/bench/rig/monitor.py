"""A QMP monitor with nothing between the caller and QEMU: a blocking socket, one command at a time."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any, Self

from replicator.errors import GuestError

_ANSWER_S = 20.0


class Monitor:
    """Context manager around one monitor's unix socket. Each failure is a GuestError."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(_ANSWER_S)
        try:
            self._socket.connect(str(path))
        except OSError as error:
            self._socket.close()
            raise GuestError(f"no QMP monitor answers at {path}: {error.strerror}") from error
        self._lines = self._socket.makefile("rb")

    def __enter__(self) -> Self:
        self._read()
        self.execute("qmp_capabilities")
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._lines.close()
        self._socket.close()

    def execute(self, command: str, **arguments: object) -> Any:
        """Its result; underscores in the names of arguments stand for dashes."""
        return self.send(self.encode(command, **arguments))

    def encode(self, command: str, **arguments: object) -> bytes:
        """A command for `send`, made beforehand where time counts."""
        named = {key.replace("_", "-"): value for key, value in arguments.items()}
        return json.dumps({"execute": command, "arguments": named}).encode() + b"\n"

    def send(self, *commands: bytes) -> Any:
        """All of them at once, QEMU does them in order; the result of the last one."""
        result = None
        try:
            self._socket.sendall(b"".join(commands))
            for _ in commands:
                result = self._answer()
        except OSError as error:
            raise GuestError(f"QEMU does not answer: {error}") from error
        return result

    def _answer(self) -> Any:
        while True:
            message = self._read()
            if "error" in message:
                raise GuestError(f"QEMU refuses: {message['error'].get('desc')}")
            if "return" in message:
                return message["return"]

    def _read(self) -> dict[str, Any]:
        line = self._lines.readline()
        if not line:
            raise GuestError("QEMU hung up")
        message: dict[str, Any] = json.loads(line)
        return message
