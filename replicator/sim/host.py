"""A simulated host: its clock, its faults, and the daemon that runs on it at present.

The daemon is the real one (service/daemon.py) on a platform whose parts are simulated.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from replicator.arbiter.base import Arbiter, Lease
from replicator.arbiter.keeper import Keeper, LeaseCallbacks, LeaseDeadline
from replicator.engine.pipeline import PipelineSettings
from replicator.engine.primary import PrimarySettings
from replicator.errors import ReplicatorError
from replicator.link.base import Link, LinkConfig
from replicator.link.heartbeat import HeartbeatCallbacks
from replicator.memory.pages import GuestLayout
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
from replicator.service.control import Handler
from replicator.service.daemon import Daemon, Options
from replicator.service.epoch_writer import EpochWriter, Recorder, part_bytes
from replicator.service.guest_kit import GuestKit
from replicator.service.platform import Heartbeats, Network
from replicator.service.state_folder import StateFolder
from replicator.service.views import Role
from replicator.sim.arbiter import ArbiterRoute, ArbiterServer, SimArbiter, SimKeeper
from replicator.sim.clocks import HostClock
from replicator.sim.disk import DiskFaults, SimStore
from replicator.sim.judge import Judge
from replicator.sim.link import SimHeartbeats, SimLink
from replicator.sim.machine import MachineFaults, SimGuest, SimKit, Workload
from replicator.sim.network import Network as ReplicationNetwork
from replicator.sim.process import Process
from replicator.sim.tap import SimNetwork
from replicator.sim.world import World
from replicator.store import ReplicaStore
from replicator.units import NS_PER_MS, PAGE_SIZE


@dataclass(frozen=True, slots=True)
class Settings:
    """What a pair is configured to; drawn from the seed."""

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


class NoControl:
    """Implements service.platform.Control: the operator of a simulation speaks to the desk directly."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


class SimFolder(StateFolder):
    """A folder that needs no lock: one process at a time lives on a host."""

    def claim(self, *, spare_guest: bool = False) -> None:
        self.run_dir.mkdir(parents=True, exist_ok=True)

    def release(self) -> None: ...


class WatchedDaemon(Daemon):
    """The real daemon; each event and effect of its machines is shown to `watcher` before it is handled."""

    watcher: Callable[[Role, object], None]

    def _take_role(self, role: Role) -> None:
        written, watcher = role.parts.watch, self.watcher

        def watch(happening: object) -> None:
            written(happening)
            watcher(role, happening)

        role.parts.watch = watch
        super()._take_role(role)


class Stage:
    """What the hosts share."""

    def __init__(self, world: World, settings: Settings, scratch: Path) -> None:
        self.world = world
        self.settings = settings
        self.scratch = scratch
        self.network = ReplicationNetwork(world, ("a", "b"))
        self.server = ArbiterServer(world, settings.ttl_ms)
        self.judge = Judge(world, self.server)
        self._lineages = 0

    def next_lineage(self) -> int:
        self._lineages += 1
        return self._lineages


class Host:
    """One of the two."""

    #: The daemon that runs here; tests put others in its place.
    daemon_class: type[WatchedDaemon] = WatchedDaemon
    store_class: type[SimStore] = SimStore
    guest_network_class: type[SimNetwork] = SimNetwork

    def __init__(self, stage: Stage, name: str, peer: str, *, drift_ppm: int) -> None:
        self.stage = stage
        self.name, self.peer = name, peer
        self.clock = HostClock(stage.world, offset_ns=stage.world.between(10**9, 10**12), drift_ppm=drift_ppm)
        self.machine_faults = MachineFaults()
        self.disk_faults = DiskFaults()
        self.route = ArbiterRoute()
        self.pool_extra_ns = 0
        self.process: Process | None = None
        self.daemon: WatchedDaemon | None = None
        #: Told of each event and effect of this host's machines.
        self.watcher: Callable[[Role, object], None] = lambda _, __: None
        self.guest: SimGuest | None = None
        self.kit: SimKit | None = None
        self.network: SimNetwork | None = None
        self.deadline = LeaseDeadline()
        self.store: SimStore | None = None
        #: How the last daemon ended, "" while one lives or when it was killed.
        self.last_end = ""
        self.lives = 0
        self._dies_silently = False
        self._graveyard: list[Process] = []
        self._kits: list[SimKit] = []

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.alive

    @property
    def process_is_stuck(self) -> bool:
        return self.process is not None and (self.process.frozen or self.process.hung)

    def boot(self, role: str, *, discard_replica: bool = False) -> Process:
        """Start a daemon as an operator would."""
        self.lives += 1
        process = Process(self.stage.world, f"{self.name}{self.lives}", self.clock)
        process.pool_extra_ns = lambda: self.pool_extra_ns
        process.on_death = lambda: self._mourn(process)
        self.process, self.last_end = process, ""
        self.daemon = self.guest = self.store = self.network = None
        self._graveyard.append(process)
        self.stage.world.note(self.name, f"boots as {role}")
        process.schedule(0, self._begin, process, role, discard_replica)
        return process

    def _begin(self, process: Process, role: str, discard_replica: bool) -> None:
        self.daemon = self.daemon_class(
            self._config(), Options(discard_replica=discard_replica), SimPlatform(self, process)
        )
        self.daemon.watcher = self.watcher
        life = self.daemon.run_primary if role == "primary" else self.daemon.run_secondary
        process.loop.create_task(self._live(process, life))

    async def _live(self, process: Process, life: Callable[[], Any]) -> None:
        try:
            end = await life()
        except ReplicatorError as error:
            end = f"{type(error).__name__}: {error}"
        self.last_end = end or "ended"
        self.stage.world.note(self.name, f"ends: {end}")
        process.loop.finish_jobs()
        process.die()

    def _mourn(self, process: Process) -> None:
        """Its guest dies with it, its descriptors are closed, its files stay."""
        self.stage.world.note(self.name, "is dead")
        self.stage.judge.note_errors(process)
        if self.guest is not None:
            self.guest.machine.end()
        if self.store is not None:
            self.store.forsake()
        self.stage.network.drop_host(self.name, silently=self._dies_silently)

    def kill(self, *, silently: bool) -> None:
        """SIGKILL, or with `silently` the loss of the whole host."""
        if self.process is not None:
            self._dies_silently = silently
            self.process.die()
            self._dies_silently = False

    def _config(self) -> DaemonConfig:
        settings = self.stage.settings
        return DaemonConfig(
            NodeSection(self.name, str(self.stage.scratch / self.name)),
            GuestSection("guest.toml"),
            EndpointSection(self.name),
            EndpointSection(self.peer),
            KeysSection(allow_plaintext=True),
            ArbiterSection("sim:", settings.ttl_ms, settings.margin_ms),
            HeartbeatSection(settings.heartbeat_ms, settings.misses),
            EpochSection(settings.interval_ms, settings.in_flight, ack_patience_ms=settings.ack_patience_ms),
        )

    def adopt(self, guest: SimGuest, promoted: bool) -> None:
        self.guest = guest
        self.stage.judge.on_machine(self.name, guest.machine, promoted=promoted)

    def keep_kit(self, kit: SimKit) -> SimKit:
        self.kit = kit
        self._kits.append(kit)
        return kit

    def bury(self) -> None:
        """At the end of the run."""
        if self.process is not None:
            self.process.alive = False
        if self.store is not None:
            self.store.forsake()
        for process in self._graveyard:
            process.loop.bury()
        for kit in self._kits:
            with contextlib.suppress(BufferError):
                kit.close()


