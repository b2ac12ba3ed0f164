"""What a daemon is made of, where it touches the machine: sockets, threads, devices, files and clocks.

`HostPlatform` makes the real parts. A simulation brings a platform of its own and runs the same daemon on it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from replicator.arbiter.base import Arbiter, Lease
from replicator.arbiter.keeper import Keeper, LeaseCallbacks, LeaseDeadline, LeaseKeeper
from replicator.clock import SYSTEM_CLOCK, Clock
from replicator.engine.output import Frame
from replicator.engine.primary import PrimarySettings
from replicator.guests.base import Guest, NicEndpoint
from replicator.link.base import Link, LinkConfig, PeerAddress
from replicator.link.heartbeat import HeartbeatCallbacks, HeartbeatThread
from replicator.link.zeromq import ZmqLink
from replicator.memory.pages import GuestLayout
from replicator.output.base import OutputPort, RelayCallbacks
from replicator.output.colo_base import ColoCallbacks, SecondaryPort
from replicator.output.native_relay import NativeRelay
from replicator.service import wiring
from replicator.service.colo_wiring import Colo, HostColo
from replicator.service.config import DaemonConfig, EpochSection
from replicator.service.control import ControlServer, Handler
from replicator.service.epoch_writer import EpochWriter
from replicator.service.guest_kit import ColoKit, GuestKit
from replicator.service.guest_network import GuestNetwork
from replicator.service.recorder import Recorder
from replicator.service.state_folder import StateFolder
from replicator.store import ReplicaStore
from replicator.wire.session import SHARE_BYTES


class Heartbeats(Protocol):
    """Beats to the peer and news of its silence."""

    def start(self) -> None: ...

    def connect(self, peer: PeerAddress) -> None: ...

    def disconnect(self) -> None:
        """Beat to nobody who does not beat here, and expect nobody."""
        ...

    def expect_peer(self) -> None:
        """The peer gave another sign of life: from now on its silence counts."""
        ...

    def stop(self) -> None: ...


class Network(Protocol):
    """The guest's way to the network on this host."""

    def check(self, nics: int) -> None:
        """ConfigError or GuestError unless it can be opened for a guest with so many NICs."""
        ...

    def open(
        self, guest: Guest, replay: Sequence[Frame], callbacks: RelayCallbacks, colo: ColoCallbacks
    ) -> OutputPort:
        """An output port that runs. `replay` goes to the guest before any other input."""
        ...

    def stand_by(
        self, nics: Sequence[NicEndpoint], callbacks: RelayCallbacks, colo: ColoCallbacks
    ) -> SecondaryPort:
        """The relay of a secondary's VM, which runs and cannot speak."""
        ...

    def give_voice(self, relay: SecondaryPort) -> None:
        """From now on that VM is the guest, and speaks under the deadline."""
        ...

    def close(self) -> None: ...


class Control(Protocol):
    """Where the operator's requests come in."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


class Platform(Protocol):
    """Makes each part once for one daemon; nothing is started or opened yet."""

    @property
    def clock(self) -> Clock: ...

    def make_kit(self, config: DaemonConfig) -> GuestKit: ...

    def make_arbiter(self, config: DaemonConfig, guest: str) -> Arbiter: ...

    def make_link(self, config: LinkConfig) -> Link: ...

    def make_heartbeats(
        self, config: LinkConfig, *, interval_ms: int, misses: int, callbacks: HeartbeatCallbacks
    ) -> Heartbeats: ...

    def make_keeper(
        self, arbiter: Arbiter, lease: Lease, deadline: LeaseDeadline, callbacks: LeaseCallbacks
    ) -> Keeper: ...

    def make_network(self, config: DaemonConfig, deadline: LeaseDeadline) -> Network: ...

    def make_colo(
        self, config: DaemonConfig, kit: GuestKit, link: LinkConfig, peer: PeerAddress
    ) -> Colo | None:
        """None where no VM can run beside a primary's."""
        ...

    def make_control(self, state_dir: Path, handler: Handler) -> Control: ...

    def make_folder(self, path: Path) -> StateFolder: ...

    def make_store(
        self, directory: Path, ram_bytes: int, layout: GuestLayout, staging_bytes: int
    ) -> ReplicaStore: ...

    def make_writer(
        self, link: Link, layout: GuestLayout, epoch: EpochSection, recorder: Recorder | None
    ) -> EpochWriter: ...

    def draw_share(self) -> bytes:
        """Secret and random: SHARE_BYTES for one greeting or the answer to one."""
        ...

    def make_primary_settings(self, config: DaemonConfig, *, promoted: bool) -> PrimarySettings:
        """With a seed that no other start of a primary of this guest has."""
        ...


class HostPlatform:
    """The host that this process runs on."""

    def __init__(self, *, make_relay: Callable[..., OutputPort] = NativeRelay) -> None:
        self.clock = SYSTEM_CLOCK
        self._make_relay = make_relay

    def make_kit(self, config: DaemonConfig) -> GuestKit:
        return wiring.make_kit(config)

    def make_arbiter(self, config: DaemonConfig, guest: str) -> Arbiter:
        return wiring.make_arbiter(config, guest)

    def make_link(self, config: LinkConfig) -> Link:
        return ZmqLink(config)

    def make_heartbeats(
        self, config: LinkConfig, *, interval_ms: int, misses: int, callbacks: HeartbeatCallbacks
    ) -> Heartbeats:
        return HeartbeatThread(config, interval_ms=interval_ms, misses=misses, callbacks=callbacks)

    def make_keeper(
        self, arbiter: Arbiter, lease: Lease, deadline: LeaseDeadline, callbacks: LeaseCallbacks
    ) -> Keeper:
        return LeaseKeeper(arbiter, lease, deadline, callbacks)

    def make_network(self, config: DaemonConfig, deadline: LeaseDeadline) -> Network:
        return GuestNetwork(config, deadline, self._make_relay)

    def make_colo(
        self, config: DaemonConfig, kit: GuestKit, link: LinkConfig, peer: PeerAddress
    ) -> Colo | None:
        return HostColo(config, kit, link, peer) if isinstance(kit, ColoKit) else None

    def make_control(self, state_dir: Path, handler: Handler) -> Control:
        return ControlServer(state_dir, handler)

    def make_folder(self, path: Path) -> StateFolder:
        return StateFolder(path)

    def make_store(
        self, directory: Path, ram_bytes: int, layout: GuestLayout, staging_bytes: int
    ) -> ReplicaStore:
        return ReplicaStore(directory, ram_bytes, layout, staging_bytes)

    def make_writer(
        self, link: Link, layout: GuestLayout, epoch: EpochSection, recorder: Recorder | None
    ) -> EpochWriter:
        return EpochWriter(link, epoch.staging_bytes, recorder, bases=wiring.make_bases(layout, epoch))

    def draw_share(self) -> bytes:
        return secrets.token_bytes(SHARE_BYTES)

    def make_primary_settings(self, config: DaemonConfig, *, promoted: bool) -> PrimarySettings:
        return wiring.make_primary_settings(config, promoted=promoted)
