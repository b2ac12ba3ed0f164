"""Pairs of daemons around synthetic guests: as many as memory allows, of any size, without QEMU."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from replicator.bench.rig.processes import anonymous_bytes, cpu_ns, free_memory_bytes, guests_of
from replicator.demo.lab import CLIENT, HOST_A, HOST_B, REPLICATION, SCRATCH_ROOT, Lab
from replicator.demo.stage import DAEMON, Sections, config_text
from replicator.demo.timeline import Event, parse_event
from replicator.drill.stand.voice import call_inside
from replicator.errors import ConfigError, GuestError, TransportError
from replicator.guests.synthetic_frames import UDP_SERVICE_PORT, WORK_FLAG
from replicator.service.config import DEFAULT_PORT, load_config
from replicator.service.config_rules import PORTS
from replicator.service.control import ask_daemon
from replicator.units import PAGE_SIZE

MIB: Final = 1 << 20
GUEST_IP: Final = "10.77.0.10"
STAGING_MIB: Final = 16
#: Of a pair, beside the guest's RAM on both sides: two daemons, two guests' processes, staging, tables of pages.
PAIR_MIB: Final = 320
#: Left to everybody else.
SPARE_MIB: Final = 1024
_READY_S: Final = 120.0
_POLL_S: Final = 0.05
_ANSWER_S: Final = 60.0
_SIDES: Final = {"a": HOST_A, "b": HOST_B}


@dataclass(frozen=True, slots=True)
class SyntheticSpec:
    """One guest. `copies`: how often its whole RAM may have to be kept: 2, and 1 more for an epoch of all pages."""

    memory_mib: int
    sections: Sections
    has_nic: bool = False
    steps_per_ms: float = 0.0
    copies: int = 2

    @property
    def pages(self) -> int:
        return self.memory_mib * MIB // PAGE_SIZE

    @property
    def needed_mib(self) -> int:
        return self.copies * self.memory_mib + PAIR_MIB


def require_memory(pairs: Iterable[SyntheticSpec], what: str) -> None:
    """ConfigError with the figures unless all of these pairs fit at once."""
    needed_mib = sum(spec.needed_mib for spec in pairs) + SPARE_MIB
    space = os.statvfs(SCRATCH_ROOT)
    free_mib = min(free_memory_bytes(), space.f_bavail * space.f_bsize) // MIB
    if needed_mib > free_mib:
        raise ConfigError(
            f"{what} needs {needed_mib} MiB of memory on {SCRATCH_ROOT}, {free_mib} MiB are free",
            hint="ask for fewer or smaller guests",
        )


class SyntheticPair:
    """Context manager: a protected pair; several may be in one lab, each with a number of its own.

    With `begin` and `await_protected` instead, many are started side by side."""

    def __init__(self, lab: Lab, spec: SyntheticSpec, number: int = 0) -> None:
        self.spec = spec
        self._lab, self._number = lab, number
        self._folder = lab.scratch / f"pair-{number}"
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._folder.mkdir(mode=0o700)
        (self._folder / "arbiter").mkdir(mode=0o700)
        self._write_configs()
        # What the daemons would refuse is said here.
        load_config(self._path("a", "toml"))

    def __enter__(self) -> Self:
        try:
            self.begin()
            self.await_protected()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        for daemon in self._daemons.values():
            pids = [*guests_of(daemon.pid), daemon.pid] if daemon.poll() is None else []
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
        for daemon in self._daemons.values():
            daemon.wait()

    def _write_configs(self) -> None:
        guest: dict[str, Any] = {
            "kind": "synthetic",
            "name": f"bench-{self._number}",
            "memory_mib": self.spec.memory_mib,
            "steps_per_ms": self.spec.steps_per_ms,
            "nic": self.spec.has_nic,
            "ip": GUEST_IP,
        }
        lines = [f"{key} = {json.dumps(value)}" for key, value in guest.items()]
        (self._folder / "guest.toml").write_text("\n".join(lines) + "\n")
        port = DEFAULT_PORT + PORTS * self._number
        for name, other in (("a", "b"), ("b", "a")):
            own: Sections = {
                "node": {"name": name, "state_dir": str(self._folder / name)},
                "guest": {
                    "file": str(self._folder / "guest.toml"),
                    "taps": [self._lab.tap_name(_SIDES[name])] if self.spec.has_nic else [],
                },
                "listen": {"host": self._lab.address(_SIDES[name], REPLICATION), "port": port},
                "peer": {"host": self._lab.address(_SIDES[other], REPLICATION), "port": port},
                "keys": {"allow_plaintext": True},
                "arbiter": {"url": f"file://{self._folder}/arbiter", "ttl_ms": 5000},
                "epoch": {"staging_mib": STAGING_MIB, "ack_patience_ms": 30_000},
            }
            self._path(name, "toml").write_text(config_text(own, self.spec.sections))

    def _path(self, name: str, suffix: str) -> Path:
        return self._folder / f"{name}.{suffix}"

    def begin(self) -> None:
        """Start both daemons; returns at once."""
        for name, role in (("b", "secondary"), ("a", "primary")):
            argv = [sys.executable, *DAEMON, role, str(self._path(name, "toml"))]
            argv += ["--events", str(self._path(name, "events"))]
            with self._path(name, "log").open("wb") as log:
                self._daemons[name] = self._lab.run(_SIDES[name], argv, stdout=log, stderr=log)

    def await_protected(self) -> None:
        deadline = time.monotonic() + _READY_S
        while not self.is_protected():
            dead = [name for name, daemon in self._daemons.items() if daemon.poll() is not None]
            if dead or time.monotonic() > deadline:
                why = f"daemon {dead[0]} has ended" if dead else f"not within {_READY_S:.0f} s"
                said = self._path(dead[0] if dead else "a", "log").read_text(errors="replace")
                raise GuestError(
                    f"a synthetic guest of {self.spec.memory_mib} MiB is protected: {why}", hint=said
                )
            time.sleep(_POLL_S)

    def status(self) -> dict[str, Any]:
        """The primary's; empty when it does not answer."""
        try:
            return ask_daemon(self._folder / "a", "status")
        except TransportError:
            return {}

    def is_protected(self) -> bool:
        return str(self.status().get("state", "")).startswith("protected")

    def events(self) -> list[Event]:
        """The primary's journal."""
        lines = self._path("a", "events").read_bytes().split(b"\n")
        return [event for line in lines if (event := parse_event(line, "a")) is not None]

    # What it costs.

    def cpu_ns(self, name: str) -> int:
        return cpu_ns([self._daemons[name].pid])

    def memory_mib(self, name: str) -> float:
        return anonymous_bytes([self._daemons[name].pid]) / MIB

    def dirty_all(self) -> None:
        """Have the guest write every page once; returns when it has been heard of, an epoch later at least."""
        asker = call_inside(
            self._lab.namespaces[CLIENT], lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        )
        with asker:
            asker.settimeout(_ANSWER_S)
            asker.connect((GUEST_IP, UDP_SERVICE_PORT))
            asker.send(struct.pack("!Q", WORK_FLAG | self.spec.pages))
            try:
                asker.recv(2048)
            except OSError as error:
                raise GuestError(f"the synthetic guest did not answer: {error}") from error
