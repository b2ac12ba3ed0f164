"""The client as a process, against a redis look-alike that can be told to break one promise."""

from __future__ import annotations

import json
import os
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from replicator.demo import client as clients
from replicator.demo.resp import Reply, ReplyReader


class Shop(socketserver.ThreadingTCPServer):
    """Counters and keys as redis has them; `fault` happens at increment 50 (`forget`: at each SET)."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, fault: str) -> None:
        super().__init__(("127.0.0.1", 0), Counter)
        self.fault = fault
        self.values: dict[bytes, bytes] = {}
        self.frozen = threading.Event()
        self.lock = threading.Lock()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class Counter(socketserver.BaseRequestHandler):
    """One connection."""

    def handle(self) -> None:
        assert isinstance(self.server, Shop)
        reader = ReplyReader()
        while data := self.request.recv(65536):
            for request in reader.feed(data):
                assert isinstance(request, list)
                answer = self.answer(self.server, [word for word in request if isinstance(word, bytes)])
                if answer is None:
                    return
                self.request.sendall(answer)

    def answer(self, shop: Shop, words: list[bytes]) -> bytes | None:
        with shop.lock:
            if words[0] == b"INCR":
                return self.increment(shop, words[1])
            if words[0] == b"SET":
                if shop.fault != "forget":
                    shop.values[words[1]] = words[2]
                return b"+OK\r\n"
            if words[0] == b"GET":
                return bulk(shop.values.get(words[1]))
            return b"*%d\r\n" % (len(words) - 1) + b"".join(bulk(shop.values.get(key)) for key in words[1:])

    def increment(self, shop: Shop, key: bytes) -> bytes | None:
        value = int(shop.values.get(key, b"0")) + 1
        if value == 50:
            fault, shop.fault = shop.fault, "" if shop.fault != "forget" else "forget"
            if fault == "reset":
                return None
            if fault == "hang":
                return b""
            value += {"lose": -10, "repeat": 3, "error": 0}.get(fault, 0)
            if fault == "pause":
                time.sleep(0.3)
            if fault == "error":
                return b"-READONLY you cannot\r\n"
        shop.values[key] = b"%d" % value
        return b":%d\r\n" % value


def bulk(value: bytes | None) -> bytes:
    return b"$-1\r\n" if value is None else b"$%d\r\n%s\r\n" % (len(value), value)


@pytest.fixture
def shop(request: pytest.FixtureRequest) -> Iterator[Shop]:
    with Shop(getattr(request, "param", "")) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class Run:
    """A client process and the JSON lines it says."""

    def __init__(self, port: int, patience_s: float = 1.0) -> None:
        script = (
            "import sys; from replicator.demo import client; "
            f"client.PATIENCE_S = {patience_s}; sys.exit(client.main(['127.0.0.1', '--port', '{port}']))"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        self.lines: list[dict[str, Any]] = []

    def read_until(self, event: str, least: int = 0) -> dict[str, Any]:
        """Read lines until one is `event` (with at least so many increments)."""
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.append(json.loads(line))
            if self.lines[-1]["event"] == event and self.lines[-1].get("increments", least) >= least:
                return self.lines[-1]
        raise AssertionError(f"the client never said {event}: {self.lines[-3:]}")

    def stop(self) -> dict[str, Any]:
        """Tell it to stop and return its report."""
        assert self.process.stdin
        with self.process.stdin:
            self.process.stdin.write("stop\n")
        report = self.read_until("report")
        self.process.wait(20)
        assert self.process.stdout
        self.process.stdout.close()
        return report


def test_honest_server_keeps_every_promise(shop: Shop) -> None:
    run = Run(shop.server_address[1])
    run.read_until("progress", least=200)
    report = run.stop()
    assert report["broken"] == [] and run.process.returncode == 0
    assert report["increments_acked"] == report["last_value"] >= 200
    assert report["sets_acked"] > clients.SETS_UNDER_WAY and report["sets_missing"] == 0
    moments = [line["at_ns"] for line in run.lines]
    assert moments == sorted(moments)


@pytest.mark.parametrize(("shop", "lost", "repeated"), [("lose", 10, 0), ("repeat", 0, 3)], indirect=["shop"])
def test_lost_and_repeated_increments_are_counted(shop: Shop, lost: int, repeated: int) -> None:
    run = Run(shop.server_address[1])
    run.read_until("progress", least=60)
    report = run.stop()
    assert (report["increments_lost"], report["increments_repeated"]) == (
        lost,
        repeated,
    )
    assert report["connection_survived"] and run.process.returncode == 1


@pytest.mark.parametrize(
    ("shop", "words"),
    [("reset", "closed by the other side"), ("error", "READONLY")],
    indirect=["shop"],
)
def test_ended_connection_is_a_broken_promise(shop: Shop, words: str) -> None:
    run = Run(shop.server_address[1])
    assert words in run.read_until("broken")["reason"]
    report = run.stop()
    assert not report["connection_survived"] and run.process.returncode == 1
    assert report["increments_acked"] == 49
    assert report["increments_lost"] == 0


@pytest.mark.parametrize("shop", ["hang"], indirect=True)
def test_silent_connection_is_a_broken_promise(shop: Shop) -> None:
    run = Run(shop.server_address[1], patience_s=0.3)
    while run.read_until("progress")["since_ack_ms"] < 200:
        pass
    report = run.stop()
    assert "no reply for" in report["broken"][0] and run.process.returncode == 1
    assert report["longest_gap_ms"] > 400 and report["increments_acked"] == 49


@pytest.mark.parametrize("shop", ["forget"], indirect=True)
def test_forgotten_set_is_missed(shop: Shop) -> None:
    run = Run(shop.server_address[1])
    run.read_until("progress", least=10)
    report = run.stop()
    assert report["sets_missing"] == report["sets_acked"] > 0
    assert run.process.returncode == 1


@pytest.mark.parametrize("shop", ["pause"], indirect=True)
def test_pause_is_a_gap_and_no_broken_promise(shop: Shop) -> None:
    run = Run(shop.server_address[1])
    # A busy machine may make lesser gaps of its own.
    while (gap := run.read_until("gap"))["ms"] < 300:
        pass
    report = run.stop()
    assert report["broken"] == [] and report["longest_gap_ms"] >= gap["ms"] - 0.001
    assert run.process.returncode == 0


def test_unreachable_guest_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with socketserver.TCPServer(("127.0.0.1", 0), socketserver.BaseRequestHandler) as server:
        port = server.server_address[1]
    assert clients.main(["127.0.0.1", "--port", str(port)]) == 4
    said = json.loads(capsys.readouterr().out)
    assert said["event"] == "unreachable" and "refused" in said["reason"]


def test_answers_of_the_look_alike_are_redis_answers() -> None:
    replies: list[Reply] = ReplyReader().feed(bulk(b"x") + bulk(None))
    assert replies == [b"x", None]
