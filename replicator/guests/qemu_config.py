"""The guest file: what a QEMU guest is made of, the same on both hosts.

    name = "web"
    memory_mib = 256
    kernel = "vmlinuz"            # paths are relative to this file
    initrd = "initrd.img"
    cmdline = "console=ttyS0 no_timer_check tsc=reliable"

    [[nic]]
    mac = "52:54:00:77:65:62"

Optional: `kind` ("qemu"), `uuid`, `vcpus` (1), `machine` ("pc" or "q35"), `cpu` ("qemu64"), `accel` ("auto", "kvm" or
"tcg"), `virtio` ("legacy" or "modern"), `[[disk]]` with `path` and `readonly = true` (raw images only), `[agent]` with
`channel` ("org.qemu.guest_agent.0") for a guest in which the QEMU guest agent runs. A key that is not known is refused,
for it is a typing error or asks for something that this version would not do.
"""

from __future__ import annotations

import re
import tomllib
import uuid as uuids
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from replicator.errors import ConfigError
from replicator.limits import PFN_MAX
from replicator.units import PAGE_SIZE

#: What `kind` in the file may say; other kinds have other readers.
KIND = "qemu"
MACHINES = ("pc", "q35")
ACCELERATORS = ("auto", "kvm", "tcg")
VIRTIO_KINDS = ("legacy", "modern")
VCPUS_MAX = 64
NICS_MAX = 8
DISKS_MAX = 8
CMDLINE_BYTES_MAX = 2047
MEMORY_MIB_MIN = 32
#: Where the agent of every system listens, unless it is told otherwise.
AGENT_CHANNEL = "org.qemu.guest_agent.0"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_CPU = re.compile(r"[A-Za-z0-9][A-Za-z0-9._,+=-]{0,200}")
_CHANNEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_NAMESPACE = uuids.UUID("5d0b7d2e-6f0f-4b5c-9a51-0e6f5f6d1c11")
_MIB = 1 << 20

Value = TypeVar("Value", str, int, bool)


@dataclass(frozen=True, slots=True)
class NicConfig:
    """One virtio-net NIC. Its sockets are named by the side that runs it."""

    mac: str


@dataclass(frozen=True, slots=True)
class DiskConfig:
    """One read-only raw image, seen by the guest as a virtio disk."""

    path: Path


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """A channel to the QEMU guest agent that runs in the guest; `channel` is the port's name, as the guest sees it."""

    channel: str = AGENT_CHANNEL


@dataclass(frozen=True, slots=True)
class QemuGuestConfig:
    """A guest file that was read and checked."""

    name: str
    uuid: str
    memory_mib: int
    vcpus: int = 1
    machine: str = "pc"
    cpu: str = "qemu64"
    #: "auto": kvm where it really works, else tcg.
    accel: str = "auto"
    #: A modern device brings 1,024 queues into each checkpoint's device state, used or not: 45 kB and 0.5 ms of pause.
    virtio: str = "legacy"
    kernel: Path | None = None
    initrd: Path | None = None
    cmdline: str = ""
    nics: tuple[NicConfig, ...] = ()
    disks: tuple[DiskConfig, ...] = ()
    #: None: the guest has no channel for an agent.
    agent: AgentConfig | None = None

    @property
    def ram_bytes(self) -> int:
        return self.memory_mib * _MIB


