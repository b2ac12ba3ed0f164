"""What a configuration must keep beyond its keys' types. Each mistake is a ConfigError that names file, key and remedy."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from replicator.arbiter.base import check_timing
from replicator.compare.loading import load_comparer
from replicator.errors import ConfigError, GuestError
from replicator.limits import EPOCHS_IN_FLIGHT_MAX
from replicator.link.base import is_loopback
from replicator.wire.session import NODE_CHARS_MAX

if TYPE_CHECKING:
    from replicator.service.config import DaemonConfig

#: Each side listens on so many ports: bulk, control, heartbeat, frames.
PORTS = 4
ETCD_SCHEMES = ("etcd:", "etcds:")
#: etcd raises shorter leases to 1.5 x its election timeout, rounded up to seconds.
ETCD_TTL_MS_MIN = 2000
#: Passes of a synchronisation that are made in any case: in so many the guest's dirty tracker is audited.
LIVE_ROUNDS_MIN = 4
#: What `replicator tune` may change, too: section -> keys that hold whole numbers, and their bounds.
TUNABLE_KEYS = {
    "epoch": ("interval_ms", "interval_min_ms", "interval_max_ms", "early_pages"),
    "sync": ("max_downtime_ms", "max_iterations", "min_remaining_pages", "max_time_s"),
}
TUNABLE_BOUNDS = {
    "interval_ms": (5, 10_000),
    "interval_min_ms": (1, 10_000),
    "interval_max_ms": (1, 10_000),
    "early_pages": (0, 1 << 28),
    "max_downtime_ms": (1, 600_000),
    "max_iterations": (LIVE_ROUNDS_MIN, 10_000),
    "min_remaining_pages": (0, 1 << 28),
    "max_time_s": (1, 86_400),
}
_Choice = TypeVar("_Choice", bound=Enum)
_NODE_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{NODE_CHARS_MAX - 1}}}")


@contextlib.contextmanager
def naming(path: Path, where: str) -> Iterator[None]:
    """Errors of what a key leads to (ConfigError and GuestError) say which file and key that was."""
    try:
        yield
    except (ConfigError, GuestError) as error:
        raise type(error)(f"{path}: {where}: {error}", hint=error.hint) from error


def check_config(config: DaemonConfig) -> None:
    """Raise ConfigError for the first rule that is not kept."""
    for rule in (_check_bounds, _check_pacing, _check_names, _check_addresses, _check_keys, _check_arbiter):
        rule(config)


def _check_bounds(config: DaemonConfig) -> None:
    bounds = (
        ("[listen] port", config.listen.port, 1, 65_536 - PORTS),
        ("[peer] port", config.peer.port, 1, 65_536 - PORTS),
        ("[epoch] in_flight", config.epoch.in_flight, 1, EPOCHS_IN_FLIGHT_MAX),
        ("[epoch] staging_mib", config.epoch.staging_mib, 8, 65_536),
        ("[epoch] ack_patience_ms", config.epoch.ack_patience_ms, 100, 600_000),
        ("[epoch] bases_percent", config.epoch.bases_percent, 0, 100),
        ("[colo] interval_min_ms", config.colo.interval_min_ms, 0, 10_000),
        ("[colo] interval_max_ms", config.colo.interval_max_ms, 10, 600_000),
        ("[colo] differences_max", config.colo.differences_max, 0, 1000),
        ("[colo] retry_ms", config.colo.retry_ms, 100, 600_000),
        ("[clock] max_behind_ms", config.clock.max_behind_ms, 20, 600_000),
        ("[heartbeat] interval_ms", config.heartbeat.interval_ms, 5, 60_000),
        ("[heartbeat] misses", config.heartbeat.misses, 2, 1000),
        ("[arbiter] ttl_ms", config.arbiter.ttl_ms, 50, 600_000),
        ("[arbiter] margin_ms", config.arbiter.margin_ms, 1, 600_000),
    )
    tunable = (
        (f"[{section}] {key}", getattr(getattr(config, section), key), *TUNABLE_BOUNDS[key])
        for section, keys in TUNABLE_KEYS.items()
        for key in keys
    )
    for where, value, low, high in (*bounds, *tunable):
        check_bound(f"{config.path}: {where}", value, low, high)


def check_bound(where: str, value: int, low: int, high: int) -> None:
    """ConfigError unless `low` <= `value` <= `high`. The last word of `where` is the key."""
    if not low <= value <= high:
        raise ConfigError(
            f"{where} = {value} is not in {low}..{high}",
            hint=f"set {where.split()[-1]} to {low} at least and {high} at most",
        )


def choose(kind: type[_Choice], key: str, value: str) -> _Choice:
    """The member with this value. ConfigError names the others."""
    try:
        return kind(value)
    except ValueError:
        known = ", ".join(f'"{member.value}"' for member in kind)
        raise ConfigError(f"{key} = {value!r} is not known", hint=f"write one of {known}") from None


def _check_pacing(config: DaemonConfig) -> None:
    for section, make in (
        ("epoch", lambda: config.epoch.pacing_settings),
        ("sync", lambda: config.sync.policy),
        ("clock", lambda: config.clock.settings),
        ("epoch", lambda: _check_mode(config.epoch.mode)),
        ("colo", lambda: config.colo.settings),
        ("colo", lambda: load_comparer(config.colo.comparer, config.colo.options)),
    ):
        with naming(config.path, f"[{section}]"):
            make()


def _check_mode(mode: str) -> None:
    if mode not in ("remus", "colo"):
        raise ConfigError(f"mode = {mode!r} is not known", hint='write one of "remus", "colo"')


def _check_names(config: DaemonConfig) -> None:
    if not _NODE_NAME.fullmatch(config.node.name):
        raise ConfigError(
            f"{config.path}: [node] name = {config.node.name!r} cannot name a host",
            hint=f"use up to {NODE_CHARS_MAX} letters, digits, dots, dashes; another one on each host",
        )
    taps = config.guest.taps
    if twice := sorted({name for name in taps if taps.count(name) > 1}):
        raise ConfigError(
            f"{config.path}: [guest] taps names {twice[0]} twice", hint="each NIC needs a TAP of its own"
        )


def _check_addresses(config: DaemonConfig) -> None:
    for section, endpoint in (("listen", config.listen), ("peer", config.peer)):
        if not endpoint.host or endpoint.host.split() != [endpoint.host]:
            raise ConfigError(
                f"{config.path}: [{section}] host = {endpoint.host!r} is not an address",
                hint=f"write the address of {'this host' if section == 'listen' else 'the peer'}, as 10.78.0.1",
            )
    listen, peer = config.listen, config.peer
    if listen.host == peer.host and abs(listen.port - peer.port) < PORTS:
        raise ConfigError(
            f"{config.path}: [peer] {peer.host} port {peer.port} overlaps this side's own [listen] port "
            f"{listen.port}",
            hint=f"[peer] is the other host; two daemons on one host need ports at least {PORTS} apart",
        )


def _check_keys(config: DaemonConfig) -> None:
    keys = config.keys
    if not keys.secret:
        if keys.allow:
            raise ConfigError(
                f"{config.path}: [keys] allow needs [keys] secret beside it",
                hint="secret names this host's own .key_secret file, which `replicator keygen` makes",
            )
        _check_plaintext(config)
        return
    if len(keys.allow) != 1:
        raise ConfigError(
            f"{config.path}: [keys] allow names {len(keys.allow)} keys, not exactly the peer's public key",
            hint='write allow = ["PEER.key"] with the .key file that `replicator keygen` made on the peer',
        )
    if keys.allow_plaintext:
        raise ConfigError(
            f"{config.path}: [keys] allow_plaintext = true contradicts [keys] secret",
            hint="with keys the link is always encrypted: remove one of both",
        )


def _check_plaintext(config: DaemonConfig) -> None:
    if config.keys.allow_plaintext:
        return
    for section, endpoint in (("listen", config.listen), ("peer", config.peer)):
        if not is_loopback(endpoint.host):
            raise ConfigError(
                f"{config.path}: without [keys] the link by way of [{section}] host = {endpoint.host} would carry "
                "the guest's memory unencrypted",
                hint="make keys with `replicator keygen` and name them in [keys] on both hosts, or set "
                "allow_plaintext = true there on a network that nobody else can reach",
            )


def _check_arbiter(config: DaemonConfig) -> None:
    beat, lease = config.heartbeat, config.arbiter
    if not lease.url:
        return
    if lease.url.startswith(ETCD_SCHEMES) and (lease.ttl_ms < ETCD_TTL_MS_MIN or lease.ttl_ms % 1000):
        raise ConfigError(
            f"{config.path}: [arbiter] ttl_ms = {lease.ttl_ms}: etcd's leases last whole seconds, and 2 at least",
            hint=f"write ttl_ms = {max(ETCD_TTL_MS_MIN, -(-lease.ttl_ms // 1000) * 1000)}",
        )
    try:
        check_timing(beat.interval_ms, beat.misses, lease.margin_ms, lease.ttl_ms)
    except ConfigError as error:
        raise ConfigError(f"{config.path}: [arbiter] ttl_ms: {error}", hint=error.hint) from error
