"""The demonstration: protect a real VM, kill its host, show what the client saw.

Three machines are network namespaces (lab.py). The story: the guest boots, a client loads its redis over two open
connections, the secondary starts and the running guest is synchronised, the primary daemon and its QEMU are killed at
a random phase of an epoch, the client goes on, the verdict is printed. Everything this started is gone at the end,
however it ends.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from replicator.demo.guest_image import GuestImage
from replicator.demo.lab import CLIENT, HOST_A, HOST_B, REPLICATION, Lab
from replicator.demo.promises import Report, load_report
from replicator.demo.timeline import (
    INCREMENTS_AFTER_KILL_MIN,
    INCREMENTS_BEFORE_KILL_MIN,
    KILLED,
    Event,
    Protection,
    Verdict,
    judge,
    parse_event,
)
from replicator.errors import GuestError, ReplicatorError, TransportError
from replicator.service.control import ask_daemon

GUEST_IP = "10.77.0.10"
MEMORY_MIB = 256
READY_TIMEOUT_S = 60.0
LOAD_TIMEOUT_S = 60.0
AFTER_TIMEOUT_S = 40.0
POLL_S = 0.05
#: 20 a second: some 15 seconds under protection.
EPOCHS_BEFORE_KILL = 300

_GUEST = """name = "demo"
memory_mib = {memory}
kernel = "{kernel}"
initrd = "{initrd}"
cmdline = "{cmdline}"

