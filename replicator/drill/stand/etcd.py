"""A real etcd on the switch of a lab, reachable by both hosts, that can be frozen, killed and started again."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time

from replicator.demo.lab import ARBITER, SWITCH, Lab
from replicator.drill.stand.voice import call_inside
from replicator.errors import ConfigError, GuestError

PORT = 2379
_ADDRESS = "10.79.0.254"
ETCD_URL = f"etcd://{_ADDRESS}:{PORT}"
_START_S = 15.0
_POLL_S = 0.05


class Etcd:
    """One at a time. Nothing is started before `start`."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._folder = lab.scratch / "etcd"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, fresh: bool = False) -> None:
        """Returns when it takes connections. `fresh`: without what an earlier one knew."""
        if shutil.which("etcd") is None:
            raise ConfigError("etcd is not installed", hint="apt-get install etcd-server")
        if fresh:
            shutil.rmtree(self._folder, ignore_errors=True)
        client, peer = f"http://{self._lab.address(SWITCH, ARBITER)}:{PORT}", "http://127.0.0.1:2380"
        argv = ["etcd", "--data-dir", str(self._folder), "--log-level", "error", "--unsafe-no-fsync"]
        argv += ["--listen-client-urls", client, "--advertise-client-urls", client]
        argv += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
        argv += ["--initial-cluster", f"default={peer}"]
        with (self._lab.scratch / "etcd.log").open("ab") as log:
            self._process = self._lab.run(SWITCH, argv, stdout=log, stderr=log)
        self._await_start()

    def _await_start(self) -> None:
        deadline = time.monotonic() + _START_S
        while not call_inside(self._lab.namespaces[SWITCH], self._takes_connections):
            if time.monotonic() > deadline:
                raise GuestError("etcd did not start", hint=f"see {self._lab.scratch / 'etcd.log'}")
            time.sleep(_POLL_S)

    def _takes_connections(self) -> bool:
        try:
            socket.create_connection((_ADDRESS, PORT), _POLL_S).close()
        except OSError:
            return False
        return True

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def end(self) -> None:
        """Kill it, if there is one; what it knows stays."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
