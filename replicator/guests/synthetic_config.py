"""What a synthetic guest is made of, and its RAM file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from replicator.errors import GuestError, require
from replicator.guests.base import GuestIdentity, NicEndpoint
from replicator.memory.pages import Segment
from replicator.units import PAGE_SIZE


@dataclass(frozen=True, slots=True)
class SyntheticConfig:
    """A synthetic guest. Both sides of a pair use the same one but for the NIC's paths."""

    name: str = "synthetic"
    uuid: str = "00000000-0000-4000-8000-000000000001"
    ram_bytes: int = 16 << 20
    #: Where guest frames lie in the RAM file; empty: one segment from frame 0 on.
    layout: tuple[Segment, ...] = ()
    seed: int = 1
    #: Pages the workload writes to; 0: all but page 0.
    working_pages: int = 0
    #: Pages dirtied a millisecond while running; 0: only on `step`.
    steps_per_ms: float = 1.0
    #: Length of the device state; QEMU's is about 60 kB.
    state_bytes: int = 4096
    #: Milliseconds of running time between frames sent unasked; 0: none.
    beacon_ms: int = 0
    #: Probability, for each reply or beacon, that its host's entropy comes into it and into the RAM.
    divergence: float = 0.0
    #: Whether an agent in the guest sets its wall clock on demand.
    agent: bool = False
    mac: str = "52:54:00:53:59:4e"
    ip: str = "10.77.0.2"
    #: Both or none.
    nic_guest_path: Path | None = None
    nic_relay_path: Path | None = None

    def __post_init__(self) -> None:
        require((self.nic_guest_path is None) == (self.nic_relay_path is None), "a NIC has two paths")
        require(self.ram_bytes % PAGE_SIZE == 0 and self.ram_bytes >= 2 * PAGE_SIZE, "RAM: two pages or more")
        require(0 <= self.working_pages < self.pages, "the working set must fit behind page 0")
        require(0 <= self.divergence <= 1, "the divergence is a probability")

    @property
    def pages(self) -> int:
        return self.ram_bytes // PAGE_SIZE

    @property
    def segments(self) -> tuple[Segment, ...]:
        return self.layout or (Segment(0, 0, self.pages),)

    @property
    def working_set(self) -> int:
        return self.working_pages or self.pages - 1

    @property
    def identity(self) -> GuestIdentity:
        return GuestIdentity(
            name=self.name,
            uuid=self.uuid,
            ram_bytes=self.ram_bytes,
            layout=self.segments,
            machine=f"synthetic-2,seed={self.seed},working={self.working_set},state={self.state_bytes}",
            macs=(self.mac,) if self.nic_guest_path else (),
        )

    @property
    def nics(self) -> tuple[NicEndpoint, ...]:
        if self.nic_guest_path is None or self.nic_relay_path is None:
            return ()
        return (NicEndpoint("nic0", self.mac, self.nic_guest_path, self.nic_relay_path),)


def open_ram(config: SyntheticConfig, path: Path | None) -> int:
    """Descriptor of the guest's RAM: the file at `path` (created 0600 when missing), else a new memfd."""
    try:
        if path is None:
            fd = os.memfd_create(f"replicator-{config.name}")
        else:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if os.fstat(fd).st_size not in (0, config.ram_bytes):
                raise GuestError(f"{path} is not a RAM file of {config.ram_bytes} bytes")
            os.posix_fallocate(fd, 0, config.ram_bytes)
        except BaseException:
            os.close(fd)
            raise
    except OSError as cause:
        raise GuestError(f"cannot make the guest's RAM {path or 'memfd'}: {cause.strerror}") from cause
    return fd