[[nic]]
mac = "52:54:00:de:30:01"
"""

_CONFIG = """[node]
name = "{name}"
state_dir = "{scratch}/{name}"
[guest]
file = "{scratch}/guest.toml"
taps = ["{tap}"]
[listen]
host = "{own}"
[peer]
host = "{peer}"
[keys]
allow_plaintext = true
[arbiter]
url = "file://{scratch}/arbiter"
[epoch]
interval_ms = {interval_ms}
"""


@dataclass(frozen=True, slots=True)
class DemoResult:
    verdict: Verdict
    events: list[Event]
    logs: dict[str, str]


class Demonstration:
    """One run inside a lab. `say` gets a line for people now and then."""

    def __init__(
        self,
        lab: Lab,
        image: GuestImage,
        say: Callable[[str], None],
        *,
        hold: bool = True,
        interval_ms: int = 50,
    ) -> None:
        self._lab, self._image, self._say = lab, image, say
        self._hold, self._interval_ms = hold, interval_ms
        self._events: list[Event] = []
        self._acked = 0
        self._protected_ns = 0
        self._report: Report | None = None

    # Set-up.

    def _write_configs(self) -> None:
        scratch = self._lab.scratch
        (scratch / "arbiter").mkdir(mode=0o700)
        image = self._image
        (scratch / "guest.toml").write_text(
            _GUEST.format(
                memory=MEMORY_MIB,
                kernel=image.kernel,
                initrd=image.initrd,
                cmdline=image.cmdline,
            )
        )
        for name, own, peer in (("a", HOST_A, HOST_B), ("b", HOST_B, HOST_A)):
            text = _CONFIG.format(
                name=name,
                scratch=scratch,
                tap=self._lab.tap_name(own),
                own=self._lab.address(own, REPLICATION),
                peer=self._lab.address(peer, REPLICATION),
                interval_ms=self._interval_ms,
            )
            (scratch / f"{name}.toml").write_text(text)

    def _start_daemon(self, host: str, name: str, role: str) -> subprocess.Popen[bytes]:
        scratch = self._lab.scratch
        config, events = str(scratch / f"{name}.toml"), str(scratch / f"{name}.events")
        argv = [
            sys.executable,
            "-m",
            "replicator.cli.main",
            "-v",
            role,
            config,
            "--events",
            events,
        ]
        if role == "primary" and not self._hold:
            argv = [sys.executable, "-m", "replicator.demo.no_hold", config, events]
        with (scratch / f"{name}.log").open("wb") as log:
            return self._lab.run(host, argv, stdout=log, stderr=subprocess.STDOUT)

    def _status(self, name: str) -> dict[str, Any]:
        try:
            return ask_daemon(self._lab.scratch / name, "status")
        except TransportError:
            return {"state": "not running"}

    def _await(
        self,
        what: str,
        timeout_s: float,
        done: Callable[[], bool],
        *alive: subprocess.Popen[bytes],
    ) -> None:
        deadline = time.monotonic() + timeout_s
        while not done():
            dead = [child for child in alive if child.poll() is not None]
            if dead or time.monotonic() > deadline:
                why = (
                    f"a process ended with {dead[0].returncode}" if dead else f"not within {timeout_s:.0f} s"
                )
                raise GuestError(f"{what}: {why}", hint=self._last_words())
            time.sleep(POLL_S)

    def _last_words(self) -> str:
        return "\n".join(f"{name}: {text[-1500:]}" for name, text in self.logs().items())

    def logs(self) -> dict[str, str]:
        found = {}
        for name in ("a", "b", "client"):
            path = self._lab.scratch / f"{name}.log"
            found[name] = path.read_text(errors="replace") if path.exists() else ""
        return found

    # The story.

    def run(self) -> DemoResult:
        self._write_configs()
        self._say("booting the guest on host-a, unprotected")
        primary = self._start_daemon(HOST_A, "a", "primary")
        client = self._start_client(primary)
        self._say("the client is connected; starting the secondary on host-b")
        secondary = self._start_daemon(HOST_B, "b", "secondary")
        self._await(
            "the guest is protected",
            READY_TIMEOUT_S,
            lambda: self._status("a")["state"].startswith("protected"),
            primary,
            secondary,
            client,
        )
        self._say("protected")
        self._protected_ns = time.monotonic_ns()
        self._await_load(client, primary)
        protection = self._kill(primary)
        self._say(f"killed the primary's host after {self._acked} acknowledged increments")
        wanted = self._acked + INCREMENTS_AFTER_KILL_MIN
        try:
            self._await(
                "the client goes on",
                AFTER_TIMEOUT_S,
                lambda: self._read_client() >= wanted,
                client,
            )
        except ReplicatorError as error:
            self._say(str(error))
        self._stop_client(client)
        self._collect_events()
        return DemoResult(judge(self._events, self._report, protection), self._events, self.logs())

    def _start_client(self, primary: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
        """The guest may still be booting: the client is started until it is let in."""
        deadline = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline and primary.poll() is None:
            with (self._lab.scratch / "client.log").open("wb") as log:
                client = self._lab.run(
                    CLIENT,
                    [sys.executable, "-m", "replicator.demo.client", GUEST_IP],
                    stdin=subprocess.PIPE,
                    stdout=log,
                )
            while client.poll() is None:
                if any(event.name == "connected" for event in self._client_events()):
                    return client
                time.sleep(POLL_S)
        raise GuestError("the guest's redis never answered", hint=self._last_words())

    def _client_events(self) -> list[Event]:
        lines = (self._lab.scratch / "client.log").read_bytes().split(b"\n")
        return [event for line in lines if (event := parse_event(line, "client")) is not None]

    def _read_client(self) -> int:
        counts = [event.fields["increments"] for event in self._client_events() if event.name == "progress"]
        return int(counts[-1]) if counts else 0

    def _await_load(self, client: subprocess.Popen[bytes], primary: subprocess.Popen[bytes]) -> None:
        def loaded() -> bool:
            self._acked = self._read_client()
            committed = int(self._status("a").get("committed", 0))
            return self._acked >= INCREMENTS_BEFORE_KILL_MIN and committed >= EPOCHS_BEFORE_KILL

        self._await("the client's load", LOAD_TIMEOUT_S, loaded, client, primary)

    def _kill(self, primary: subprocess.Popen[bytes]) -> Protection:
        status = self._status("a")
        time.sleep(random.uniform(0, 2 * self._interval_ms / 1000))
        self._acked = self._read_client()
        victims = [primary.pid, *_children(primary.pid)]
        killed_ns = time.monotonic_ns()
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        self._events.append(Event(killed_ns, "demo", KILLED, {"processes": len(victims)}))
        stats = status["stats"]
        return Protection(
            stats["epochs"],
            stats["pause_ms"]["p50"],
            stats["pause_ms"]["p99"],
            stats["bytes_total"],
            killed_ns - self._protected_ns,
            self._acked,
        )

    def _stop_client(self, client: subprocess.Popen[bytes]) -> None:
        if client.stdin is not None:
            client.stdin.close()
        try:
            client.wait(AFTER_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            client.kill()
        for event in self._client_events():
            if event.name == "report":
                self._report = load_report(event.fields)

    def _collect_events(self) -> None:
        self._events += self._client_events()
        for name, source in (("a", HOST_A), ("b", HOST_B)):
            path = self._lab.scratch / f"{name}.events"
            lines = path.read_bytes().split(b"\n") if path.exists() else []
            self._events += [event for line in lines if (event := parse_event(line, source)) is not None]


def _children(pid: int) -> list[int]:
    """Processes that `pid` started."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += map(int, (task / "children").read_text().split())
    return found
