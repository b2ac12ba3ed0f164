"""The guests that a drill protects: their files, their clients, and how their memory is made to change much at once."""

from __future__ import annotations

import asyncio
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from replicator.demo.golden import ensure_golden, guest_config, guest_file_text
from replicator.demo.guest_image import Progress, default_cache_dir, ensure_guest_image
from replicator.demo.guest_scripts import COMMAND_PORT
from replicator.errors import ConfigError
from replicator.guests.qemu_kvm import choose_accel
from replicator.guests.synthetic_frames import UDP_SERVICE_PORT, WORK_FLAG
from replicator.units import PAGE_SIZE

GUEST_IP = "10.77.0.10"
MIB = 1 << 20
#: More than staging holds (Stand's staging_mib).
BURST_MIB = 14
_SYNTHETIC_MAC = "52:54:00:53:59:4e"
_SYNTHETIC_MIB = 16
_SYNTHETIC_FILE = f"""kind = "synthetic"
name = "drill"
memory_mib = {_SYNTHETIC_MIB}
steps_per_ms = 1.0
beacon_ms = 10
mac = "{_SYNTHETIC_MAC}"
ip = "{GUEST_IP}"
divergence = {{divergence}}
"""


class DrillGuest(Protocol):
    """One kind of guest."""

    @property
    def kind(self) -> str: ...

    @property
    def accelerator(self) -> str:
        """What runs its instructions: kvm or tcg; for a guest without QEMU, none."""

    @property
    def mac(self) -> str: ...

    @property
    def file_text(self) -> str:
        """The guest file."""

    @property
    def state_mib(self) -> int:
        """Room that a side's state folder needs."""

    @property
    def actor_options(self) -> list[str]: ...

    @property
    def client(self) -> list[str]:
        """Python's arguments for its client (demo/client.py says what one says)."""

    @property
    def burst(self) -> tuple[int, bytes]:
        """UDP port and datagram that make the guest change BURST_MIB at once."""


@dataclass(frozen=True, slots=True)
class QemuDrillGuest:
    """The demonstration's VM, from its golden state."""

    mac: str
    file_text: str
    golden: Path
    memory_mib: int
    accelerator: str
    kind: str = "qemu"

    @property
    def state_mib(self) -> int:
        return 2 * self.memory_mib + 192

    @property
    def actor_options(self) -> list[str]:
        return ["--golden", str(self.golden)]

    @property
    def client(self) -> list[str]:
        return ["-m", "replicator.demo.client", GUEST_IP]

    @property
    def burst(self) -> tuple[int, bytes]:
        return COMMAND_PORT, f"dirty {BURST_MIB}".encode()


@dataclass(frozen=True, slots=True)
class SyntheticDrillGuest:
    """A process of ours: it needs no QEMU, and is there at once."""

    #: How often two that run side by side say different things (COLO).
    divergence: float = 0.0
    mac: str = _SYNTHETIC_MAC
    kind: str = "synthetic"
    accelerator: str = "none"

    @property
    def file_text(self) -> str:
        return _SYNTHETIC_FILE.format(divergence=self.divergence)

    @property
    def state_mib(self) -> int:
        return 2 * _SYNTHETIC_MIB + 64

    @property
    def actor_options(self) -> list[str]:
        return []

    @property
    def client(self) -> list[str]:
        return ["-m", "replicator.drill.actors.udp_client", GUEST_IP]

    @property
    def burst(self) -> tuple[int, bytes]:
        pages = BURST_MIB * MIB // PAGE_SIZE
        return UDP_SERVICE_PORT, struct.pack("!Q", WORK_FLAG | pages)


def make_guest(kind: str, say: Progress, divergence: float = 0.0) -> DrillGuest:
    """Builds the image and boots it once where that was never done; `say` hears of it. ConfigError for a `divergence` of
    a guest that cannot be told to have one."""
    if kind == "synthetic":
        return SyntheticDrillGuest(divergence)
    if divergence:
        raise ConfigError(
            "--divergence needs --guest synthetic", hint="a real guest differs as it happens to"
        )
    image = ensure_guest_image(default_cache_dir(), say)
    config = guest_config(image)
    golden = ensure_golden(image, default_cache_dir(), config, say)
    return QemuDrillGuest(
        config.nics[0].mac,
        guest_file_text(config),
        golden.ram_path.parent,
        config.memory_mib,
        asyncio.run(choose_accel(config)),
    )
