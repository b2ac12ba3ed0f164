"""The stage of a demonstration or a measurement: two hosts with a daemon each, a real VM, a client that keeps count.

It starts, watches and ends processes inside a lab (lab.py) and collects what they say. It tells no story and judges
nothing: see run.py and timeline.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from replicator.demo.guest_image import GuestImage
from replicator.demo.lab import CLIENT, HOST_A, HOST_B, REPLICATION, Lab
from replicator.demo.promises import Report, load_report
from replicator.demo.timeline import KILLED, Event, parse_event
from replicator.errors import GuestError, TransportError
from replicator.service.control import ask_daemon

GUEST_IP = "10.77.0.10"
MEMORY_MIB = 256
READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 40.0
POLL_S = 0.05
DAEMON = ("-m", "replicator.cli.main", "-v")
#: Daemon -> the host it runs on.
HOSTS = {"a": HOST_A, "b": HOST_B}

_GUEST = """name = "demo"
memory_mib = {memory}
kernel = "{kernel}"
initrd = "{initrd}"
cmdline = "{cmdline}"
vcpus = {vcpus}

[[nic]]
mac = "52:54:00:de:30:01"
"""

#: Section -> key -> value of a configuration file.
Sections = Mapping[str, Mapping[str, Any]]


def config_text(*sections: Sections) -> str:
    """A configuration file with the keys of all; of a key given twice the last value counts."""
    merged: dict[str, dict[str, Any]] = {}
    for given in sections:
        for name, keys in given.items():
            merged.setdefault(name, {}).update(keys)
    lines = []
    for name, keys in merged.items():
        # JSON's strings, numbers, lists and booleans are TOML's.
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items())]
    return "\n".join(lines) + "\n"


class Stage:
    """Two daemons "a" and "b" and one client. The processes belong to the lab, which ends them."""

    def __init__(
        self,
        lab: Lab,
        image: GuestImage,
        *,
        interval_ms: int = 50,
        vcpus: int = 1,
        settings: Sections = MappingProxyType({}),
        agent: bool = False,
    ) -> None:
        """`settings` come on top of, or in the place of, what is usual. `agent`: the guest has one that can be asked."""
        self._lab = lab
        self.scratch = lab.scratch
        self._write_guest(image, vcpus, agent=agent)
        self._write_configs({"epoch": {"interval_ms": interval_ms}}, settings)

    def _write_guest(self, image: GuestImage, vcpus: int, *, agent: bool) -> None:
        guest = _GUEST.format(
            memory=MEMORY_MIB, kernel=image.kernel, initrd=image.initrd, cmdline=image.cmdline, vcpus=vcpus
        )
        (self.scratch / "guest.toml").write_text(guest + ("\n[agent]\n" if agent else ""))

    def _write_configs(self, *settings: Sections) -> None:
        (self.scratch / "arbiter").mkdir(mode=0o700)
        for name, peer in (("a", HOST_B), ("b", HOST_A)):
            own: Sections = {
                "node": {"name": name, "state_dir": f"{self.scratch}/{name}"},
                "guest": {
                    "file": f"{self.scratch}/guest.toml",
                    "taps": [self._lab.tap_name(HOSTS[name])],
                },
                "listen": {"host": self._lab.address(HOSTS[name], REPLICATION)},
                "peer": {"host": self._lab.address(peer, REPLICATION)},
                "keys": {"allow_plaintext": True},
                "arbiter": {"url": f"file://{self.scratch}/arbiter"},
            }
            (self.scratch / f"{name}.toml").write_text(config_text(own, *settings))

    # Daemons.

    def start_daemon(self, name: str, role: str) -> subprocess.Popen[bytes]:
        """`replicator ROLE` as an operator would start it."""
        return self.start_python(
            name, [*DAEMON, role, self._path(name, "toml"), "--events", self._path(name, "events")]
        )

    def start_python(self, name: str, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
        """Another program in the place of daemon `name`."""
        with (self.scratch / f"{name}.log").open("wb") as log:
            argv = [sys.executable, *arguments]
            return self._lab.run(HOSTS[name], argv, stdout=log, stderr=subprocess.STDOUT)

    def _path(self, name: str, suffix: str) -> str:
        return str(self.scratch / f"{name}.{suffix}")

    def status(self, name: str) -> dict[str, Any]:
        """What daemon `name` says of itself, or that it is not running."""
        try:
            return ask_daemon(self.scratch / name, "status")
        except TransportError:
            return {"state": "not running"}

    def wait_until(
        self, what: str, timeout_s: float, done: Callable[[], bool], *alive: subprocess.Popen[bytes]
    ) -> None:
        """Return when `done`; GuestError when it takes too long or one of the processes ends."""
        deadline = time.monotonic() + timeout_s
        while not done():
            dead = [child for child in alive if child.poll() is not None]
            if dead or time.monotonic() > deadline:
                why = (
                    f"a process ended with {dead[0].returncode}" if dead else f"not within {timeout_s:.0f} s"
                )
                raise GuestError(f"{what}: {why}", hint=self._last_words())
            time.sleep(POLL_S)

    def wait_protected(self, name: str, *alive: subprocess.Popen[bytes]) -> None:
        self.wait_until(
            "the guest is protected",
            READY_TIMEOUT_S,
            lambda: self.status(name)["state"].startswith("protected"),
            *alive,
        )

    def kill_host(self, daemon: subprocess.Popen[bytes]) -> Event:
        """SIGKILL a daemon and its QEMU at once, as a power cut would end them."""
        victims = [daemon.pid, *children_of(daemon.pid)]
        killed_ns = time.monotonic_ns()
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        return Event(killed_ns, "demo", KILLED, {"processes": len(victims)})

    # Client.

    def start_client(self, primary: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
        """The guest may still be booting: the client is started until it is let in."""
        deadline = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline and primary.poll() is None:
            with (self.scratch / "client.log").open("wb") as log:
                argv = [sys.executable, "-m", "replicator.demo.client", GUEST_IP]
                client = self._lab.run(CLIENT, argv, stdin=subprocess.PIPE, stdout=log)
            while client.poll() is None:
                if any(event.name == "connected" for event in self.client_events()):
                    return client
                time.sleep(POLL_S)
        raise GuestError("the guest's redis never answered", hint=self._last_words())

    def client_events(self) -> list[Event]:
        return _read_events(self.scratch / "client.log", "client")

    def count_increments(self) -> int:
        """Increments that the client saw acknowledged so far."""
        counts = [event.fields["increments"] for event in self.client_events() if event.name == "progress"]
        return int(counts[-1]) if counts else 0

    def stop_client(self, client: subprocess.Popen[bytes]) -> Report | None:
        """End the load and hear the client's final word; None when it has none."""
        if client.stdin is not None:
            client.stdin.close()
        try:
            client.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            client.kill()
        reports = [event for event in self.client_events() if event.name == "report"]
        return load_report(reports[-1].fields) if reports else None

    # What was said.

    def events_of(self, name: str) -> list[Event]:
        """What daemon `name` wrote into its journal."""
        return _read_events(self.scratch / f"{name}.events", HOSTS[name])

    def collect_events(self) -> list[Event]:
        """Of the client and both daemons."""
        events = self.client_events()
        for name in HOSTS:
            events += self.events_of(name)
        return events

    def logs(self) -> dict[str, str]:
        found = {}
        for name in ("a", "b", "client"):
            path = self.scratch / f"{name}.log"
            found[name] = path.read_text(errors="replace") if path.exists() else ""
        return found

    def _last_words(self) -> str:
        return "\n".join(f"{name}: {text[-1500:]}" for name, text in self.logs().items())


def _read_events(path: Path, source: str) -> list[Event]:
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    return [event for line in lines if (event := parse_event(line, source)) is not None]


def children_of(pid: int) -> list[int]:
    """Processes that `pid` started."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # a thread that has ended meanwhile
            found += map(int, (task / "children").read_text().split())
    return found
