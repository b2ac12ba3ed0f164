"""The daemon's configuration file: TOML, every key known, every wrong one named with its place.

[node]       name, state_dir
[guest]      file, taps
[listen]     host, port            four ports from `port` on: bulk, control, heartbeat, frames (COLO)
[peer]       host, port
[keys]       secret, allow         CURVE; without it only loopback, or allow_plaintext = true
[arbiter]    url, ttl_ms, margin_ms   ttl_ms: 300, with etcd 2000
[heartbeat]  interval_ms, misses
[epoch]      interval_ms, in_flight, staging_mib, ack_patience_ms,
             pacing, interval_min_ms, interval_max_ms, goal, early_pages   docs/pacing.md
             bases_percent, mode
[colo]       interval_min_ms, interval_max_ms, differences_max, retry_ms, comparer, options   docs/colo.md
[sync]       max_downtime_ms, max_iterations, min_remaining_pages, max_time_s, on_busy
[clock]      policy, max_behind_ms   docs/guests.md
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from pathlib import Path
from typing import Any, get_type_hints

from replicator.arbiter.base import DEFAULT_MARGIN_MS, DEFAULT_TTL_MS
from replicator.compare.loading import DEFAULT_COMPARER
from replicator.engine.colo import ColoSettings
from replicator.engine.guest_clock import ClockPolicy, ClockSettings
from replicator.engine.pacing import Mode as PacingMode
from replicator.engine.pacing import PacingSettings, parse_goal
from replicator.engine.precopy import DowntimePolicy, OnBusy
from replicator.errors import ConfigError
from replicator.limits import STAGING_BYTES_DEFAULT
from replicator.service.config_rules import (
    ETCD_SCHEMES,
    ETCD_TTL_MS_MIN,
    LIVE_ROUNDS_MIN,
    check_config,
    choose,
)
from replicator.units import NS_PER_MS, NS_PER_S

#: /dev/shm is memory: the RAM file of a guest belongs there.
STATE_ROOT = Path("/dev/shm/replicator")
DEFAULT_PORT = 7410


class Mode(Enum):
    """How the guest is kept alive."""

    REMUS = "remus"
    COLO = "colo"


@dataclass(frozen=True, slots=True)
class NodeSection:
    name: str
    state_dir: str = ""


@dataclass(frozen=True, slots=True)
class GuestSection:
    file: str
    #: One TAP a NIC, in the order of the guest file.
    taps: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EndpointSection:
    host: str
    port: int = DEFAULT_PORT


@dataclass(frozen=True, slots=True)
class KeysSection:
    secret: str = ""
    allow: tuple[str, ...] = ()
    allow_plaintext: bool = False


@dataclass(frozen=True, slots=True)
class ArbiterSection:
    url: str = ""
    ttl_ms: int = DEFAULT_TTL_MS
    margin_ms: int = DEFAULT_MARGIN_MS


@dataclass(frozen=True, slots=True)
class HeartbeatSection:
    interval_ms: int = 50
    misses: int = 4


@dataclass(frozen=True, slots=True)
class EpochSection:
    #: Of fixed pacing.
    interval_ms: int = 50
    in_flight: int = 2
    staging_mib: int = STAGING_BYTES_DEFAULT >> 20
    ack_patience_ms: int = 1000
    pacing: str = PacingMode.FIXED.value
    #: Bounds of adaptive pacing.
    interval_min_ms: int = 5
    interval_max_ms: int = 100
    goal: str = "latency=10ms"
    #: Dirty pages from which on an epoch is copied in part before its pause; 0 for never.
    early_pages: int = 4096
    #: Of the guest's RAM: how much may be kept of what was sent last, to send only what changed since; 0 for none.
    bases_percent: int = 25
    mode: str = Mode.REMUS.value

    @property
    def interval_ns(self) -> int:
        return self.interval_ms * NS_PER_MS

    @property
    def pacing_settings(self) -> PacingSettings:
        """ConfigError for values that contradict each other."""
        return PacingSettings(
            self.interval_ns,
            choose(PacingMode, "pacing", self.pacing),
            self.interval_min_ms * NS_PER_MS,
            self.interval_max_ms * NS_PER_MS,
            parse_goal(self.goal),
        )

    @property
    def staging_bytes(self) -> int:
        return self.staging_mib << 20


@dataclass(frozen=True, slots=True)
class ColoSection:
    """How the outputs of both guests are compared, and when there is a checkpoint: docs/colo.md."""

    #: The guest has run for so long before a checkpoint that a difference asks for.
    interval_min_ms: int = 5
    #: A checkpoint comes after so long in any case.
    interval_max_ms: int = 5000
    #: A second; with more the pair goes on at the pace of Remus for a while. 0: it never does.
    differences_max: int = 8
    #: How long that while is.
    retry_ms: int = 5000
    comparer: str = DEFAULT_COMPARER
    #: The comparer's.
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def settings(self) -> ColoSettings:
        """ConfigError for values that contradict each other."""
        return ColoSettings(
            self.interval_min_ms * NS_PER_MS,
            self.interval_max_ms * NS_PER_MS,
            float(self.differences_max),
            self.retry_ms * NS_PER_MS,
        )


@dataclass(frozen=True, slots=True)
class SyncSection:
    """When a guest that is being copied may be paused, and what becomes of one that is too busy."""

    max_downtime_ms: int = 300
    max_iterations: int = 16
    min_remaining_pages: int = 256
    max_time_s: int = 300
    on_busy: str = OnBusy.COMPLETE.value

    @property
    def policy(self) -> DowntimePolicy:
        """ConfigError for values that contradict each other."""
        return DowntimePolicy(
            self.max_downtime_ms * NS_PER_MS,
            self.max_iterations,
            self.min_remaining_pages,
            self.max_time_s * NS_PER_S,
            choose(OnBusy, "on_busy", self.on_busy),
            LIVE_ROUNDS_MIN,
        )


@dataclass(frozen=True, slots=True)
class ClockSection:
    """What becomes of the time that a guest loses in pauses and failovers: docs/guests.md, Clock."""

    policy: str = ClockPolicy.CONTINUE.value
    max_behind_ms: int = 500

    @property
    def settings(self) -> ClockSettings:
        """ConfigError for a policy that is not known."""
        return ClockSettings(choose(ClockPolicy, "policy", self.policy), self.max_behind_ms * NS_PER_MS)


@dataclass(frozen=True, slots=True)
class DaemonConfig:
    node: NodeSection
    guest: GuestSection
    listen: EndpointSection
    peer: EndpointSection
    keys: KeysSection = KeysSection()
    arbiter: ArbiterSection = ArbiterSection()
    heartbeat: HeartbeatSection = HeartbeatSection()
    epoch: EpochSection = EpochSection()
    sync: SyncSection = SyncSection()
    clock: ClockSection = ClockSection()
    colo: ColoSection = field(default_factory=ColoSection)
    #: The file; relative paths count from its folder.
    path: Path = Path()

    @property
    def state_dir(self) -> Path:
        return self.resolve(self.node.state_dir) if self.node.state_dir else STATE_ROOT / self.node.name

    @property
    def is_colo(self) -> bool:
        return self.epoch.mode == Mode.COLO.value

    @property
    def has_arbiter(self) -> bool:
        return bool(self.arbiter.url)

    @property
    def guest_file(self) -> Path:
        return self.resolve(self.guest.file)

    def resolve(self, path: str) -> Path:
        return (self.path.parent / path).absolute()


_SECTIONS = {each.name: get_type_hints(DaemonConfig)[each.name] for each in fields(DaemonConfig)[:-1]}
_EXAMPLE = "README.md shows a configuration to start from"
_REQUIRED = ("node", "guest", "listen", "peer")


def load_config(path: Path) -> DaemonConfig:
    """Read and check the file. ConfigError names the file and the key."""
    try:
        document = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist", hint=_EXAMPLE) from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", hint="name the TOML file") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}", hint=_EXAMPLE) from error
    return parse_config(document, path)


def parse_config(document: dict[str, Any], path: Path) -> DaemonConfig:
    """Make the configuration of a parsed TOML document; `path` is for messages and relative paths."""
    unknown = sorted(set(document) - set(_SECTIONS))
    if unknown:
        raise ConfigError(f"{path}: unknown section [{unknown[0]}]", hint=f"known are {', '.join(_SECTIONS)}")
    missing = [name for name in _REQUIRED if name not in document]
    if missing:
        raise ConfigError(f"{path}: section [{missing[0]}] is missing", hint=_EXAMPLE)
    sections = {name: _parse_section(path, name, _SECTIONS[name], table) for name, table in document.items()}
    config = DaemonConfig(**sections, path=path)
    if config.arbiter.url.startswith(ETCD_SCHEMES) and "ttl_ms" not in document["arbiter"]:
        config = replace(config, arbiter=replace(config.arbiter, ttl_ms=ETCD_TTL_MS_MIN))
    check_config(config)
    return config


def change_sync(config: DaemonConfig, orders: dict[str, Any]) -> DaemonConfig:
    """With other values of [sync], None for those of the file. ConfigError as for the file."""
    given = {key: value for key, value in orders.items() if value is not None}
    changed = replace(config, sync=replace(config.sync, **given))
    check_config(changed)
    return changed


def change_mode(config: DaemonConfig, mode: str | None) -> DaemonConfig:
    """With another mode than that of the file, None for that one. ConfigError as for the file."""
    changed = config if mode is None else replace(config, epoch=replace(config.epoch, mode=mode))
    check_config(changed)
    return changed


def _parse_section(path: Path, name: str, kind: type, table: object) -> Any:
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: {name} is not a section", hint=f"write [{name}], and its keys below it")
    hints = get_type_hints(kind)
    unknown = sorted(set(table) - set(hints))
    if unknown:
        raise ConfigError(
            f"{path}: unknown key {unknown[0]} in [{name}]", hint=f"known are {', '.join(hints)}"
        )
    values = {key: _parse_value(path, f"[{name}] {key}", hints[key], value) for key, value in table.items()}
    try:
        return kind(**values)
    except TypeError:
        required = next(key for key in hints if key not in values)
        raise ConfigError(f"{path}: [{name}] {required} is missing", hint=_EXAMPLE) from None


def _parse_value(path: Path, where: str, wanted: Any, value: object) -> object:
    if wanted == tuple[str, ...]:
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        raise ConfigError(f"{path}: {where} is {value!r}, not a list of strings", hint='write ["first", ...]')
    if wanted == dict[str, Any]:
        if isinstance(value, dict):
            return value
        raise ConfigError(f"{path}: {where} is {value!r}, not a table", hint="write { key = value, ... }")
    if type(value) is not wanted:
        raise ConfigError(f"{path}: {where} is {value!r}", hint=f"write {_KINDS[wanted]}")
    return value


_KINDS = {str: 'a string, as "text"', int: "a whole number, without quotes", bool: "true or false"}
