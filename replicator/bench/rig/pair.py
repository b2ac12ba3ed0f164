"""A pair of daemons around the demonstration's VM whose protection can be switched off and on again.

"Unprotected" is the same guest behind the same relay with no secondary: the primary goes alone, makes no epochs and
lets all output pass. So both states are measured on one guest, one after the other, as often as need be.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

from replicator.bench.figures.checkpoints import checkpoint_metrics, read_checkpoints
from replicator.bench.figures.epochs import read_epochs
from replicator.bench.rig.orders import GuestOrders, connect_from_client
from replicator.bench.rig.processes import (
    allocated_bytes,
    anonymous_bytes,
    cpu_ns,
    guests_of,
    interface_bytes,
)
from replicator.demo.guest_image import GuestImage
from replicator.demo.lab import HOST_A, REPLICATION, Lab, Link
from replicator.demo.stage import READY_TIMEOUT_S, Sections, Stage
from replicator.service.config import load_config
from replicator.units import NS_PER_S

MIB = 1 << 20
UNPROTECTED, PROTECTED = "unprotected", "protected"
LINK = Link(HOST_A, REPLICATION).interface
_ALONE_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Counters at one moment."""

    at_ns: int
    primary_ns: int
    secondary_ns: int
    guest_ns: int
    wire_bytes: int


class BenchPair:
    """Context manager: boots the guest on side "a", unprotected. GuestError when it does not come up."""

    def __init__(self, lab: Lab, image: GuestImage, settings: Sections, *, vcpus: int = 1) -> None:
        self.lab = lab
        self.stage = Stage(lab, image, settings=settings, vcpus=vcpus)
        # What the daemons would refuse is said here, in one line and before anything is started.
        load_config(self.stage.scratch / "a.toml")
        self.orders = GuestOrders(connect_from_client(lab))
        self._secondary: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.primary = self.start_primary()
        try:
            self.stage.wait_until("the guest's daemon", READY_TIMEOUT_S, self._is_up, self.primary)
            self.orders.await_boot(READY_TIMEOUT_S)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        """At once; by SIGTERM the guest would be given time to power off."""
        self.orders.__exit__()
        for daemon in (self.primary, self._secondary):
            if daemon is not None and daemon.poll() is None:
                self.stage.kill_host(daemon)
                daemon.wait()

    def start_primary(self) -> subprocess.Popen[bytes]:
        return self.stage.start_daemon("a", "primary")

    def guest_pids(self) -> list[int]:
        """Processes that run the guest."""
        return guests_of(self.primary.pid)

    def _is_up(self) -> bool:
        return str(self.stage.status("a")["state"]) != "not running"

    @property
    def state(self) -> str:
        return UNPROTECTED if self._secondary is None else PROTECTED

    def enter_state(self, state: str) -> None:
        if state != self.state:
            (self.protect if state == PROTECTED else self.unprotect)()

    def protect(self) -> None:
        """Returns when the guest is protected."""
        self._secondary = self.stage.start_daemon("b", "secondary")
        self.stage.wait_protected("a", self.primary, self._secondary)

    def unprotect(self) -> None:
        """Kill the secondary's host; returns when the primary has gone alone."""
        if self._secondary is None:
            return
        self.stage.kill_host(self._secondary)
        self._secondary.wait()
        self._secondary = None
        self.stage.wait_until(
            "the primary goes alone",
            _ALONE_TIMEOUT_S,
            lambda: self.stage.status("a")["state"] in ("active-alone", UNPROTECTED),
            self.primary,
        )

    # Measuring.

    def measure(self, work: Callable[[], Mapping[str, float]]) -> dict[str, float]:
        """Metrics of `work` and of everything that happened while it was done."""
        before = self._look()
        seen = dict(work())
        after = self._look()
        seconds = (after.at_ns - before.at_ns) / NS_PER_S
        share = 100 / (seconds * NS_PER_S)
        seen["CPU of primary's daemon"] = (after.primary_ns - before.primary_ns) * share
        seen["CPU of the guest"] = (after.guest_ns - before.guest_ns) * share
        if self._secondary is not None:
            seen["CPU of secondary's daemon"] = (after.secondary_ns - before.secondary_ns) * share
            seen |= self._epoch_metrics(before, after)
        return seen

    def _epoch_metrics(self, before: Snapshot, after: Snapshot) -> dict[str, float]:
        primary, secondary = self.stage.events_of("a"), self.stage.events_of("b")
        epochs = read_epochs(primary, before.at_ns, after.at_ns)
        checkpoints_ms = read_checkpoints(primary, secondary, before.at_ns, after.at_ns)
        metrics = epochs.to_metrics() | checkpoint_metrics(checkpoints_ms)
        wire_bytes = after.wire_bytes - before.wire_bytes
        metrics["wire bytes"] = wire_bytes / epochs.seconds / 1e6
        if epochs.dirty_bytes:
            metrics["wire bytes of dirty bytes"] = 100 * wire_bytes / epochs.dirty_bytes
        return metrics

    def memory(self) -> dict[str, float]:
        """What the pair occupies beside the guest itself; only while it is protected."""
        if self._secondary is None:
            return {}
        standbys = guests_of(self._secondary.pid)
        return {
            "memory of primary's daemon": anonymous_bytes([self.primary.pid]) / MIB,
            "memory of secondary's daemon": anonymous_bytes([self._secondary.pid, *standbys]) / MIB,
            "files of the secondary": allocated_bytes(self.stage.scratch / "b") / MIB,
        }

    def _look(self) -> Snapshot:
        secondary = [] if self._secondary is None else [self._secondary.pid]
        return Snapshot(
            time.monotonic_ns(),
            cpu_ns([self.primary.pid]),
            cpu_ns(secondary),
            cpu_ns(self.guest_pids()),
            interface_bytes(self.primary.pid, LINK),
        )
