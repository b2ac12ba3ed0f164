"""The relay of one side (actors/relay.py) as the drill sees it: a process on that side's host, and orders to it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from typing import Any

from replicator.demo.lab import Lab
from replicator.errors import GuestError, TransportError
from replicator.service.config import DEFAULT_PORT

RELAY_HOST = "127.0.0.1"
RELAY_PORT = 7510
_START_S = 10.0
_POLL_S = 0.02
_ANSWER_S = 5.0


class RelayProcess:
    """On `host`, towards the daemon that listens at `target`. Nothing is started before `start`."""

    def __init__(self, lab: Lab, host: str, target: str) -> None:
        self._lab, self._host, self._target = lab, host, target
        self._orders = lab.scratch / f"relay-of-{host}.sock"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it forwards."""
        argv = [sys.executable, "-m", "replicator.drill.actors.relay", str(self._orders)]
        argv += [str(RELAY_PORT), self._target, str(DEFAULT_PORT)]
        with (self._lab.scratch / "relay.log").open("ab") as log:
            self._process = self._lab.run(self._host, argv, stdout=log, stderr=log)
        deadline = time.monotonic() + _START_S
        while not self._orders.exists():
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise GuestError("the relay did not start", hint=f"see {self._lab.scratch / 'relay.log'}")
            time.sleep(_POLL_S)

    def order(self, **wishes: Any) -> None:
        """Returns when it is so. The wishes are actors/relay.py's. TransportError when the relay does not answer."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(_ANSWER_S)
                connection.connect(str(self._orders))
                connection.sendall(json.dumps(wishes).encode() + b"\n")
                if connection.recv(16) != b"ok\n":
                    raise TransportError("the relay ended", hint=f"see {self._lab.scratch / 'relay.log'}")
        except OSError as error:
            raise TransportError(f"the relay does not answer: {error}") from error

    def end(self) -> None:
        """May be repeated."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        self._orders.unlink(missing_ok=True)