class SimPlatform:
    """Implements service.platform.Platform for one process."""

    def __init__(self, host: Host, process: Process) -> None:
        self._host = host
        self._stage = host.stage
        self._process = process
        self.clock = host.clock

    def make_kit(self, config: DaemonConfig) -> GuestKit:
        host = self._host
        return host.keep_kit(
            SimKit(
                self._process,
                self._stage.settings.workload,
                host.machine_faults,
                next_lineage=self._stage.next_lineage,
                on_machine=host.adopt,
            )
        )

    def make_arbiter(self, config: DaemonConfig, guest: str) -> Arbiter:
        section = config.arbiter
        return SimArbiter(
            self._process,
            self._stage.server,
            self._host.route,
            guest,
            ttl_ms=section.ttl_ms,
            margin_ms=section.margin_ms,
        )

    def make_link(self, config: LinkConfig) -> Link:
        return SimLink(self._process, self._stage.network, config)

    def make_heartbeats(
        self, config: LinkConfig, *, interval_ms: int, misses: int, callbacks: HeartbeatCallbacks
    ) -> Heartbeats:
        return SimHeartbeats(
            self._process,
            self._stage.network,
            config,
            interval_ms=interval_ms,
            misses=misses,
            callbacks=callbacks,
        )

    def make_keeper(
        self, arbiter: Arbiter, lease: Lease, deadline: LeaseDeadline, callbacks: LeaseCallbacks
    ) -> Keeper:
        return SimKeeper(self._process, arbiter, lease, deadline, callbacks)

    def make_network(self, config: DaemonConfig, deadline: LeaseDeadline) -> Network:
        host, judge = self._host, self._stage.judge
        host.deadline = deadline
        judge.on_process(host.name, self._process, deadline)
        host.network = host.guest_network_class(
            self._process,
            deadline,
            hold_bytes_max=self._stage.settings.hold_bytes_max,
            on_barrier=lambda epoch: judge.on_barrier(host.name, epoch),
            on_left=lambda data: judge.on_left(host.name, data),
        )
        return host.network

    def make_control(self, state_dir: Path, handler: Handler) -> NoControl:
        return NoControl()

    def make_folder(self, path: Path) -> StateFolder:
        return SimFolder(path)

    def make_store(
        self, directory: Path, ram_bytes: int, layout: GuestLayout, staging_bytes: int
    ) -> ReplicaStore:
        host = self._host
        host.store = host.store_class(
            self._process,
            host.disk_faults,
            directory,
            ram_bytes,
            layout,
            self._stage.settings.staging_pages * PAGE_SIZE,
            lambda store, what: self._stage.judge.on_store(host.name, store, what),
        )
        return host.store

    def make_writer(self, link: Link, staging_bytes: int, recorder: Recorder | None) -> EpochWriter:
        settings = self._stage.settings
        room = max(settings.staging_pages * PAGE_SIZE, part_bytes(settings.batch_pages))
        return EpochWriter(link, room, recorder, batch_pages=settings.batch_pages)

    def make_primary_settings(self, config: DaemonConfig, *, promoted: bool) -> PrimarySettings:
        settings = self._stage.settings
        pipeline = PipelineSettings(
            settings.interval_ms * NS_PER_MS,
            settings.staging_pages,
            settings.in_flight,
            live_rounds_min=2,
            live_rounds_max=4,
            live_pages_small=6,
        )
        return PrimarySettings(
            pipeline,
            self._stage.world.between(1, 1 << 62).to_bytes(8, "little"),
            settings.ack_patience_ms * NS_PER_MS,
            has_arbiter=True,
            promoted=promoted,
        )
