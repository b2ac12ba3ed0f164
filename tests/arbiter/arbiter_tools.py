"""Arbiters to test: a bench an adapter, a real etcd, and processes that race."""

from __future__ import annotations

import itertools
import json
import os
import selectors
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

import replicator
from replicator.arbiter.base import Lease
from replicator.arbiter.etcd import EtcdArbiter
from replicator.arbiter.file import FileArbiter
from replicator.arbiter.memory import MemoryArbiter, MemoryStore
from replicator.arbiter.stored import StoredArbiter

TIMEOUT_S = 20.0
WORKER = Path(__file__).with_name("arbiter_worker.py")
_numbers = itertools.count(1)


def wait_until(condition: Callable[[], bool]) -> None:
    """For what only the passing of time brings about."""
    end = time.monotonic() + TIMEOUT_S
    while not condition():
        if time.monotonic() > end:
            raise AssertionError("it did not happen in time")
        time.sleep(0.002)


def new_guest() -> str:
    """A name no other test uses."""
    return f"guest-{os.getpid()}-{next(_numbers)}"


class EtcdServer:
    """A real etcd on loopback. Short elections, so that leases of a second are allowed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.port, self._peer_port = _free_port(), _free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"etcd://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Returns when it answers."""
        peer = f"http://127.0.0.1:{self._peer_port}"
        options = {
            "name": "one",
            "data-dir": str(self._folder / "data"),
            "listen-client-urls": self.endpoint,
            "advertise-client-urls": self.endpoint,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"one={peer}",
            "heartbeat-interval": "20",
            "election-timeout": "200",
            "log-level": "error",
        }
        arguments = [f"--{name}={value}" for name, value in options.items()]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(["etcd", *arguments], stdout=log, stderr=log)
        wait_until(self._is_healthy)

    def stop(self) -> None:
        """SIGKILL; what it stored stays."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def post(self, path: str, body: object) -> None:
        data = json.dumps(body).encode()
        urllib.request.urlopen(f"{self.endpoint}/v3/{path}", data, timeout=TIMEOUT_S).close()

    def _is_healthy(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f"etcd ended: {(self._folder / 'log').read_text()}")
        try:
            with urllib.request.urlopen(f"{self.endpoint}/health", timeout=1) as answer:
                return bool(json.load(answer)["health"] == "true")
        except OSError:
            return False


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Bench(ABC):
    """One guest's arbiters of one kind, all on the same store."""

    #: Long enough for a busy machine to act under a lease, short enough to wait for its end.
    ttl_ms = 250
    margin_ms = 10

    def __init__(self) -> None:
        self.guest = new_guest()

    @abstractmethod
    def open(self, guest: str = "") -> StoredArbiter:
        """A further arbiter, as another process would have it."""

    def expire(self, lease: Lease) -> None:
        """Let the lease end at the arbiter."""
        arbiter = self.open()
        wait_until(lambda: not _is_live(arbiter))


def _is_live(arbiter: StoredArbiter) -> bool:
    record = arbiter.read()
    return record is not None and record.live


class MemoryBench(Bench):
    def __init__(self) -> None:
        super().__init__()
        self.store = MemoryStore()

    def open(self, guest: str = "") -> StoredArbiter:
        return MemoryArbiter(self.store, guest or self.guest, ttl_ms=self.ttl_ms, margin_ms=self.margin_ms)


class FileBench(Bench):
    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def open(self, guest: str = "") -> StoredArbiter:
        return FileArbiter(self.folder, guest or self.guest, ttl_ms=self.ttl_ms, margin_ms=self.margin_ms)


class EtcdBench(Bench):
    ttl_ms = 1000
    margin_ms = 100

    def __init__(self, server: EtcdServer) -> None:
        super().__init__()
        self.server = server

    def open(self, guest: str = "") -> StoredArbiter:
        return EtcdArbiter(
            [self.server.endpoint], guest or self.guest, ttl_ms=self.ttl_ms, margin_ms=self.margin_ms
        )

    def expire(self, lease: Lease) -> None:
        """By revocation, which ends a lease as its time does."""
        self.server.post("lease/revoke", {"ID": lease.token})


class Worker:
    """A process with an arbiter of its own, see arbiter_worker.py."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(WORKER), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(replicator.__file__).parent.parent)},
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def tell(self, *words: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        """Its next line; "" when it has ended."""
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            if not selector.select(TIMEOUT_S):
                raise AssertionError("the worker says nothing")
        return self.process.stdout.readline().strip()

    def await_stop(self) -> None:
        """Until it has stopped itself."""
        how = os.WSTOPPED | os.WNOWAIT | os.WNOHANG
        wait_until(lambda: os.waitid(os.P_PID, self.pid, how) is not None)

    def ask(self, *words: object) -> str:
        self.tell(*words)
        return self.hear()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


class Proxy:
    """Between an arbiter and its etcd. Can carry a request over and keep the answer to itself, as a cut link does."""

    def __init__(self, target_port: int) -> None:
        self._target = ("127.0.0.1", target_port)
        self._server = socket.create_server(("127.0.0.1", 0))
        #: Path of the request whose answer is lost; then nothing passes until `mend`.
        self.lose_answer_to = b""
        self.is_cut = False
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.getsockname()[1]}"

    def mend(self) -> None:
        self.lose_answer_to = b""
        self.is_cut = False

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join(TIMEOUT_S)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._target) as etcd:
            while not self.is_cut and (request := _receive_message(client)):
                if self.is_cut:
                    return
                etcd.sendall(request)
                answer = _receive_message(etcd)
                if self.lose_answer_to and self.lose_answer_to in request.split(b"\r\n", 1)[0]:
                    self.is_cut = True
                    return
                client.sendall(answer)


def _receive_message(connection: socket.socket) -> bytes:
    """One HTTP message, with Content-Length or chunks as it came; b"" at the end."""
    data = b""
    while not _is_whole(data):
        piece = connection.recv(65536)
        if not piece:
            return b""
        data += piece
    return data


def _is_whole(data: bytes) -> bool:
    head, separator, body = data.partition(b"\r\n\r\n")
    if not separator:
        return False
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return len(body) >= int(value)
        if name.lower() == b"transfer-encoding":
            return body.endswith(b"0\r\n\r\n")
    return True
