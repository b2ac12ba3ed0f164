"""The daemon's configuration file: TOML, every key known, every wrong one named with its place.

[node]       name, state_dir
[guest]      file, taps
[listen]     host, port            three ports from `port` on: bulk, control, heartbeat
[peer]       host, port
[keys]       secret, allow         CURVE; without it only loopback, or allow_plaintext = true
[arbiter]    url, ttl_ms, margin_ms   ttl_ms: 300, with etcd 2000
[heartbeat]  interval_ms, misses
[epoch]      interval_ms, in_flight, staging_mib, ack_patience_ms
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

from replicator.arbiter.base import DEFAULT_MARGIN_MS, DEFAULT_TTL_MS
from replicator.errors import ConfigError
from replicator.limits import EPOCHS_IN_FLIGHT_MAX, STAGING_BYTES_DEFAULT
from replicator.service.config_rules import ETCD_SCHEMES, ETCD_TTL_MS_MIN, check_config
from replicator.units import NS_PER_MS

#: /dev/shm is memory: the RAM file of a guest belongs there.
STATE_ROOT = Path("/dev/shm/replicator")
DEFAULT_PORT = 7410


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
    interval_ms: int = 50
    in_flight: int = EPOCHS_IN_FLIGHT_MAX
    staging_mib: int = STAGING_BYTES_DEFAULT >> 20
    ack_patience_ms: int = 1000

    @property
    def interval_ns(self) -> int:
        return self.interval_ms * NS_PER_MS

    @property
    def staging_bytes(self) -> int:
        return self.staging_mib << 20


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
    #: The file; relative paths count from its folder.
    path: Path = Path()

    @property
    def state_dir(self) -> Path:
        return self.resolve(self.node.state_dir) if self.node.state_dir else STATE_ROOT / self.node.name

    @property
    def has_arbiter(self) -> bool:
        return bool(self.arbiter.url)

    @property
    def guest_file(self) -> Path:
        return self.resolve(self.guest.file)

    def resolve(self, path: str) -> Path:
        return (self.path.parent / path).absolute()


_SECTIONS = {field.name: get_type_hints(DaemonConfig)[field.name] for field in fields(DaemonConfig)[:-1]}
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
    if type(value) is not wanted:
        raise ConfigError(f"{path}: {where} is {value!r}", hint=f"write {_KINDS[wanted]}")
    return value


_KINDS = {str: 'a string, as "text"', int: "a whole number, without quotes", bool: "true or false"}