def load_guest_file(path: Path) -> QemuGuestConfig:
    """Read a guest file. ConfigError names the file, the key and what is wrong with it."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read guest file {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"guest file {path} is not TOML: {error}") from error
    return parse_guest(document, path)


def parse_guest(document: Mapping[str, Any], path: Path) -> QemuGuestConfig:
    """The configuration in a decoded guest file; `path` is its place, for messages and relative paths."""
    table = _Table(document, f"guest file {path}", path.parent)
    table.take("kind", str, KIND, check=_one_of((KIND,)))
    name = table.take("name", str, check=_matches(_NAME, "letters, digits, '.', '_' and '-', at most 63"))
    uuid = _take_uuid(table, name)
    config = QemuGuestConfig(
        name=name,
        uuid=uuid,
        memory_mib=table.take(
            "memory_mib", int, check=_between(MEMORY_MIB_MIN, (PFN_MAX * PAGE_SIZE) // _MIB)
        ),
        vcpus=table.take("vcpus", int, 1, check=_between(1, VCPUS_MAX)),
        machine=table.take("machine", str, "pc", check=_one_of(MACHINES)),
        cpu=table.take("cpu", str, "qemu64", check=_matches(_CPU, "a CPU model of QEMU")),
        accel=table.take("accel", str, "auto", check=_one_of(ACCELERATORS)),
        virtio=table.take("virtio", str, "legacy", check=_one_of(VIRTIO_KINDS)),
        kernel=table.take_file("kernel"),
        initrd=table.take_file("initrd"),
        cmdline=table.take("cmdline", str, "", check=_is_cmdline),
        nics=_take_nics(table, uuid),
        disks=_take_disks(table),
        agent=_take_agent(table),
    )
    table.refuse_rest()
    _check_boot(config, table)
    return config


class _Table:
    """A TOML table from which keys are taken one by one; what is left in the end was not known."""

    def __init__(self, values: Mapping[str, Any], where: str, folder: Path) -> None:
        self._rest = dict(values)
        self.where = where
        self.folder = folder

    def fail(self, message: str, hint: str = "") -> ConfigError:
        return ConfigError(f"{self.where}: {message}", hint=hint)

    def take(
        self,
        key: str,
        kind: type[Value],
        default: Value | None = None,
        *,
        check: Callable[[Any], str] | None = None,
    ) -> Value:
        if key not in self._rest:
            if default is None:
                raise self.fail(f"{key} is missing")
            return default
        value = self._rest.pop(key)
        if type(value) is not kind:
            raise self.fail(f"{key} must be {_KINDS[kind]}, not {value!r}")
        problem = check(value) if check is not None else ""
        if problem:
            raise self.fail(f"{key} = {value!r}: {problem}")
        return value

    def take_file(self, key: str) -> Path | None:
        if key not in self._rest:
            return None
        path = self.folder / self.take(key, str, check=_is_path)
        if not path.is_file():
            raise self.fail(f"{key}: there is no file {path}")
        return path.resolve()

    def take_tables(self, key: str, most: int) -> list[_Table]:
        values = self._rest.pop(key, [])
        if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
            raise self.fail(f"{key} must be written as [[{key}]] tables")
        if len(values) > most:
            raise self.fail(f"{len(values)} [[{key}]] tables, at most {most} are possible")
        return [
            _Table(value, f"{self.where}: {key} {index}", self.folder) for index, value in enumerate(values)
        ]

    def take_table(self, key: str) -> _Table | None:
        if key not in self._rest:
            return None
        value = self._rest.pop(key)
        if not isinstance(value, dict):
            raise self.fail(f"{key} must be written as table [{key}]")
        return _Table(value, f"{self.where}: {key}", self.folder)

    def refuse_rest(self) -> None:
        if self._rest:
            names = ", ".join(sorted(self._rest))
            raise self.fail(f"unknown key {names}", hint="docs/guests.md names all keys")


_KINDS: dict[type, str] = {str: "a string", int: "a whole number", bool: "true or false"}


def _take_uuid(table: _Table, name: str) -> str:
    text = table.take("uuid", str, str(uuids.uuid5(_NAMESPACE, name)))
    try:
        return str(uuids.UUID(text))
    except ValueError:
        raise table.fail(f"uuid = {text!r} is not a UUID") from None


def _take_nics(table: _Table, uuid: str) -> tuple[NicConfig, ...]:
    nics: list[NicConfig] = []
    for index, nic in enumerate(table.take_tables("nic", NICS_MAX)):
        mac = nic.take("mac", str, _derive_mac(uuid, index)).lower()
        if not _MAC.fullmatch(mac) or int(mac[:2], 16) & 1:
            raise nic.fail(f"mac = {mac!r} is not a unicast MAC address")
        if mac in (other.mac for other in nics):
            raise nic.fail(f"mac = {mac!r} is used twice")
        nic.refuse_rest()
        nics.append(NicConfig(mac))
    return tuple(nics)


def _derive_mac(uuid: str, index: int) -> str:
    """The same on both hosts, and another one for each guest and NIC; in QEMU's range."""
    tail = uuids.uuid5(uuids.UUID(uuid), f"nic{index}").bytes[:3]
    return ":".join(("52:54:00", *(f"{byte:02x}" for byte in tail)))


def _take_disks(table: _Table) -> tuple[DiskConfig, ...]:
    disks = []
    for disk in table.take_tables("disk", DISKS_MAX):
        path = disk.take_file("path")
        if path is None:
            raise disk.fail("path is missing")
        if not disk.take("readonly", bool, False):
            raise disk.fail(
                f"{path} is writable: what the guest writes to a disk is not replicated yet, so after a failover"
                " memory and disk would not fit together",
                hint="set readonly = true, or keep the data in the guest's memory",
            )
        disk.refuse_rest()
        disks.append(DiskConfig(path))
    return tuple(disks)


def _take_agent(table: _Table) -> AgentConfig | None:
    agent = table.take_table("agent")
    if agent is None:
        return None
    channel = agent.take(
        "channel",
        str,
        AGENT_CHANNEL,
        check=_matches(_CHANNEL, "letters, digits, '.', '_' and '-', at most 63"),
    )
    agent.refuse_rest()
    return AgentConfig(channel)


def _check_boot(config: QemuGuestConfig, table: _Table) -> None:
    if config.kernel is None and not config.disks:
        raise table.fail("neither kernel nor disk: there is nothing to boot")
    if config.kernel is None and (config.initrd is not None or config.cmdline):
        raise table.fail("initrd and cmdline need a kernel")


def _matches(pattern: re.Pattern[str], wanted: str) -> Callable[[str], str]:
    return lambda value: "" if pattern.fullmatch(value) else f"must be {wanted}"


def _between(least: int, most: int) -> Callable[[int], str]:
    return lambda value: "" if least <= value <= most else f"must be from {least} to {most}"


def _one_of(values: tuple[str, ...]) -> Callable[[str], str]:
    return lambda value: "" if value in values else f"must be one of {', '.join(values)}"


def _is_cmdline(value: str) -> str:
    if "\0" in value or "\n" in value:
        return "must be one line"
    return "" if len(value.encode()) <= CMDLINE_BYTES_MAX else f"longer than {CMDLINE_BYTES_MAX} bytes"


def _is_path(value: str) -> str:
    return "" if value and "\0" not in value else "must be a path"
