"""What a simulated pair is configured to: drawn from the seed, and as the real daemon's configuration."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path

from replicator.service.config import (
    ArbiterSection,
    ColoSection,
    DaemonConfig,
    EndpointSection,
    EpochSection,
    GuestSection,
    HeartbeatSection,
    KeysSection,
    Mode,
    NodeSection,
    SyncSection,
)
from replicator.sim.machine import Workload
from replicator.units import NS_PER_MS

#: Of a synchronisation whose guest stays too busy.
MAX_TIME_S = 1
#: Of runs, those whose links are sealed.
SEALED_SHARE = 0.6
#: Of runs in mixed modes, those that do COLO.
COLO_SHARE = 0.5


class Modes(Enum):
    """Which seeds do what; the same seed in Remus is always the same run."""

    REMUS = "remus"
    COLO = "colo"
    MIXED = "mixed"


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
    #: Whether bulk messages are sealed, as between daemons with keys.
    sealed: bool = False
    pacing: str = "fixed"
    interval_min_ms: int = 3
    interval_max_ms: int = 25
    goal: str = "latency=10ms"
    early_pages: int = 0
    #: Of the primary's cache of what was sent last; 0 for none.
    bases_pages: int = 0
    on_busy: str = "complete"
    max_downtime_ms: int = 50
    max_iterations: int = 5
    min_remaining_pages: int = 6
    #: Orders of the operator to move the guest.
    switchovers: int = 0
    mode: str = "remus"
    #: Of both guests, in a burst: that it takes in entropy and parts from the other one.
    divergence: float = 0.0
    checkpoint_min_ms: int = 2
    checkpoint_max_ms: int = 40
    differences_max: int = 8
    retry_ms: int = 300
    #: Committed epochs that a run has at least.
    epochs_min: int = 200
    workload: Workload = field(default_factory=Workload)

    @property
    def is_colo(self) -> bool:
        return self.mode == Mode.COLO.value


def draw_settings(seed: int, modes: Modes = Modes.REMUS) -> Settings:
    settings = _draw_settings(seed)
    rng = random.Random(f"colo {seed}")
    is_drawn = rng.random() < COLO_SHARE
    return _do_colo(settings, rng) if modes is Modes.COLO or (modes is Modes.MIXED and is_drawn) else settings


def _do_colo(settings: Settings, rng: random.Random) -> Settings:
    """Checkpoints come often, and an epoch of both guests lasts longer than one of Remus."""
    return replace(
        settings,
        mode=Mode.COLO.value,
        divergence=rng.choice((0.0, 0.003, 0.01, 0.04)),
        checkpoint_min_ms=rng.choice((0, 2, 6)),
        checkpoint_max_ms=rng.choice((12, 25, 50)),
        differences_max=rng.choice((0, 4, 12)),
        retry_ms=rng.choice((60, 250)),
        epochs_min=100,
    )


def _draw_settings(seed: int) -> Settings:
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
        in_flight=rng.choice((1, 2, 3, 4)),
        staging_pages=rng.choice((8, 16, 60)),
        batch_pages=rng.choice((2, 5, 40)),
        hold_bytes_max=rng.choice((4096, 16384, 1 << 20)),
        sealed=rng.random() < SEALED_SHARE,
        workload=workload,
        pacing=rng.choice(("fixed", "adaptive")),
        goal=rng.choice(("latency=5ms", "latency=12ms", "overhead=10%", "overhead=40%")),
        early_pages=rng.choice((0, 0, 3, 8)),
        bases_pages=rng.choice((0, 4, 12, 48)),
        on_busy=rng.choice(("complete", "complete", "abort", "continue")),
        max_downtime_ms=rng.choice((2, 6, 50)),
        min_remaining_pages=rng.choice((0, 2, 6)),
        switchovers=rng.choice((0, 1, 2, 4)),
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
        EpochSection(
            settings.interval_ms,
            settings.in_flight,
            ack_patience_ms=settings.ack_patience_ms,
            pacing=settings.pacing,
            interval_min_ms=settings.interval_min_ms,
            interval_max_ms=settings.interval_max_ms,
            goal=settings.goal,
            early_pages=settings.early_pages,
            mode=settings.mode,
        ),
        SyncSection(
            settings.max_downtime_ms,
            settings.max_iterations,
            settings.min_remaining_pages,
            MAX_TIME_S,
            settings.on_busy,
        ),
        colo=ColoSection(
            settings.checkpoint_min_ms,
            settings.checkpoint_max_ms,
            settings.differences_max,
            settings.retry_ms,
        ),
    )
