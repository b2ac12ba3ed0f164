"""QEMU's own live migration of a guest to a process on the other host, which is thrown away afterwards."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Final

from replicator.bench.rig.attached import AttachedPair
from replicator.demo.lab import HOST_B, REPLICATION
from replicator.errors import GuestError

_PORT: Final = 4455
_TIMEOUT_S: Final = 120.0
_POLL_S: Final = 0.005
#: More than any wire here carries.
UNLIMITED_BYTES_PER_S: Final = 10**11
_RUNNING: Final = frozenset({"setup", "active", "pre-switchover", "device", "postcopy-active", "wait-unplug"})


@dataclass(frozen=True, slots=True)
class Method:
    """How QEMU is told to migrate. `channels` above 0: multifd."""

    name: str
    bytes_per_s: int = UNLIMITED_BYTES_PER_S
    channels: int = 0


METHODS: Final = (
    Method("QEMU tcp, limit 128 MiB/s (its default)", 128 << 20),
    Method("QEMU tcp, no limit"),
    Method("QEMU multifd, 2 channels, no limit", channels=2),
)


@dataclass(frozen=True, slots=True)
class Migrated:
    """What QEMU says of a migration that is done."""

    seconds: float
    downtime_ms: float


def migrate(pair: AttachedPair, method: Method) -> Migrated:
    """Migrate the guest of `pair` to the other host; then it goes on here. GuestError when QEMU cannot."""
    address = pair.lab.address(HOST_B, REPLICATION)
    with pair.destination() as target, pair.monitor("source") as source:
        capabilities = [{"capability": "multifd", "state": method.channels > 0}]
        for monitor in (target, source):
            monitor.execute("migrate-set-capabilities", capabilities=capabilities)
            if method.channels:
                monitor.execute("migrate-set-parameters", multifd_channels=method.channels)
        source.execute("migrate-set-parameters", max_bandwidth=method.bytes_per_s)
        target.execute("migrate-incoming", uri=f"tcp:{address}:{_PORT}")
        source.execute("migrate", uri=f"tcp:{address}:{_PORT}")
        try:
            done = _await_end(source)
        finally:
            # A guest that was migrated away stands still; the one over there never runs.
            source.execute("cont")
    return Migrated(done["total-time"] / 1000, float(done["downtime"]))


def _await_end(source: Any) -> dict[str, Any]:
    deadline = time.monotonic() + _TIMEOUT_S
    while time.monotonic() < deadline:
        said: dict[str, Any] = source.execute("query-migrate")
        if said.get("status") == "completed":
            return said
        if said.get("status") not in _RUNNING:
            raise GuestError(f"QEMU's migration is {said.get('status')}: {said.get('error-desc', '')}")
        time.sleep(_POLL_S)
    raise GuestError(f"QEMU's migration was not done within {_TIMEOUT_S:.0f} s")
