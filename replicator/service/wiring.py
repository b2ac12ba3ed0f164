"""From the configuration to the parts that a daemon is made of. Errors name the file and the key that is to blame."""

from __future__ import annotations

import secrets

from replicator.arbiter.base import Arbiter
from replicator.arbiter.open import open_arbiter
from replicator.arbiter.solo import SoloArbiter
from replicator.engine.pipeline import PipelineSettings
from replicator.engine.primary import PrimarySettings
from replicator.link.base import LinkConfig, PeerAddress
from replicator.link.keys import Keys, load_keys, load_public_key
from replicator.memory.bases import BaseCache
from replicator.memory.pages import GuestLayout
from replicator.service.config import DaemonConfig, EpochSection
from replicator.service.config_rules import naming
from replicator.service.guest_kit import GuestKit, load_kit
from replicator.units import NS_PER_MS, PAGE_SIZE

TERM_FILE = "term"


def make_kit(config: DaemonConfig) -> GuestKit:
    with naming(config.path, "[guest] file"):
        return load_kit(config.guest_file)


def make_link_config(config: DaemonConfig) -> LinkConfig:
    port = config.listen.port
    return LinkConfig(
        config.node.name,
        config.listen.host,
        port,
        port + 1,
        port + 2,
        _load_keys(config),
        config.keys.allow_plaintext,
    )


def _load_keys(config: DaemonConfig) -> Keys | None:
    keys = config.keys
    if not keys.secret:
        return None
    with naming(config.path, "[keys]"):
        return load_keys(config.resolve(keys.secret), [config.resolve(path) for path in keys.allow])


def make_peer_address(config: DaemonConfig) -> PeerAddress:
    port, public_key = config.peer.port, ""
    if config.keys.secret:
        with naming(config.path, "[keys] allow"):
            public_key = load_public_key(config.resolve(config.keys.allow[0]))
    return PeerAddress(config.peer.host, port, port + 1, port + 2, public_key)


def make_arbiter(config: DaemonConfig, guest: str) -> Arbiter:
    section = config.arbiter
    if not section.url:
        return SoloArbiter(config.state_dir / TERM_FILE, guest)
    timeout_ms = max(10, (section.ttl_ms - section.margin_ms) // 3)
    with naming(config.path, "[arbiter] url"):
        return open_arbiter(
            section.url,
            guest,
            ttl_ms=section.ttl_ms,
            margin_ms=section.margin_ms,
            timeout_ms=timeout_ms,
        )


def make_bases(layout: GuestLayout, epoch: EpochSection) -> BaseCache | None:
    """Room for what was sent last, within the configured share of the guest's RAM."""
    pages = layout.pages * epoch.bases_percent // 100
    return BaseCache(pages, layout.pfn_limit) if pages else None


def make_primary_settings(config: DaemonConfig, *, promoted: bool) -> PrimarySettings:
    epoch = config.epoch
    pipeline = PipelineSettings(
        epoch.pacing_settings,
        epoch.staging_bytes // PAGE_SIZE,
        epoch.in_flight,
        config.sync.policy,
        epoch.early_pages,
    )
    return PrimarySettings(
        pipeline,
        secrets.token_bytes(8),
        epoch.ack_patience_ms * NS_PER_MS,
        config.has_arbiter,
        promoted=promoted,
        colo=config.colo.settings if config.is_colo else None,
    )
