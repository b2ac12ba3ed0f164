"""From a guest file to the adapter that runs it. `kind` in the file chooses; "qemu" if it is not given."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol, runtime_checkable

from replicator.errors import ConfigError
from replicator.guests.base import (
    DirectStarter,
    Guest,
    GuestIdentity,
    NicEndpoint,
    SecondaryVm,
    Standby,
    VmStarter,
)
from replicator.guests.synthetic import SyntheticConfig, SyntheticGuest, SyntheticStandby

_SYNTHETIC_KEYS = {
    "kind",
    "name",
    "uuid",
    "memory_mib",
    "seed",
    "steps_per_ms",
    "beacon_ms",
    "divergence",
    "mac",
    "ip",
    "nic",
    "agent",
}


class GuestKit(Protocol):
    """Everything a daemon needs to know of its guest before there is one."""

    @property
    def name(self) -> str: ...

    @property
    def nic_count(self) -> int: ...

    @property
    def has_agent(self) -> bool:
        """Whether the guest is to have a channel for an agent."""
        ...

    async def identify(self, run_dir: Path) -> GuestIdentity: ...

    async def start(self, ram_path: Path, run_dir: Path) -> Guest:
        """A running guest on a new RAM file."""
        ...

    async def give_back(self, guest: Guest) -> None:
        """Undo `start`, for a guest that could not be protected."""
        ...

    def make_standby(self, run_dir: Path) -> Standby: ...


@runtime_checkable
class ColoKit(GuestKit, Protocol):
    """And what COLO's secondary needs."""

    def nics(self, run_dir: Path) -> tuple[NicEndpoint, ...]:
        """Of a guest that runs in this folder."""
        ...

    def make_vm_starter(self, ram_path: Path, run_dir: Path) -> VmStarter:
        """Of VMs on the replica's RAM, which have the folder for themselves."""
        ...


class SyntheticKit:
    def __init__(self, config: SyntheticConfig, *, has_nic: bool) -> None:
        self._config = config
        self._has_nic = has_nic

    @property
    def name(self) -> str:
        return self._config.name

    @property
    def nic_count(self) -> int:
        return 1 if self._has_nic else 0

    @property
    def has_agent(self) -> bool:
        return self._config.agent

    def _for_side(self, run_dir: Path) -> SyntheticConfig:
        if not self._has_nic:
            return self._config
        return replace(
            self._config, nic_guest_path=run_dir / "nic0.guest", nic_relay_path=run_dir / "nic0.relay"
        )

    async def identify(self, run_dir: Path) -> GuestIdentity:
        return self._for_side(run_dir).identity

    async def start(self, ram_path: Path, run_dir: Path) -> Guest:
        return await SyntheticGuest.start(self._for_side(run_dir), ram_path)

    async def give_back(self, guest: Guest) -> None:
        await guest.kill()

    def make_standby(self, run_dir: Path) -> Standby:
        return SyntheticStandby(self._for_side(run_dir))

    def nics(self, run_dir: Path) -> tuple[NicEndpoint, ...]:
        return self._for_side(run_dir).nics

    def make_vm_starter(self, ram_path: Path, run_dir: Path) -> VmStarter:
        return DirectStarter(partial(self.start_secondary_vm, ram_path, run_dir))

    async def start_secondary_vm(self, ram_path: Path, run_dir: Path, device_state: bytes) -> SecondaryVm:
        """A VM on the replica's RAM, which belongs to the state; it stands still."""
        return await SyntheticGuest.start_secondary(self._for_side(run_dir), ram_path, device_state)


def load_kit(path: Path) -> GuestKit:
    """ConfigError names the file and the key that cannot be used."""
    try:
        document = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(
            f"guest file {path} cannot be read: {error.strerror}", hint="docs/guests.md says what is in it"
        ) from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(
            f"guest file {path} is not TOML: {error}", hint="docs/guests.md says what is in it"
        ) from error
    kind = document.get("kind", "qemu")
    if kind == "synthetic":
        return _load_synthetic(document, path)
    if kind == "qemu":
        from replicator.service.qemu_kit import load_qemu_kit

        return load_qemu_kit(path)
    raise ConfigError(f"{path}: kind = {kind!r} is not a kind of guest", hint="use qemu or synthetic")


def _load_synthetic(document: dict[str, object], path: Path) -> SyntheticKit:
    unknown = sorted(set(document) - _SYNTHETIC_KEYS)
    if unknown:
        raise ConfigError(
            f"{path}: unknown key {unknown[0]}", hint=f"known are {', '.join(sorted(_SYNTHETIC_KEYS))}"
        )
    values = {key: value for key, value in document.items() if key not in ("kind", "memory_mib", "nic")}
    memory_mib = document.get("memory_mib", 16)
    if not isinstance(memory_mib, int) or not 1 <= memory_mib <= 65_536:
        raise ConfigError(f"{path}: memory_mib = {memory_mib!r} is not in 1..65536")
    divergence = document.get("divergence", 0.0)
    if not isinstance(divergence, int | float) or not 0 <= divergence <= 1:
        raise ConfigError(f"{path}: divergence = {divergence!r} is not in 0..1")
    config = SyntheticConfig(ram_bytes=memory_mib << 20, **values)  # type: ignore[arg-type]
    return SyntheticKit(config, has_nic=bool(document.get("nic", True)))
