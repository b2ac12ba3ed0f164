"""What a simulated pair is configured to: drawn from the seed, and as the real daemon's configuration."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

from replicator.service.config import (
    ArbiterSection,
    DaemonConfig,
    EndpointSection,
    EpochSection,
    GuestSection,
    HeartbeatSection,
    KeysSection,
    NodeSection,
)
from replicator.sim.machine import Workload
from replicator.units import NS_PER_MS


@dataclass(frozen=True, slots=True)
class Settings:
    """Of both hosts."""

    interval_ms: int = 10
    in_flight: int = 2
    ack_patience_ms: int = 300
    ttl_ms: int = 300
    margin_ms: int = 30
    heartbeat_ms: int = 30
    misses: int = 6
    staging_pages: int = 16
    batch_pages: int = 5
    hold_bytes_max: int = 8192
    workload: Workload = field(default_factory=Workload)


def draw_settings(seed: int) -> Settings:
    rng = random.Random(f"settings {seed}")
    workload = Workload(
        pages=rng.choice((12, 32, 48)),
        burst_ns=(500_000, rng.choice((3, 6, 12)) * NS_PER_MS),
        pages_a_burst=rng.choice((1, 4, 9)),
        frames_a_burst=rng.choice((0, 1, 3)),
        storm=rng.choice((0.0, 0.005, 0.03)),
    )
    return Settings(
        interval_ms=rng.choice((5, 8, 12)),
        in_flight=rng.choice((1, 2, 2)),
        staging_pages=rng.choice((8, 16, 60)),
        batch_pages=rng.choice((2, 5, 40)),
        hold_bytes_max=rng.choice((4096, 16384, 1 << 20)),
        workload=workload,
    )


def make_config(settings: Settings, name: str, peer: str, state_dir: Path) -> DaemonConfig:
    """The configuration of one host's daemon."""
    return DaemonConfig(
        NodeSection(name, str(state_dir)),
        GuestSection("guest.toml"),
        EndpointSection(name),
        EndpointSection(peer),
        KeysSection(allow_plaintext=True),
        ArbiterSection("sim:", settings.ttl_ms, settings.margin_ms),
        HeartbeatSection(settings.heartbeat_ms, settings.misses),
        EpochSection(settings.interval_ms, settings.in_flight, ack_patience_ms=settings.ack_patience_ms),
    )
