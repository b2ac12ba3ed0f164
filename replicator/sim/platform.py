"""The parts of a simulated daemon: what service/platform.py makes of the real host, made of the simulated one.

One platform is one life of a daemon: it keeps what it made for it, for the host, the faults and the checks to look at.
It does not know when a daemon starts or ends (host.py).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from replicator.arbiter.base import Arbiter, Lease
from replicator.arbiter.keeper import Keeper, LeaseCallbacks, LeaseDeadline
from replicator.engine.pipeline import PipelineSettings
from replicator.engine.primary import PrimarySettings
from replicator.link.base import Link, LinkConfig, PeerAddress
from replicator.link.heartbeat import HeartbeatCallbacks
from replicator.memory.bases import BaseCache
from replicator.memory.pages import GuestLayout
from replicator.service.colo_wiring import Colo
from replicator.service.config import DaemonConfig, EpochSection
from replicator.service.control import Handler
from replicator.service.epoch_writer import EpochWriter, part_bytes
from replicator.service.guest_kit import GuestKit
from replicator.service.platform import Heartbeats, Network
from replicator.service.recorder import Recorder
from replicator.service.state_folder import StateFolder
from replicator.sim.arbiter import SimArbiter, SimKeeper
from replicator.sim.colo import SimColo
from replicator.sim.conditions import Conditions
from replicator.sim.disk import SimStore
from replicator.sim.guest import SimGuest
from replicator.sim.heartbeats import SimHeartbeats
from replicator.sim.kit import SimKit, Twins
from replicator.sim.link import SimLink
from replicator.sim.process import Process
from replicator.sim.stage import Stage
from replicator.sim.tap import SimNetwork
from replicator.sim.vm import SimVm
from replicator.store import ReplicaStore
from replicator.units import NS_PER_MS, PAGE_SIZE
from replicator.wire.session import SHARE_BYTES


class NoControl:
    """Implements service.platform.Control: the operator of a simulation speaks to the desk directly."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


class SimFolder(StateFolder):
    """A folder that needs no lock: one process at a time lives on a host."""

    def claim(self, *, spare_guest: bool = False) -> None:
        self.run_dir.mkdir(parents=True, exist_ok=True)

    def release(self) -> None: ...


class SimPlatform:
    """Implements service.platform.Platform for one process on the host `name`."""

    def __init__(self, stage: Stage, name: str, conditions: Conditions, process: Process) -> None:
        self._stage = stage
        self._name = name
        self._conditions = conditions
        self.process = process
        self.clock = conditions.clock
        #: What was made, None before that.
        self.kit: SimKit | None = None
        self.guest: SimGuest | None = None
        #: COLO's VM beside the primary's.
        self.vm: SimVm | None = None
        self.network: SimNetwork | None = None
        self.store: SimStore | None = None

    def make_kit(self, config: DaemonConfig) -> GuestKit:
        self.kit = SimKit(
            self.process,
            self._stage.settings.workload,
            self._conditions.machine,
            next_lineage=self._stage.next_lineage,
            on_machine=self._adopt,
            twins=self._make_twins(config),
        )
        return self.kit

    def _make_twins(self, config: DaemonConfig) -> Twins | None:
        if not config.is_colo:
            return None
        return Twins(self._stage.settings.divergence, self._adopt_vm, self._note_load)

    def _adopt_vm(self, vm: SimVm) -> None:
        self.vm = vm
        self._stage.judge.on_vm(self._name, vm.machine)
        if self.network is not None:
            self.network.plug(vm.machine)

    def _note_load(self, vm: SimVm) -> None:
        self._stage.judge.on_loaded(self._name, vm.machine)

    def _note_voice(self) -> None:
        vm, self.vm = self.vm, None
        if vm is not None:
            self.guest = vm
            self._stage.judge.on_voice(self._name, vm.machine)

    def _adopt(self, guest: SimGuest, promoted: bool) -> None:
        self.guest = guest
        self._stage.judge.on_machine(self._name, guest.machine, promoted=promoted)

    def make_arbiter(self, config: DaemonConfig, guest: str) -> Arbiter:
        section = config.arbiter
        return SimArbiter(
            self.process,
            self._stage.server,
            self._conditions.route,
            guest,
            ttl_ms=section.ttl_ms,
            margin_ms=section.margin_ms,
        )

    def make_link(self, config: LinkConfig) -> Link:
        return SimLink(self.process, self._stage.network, config)

    def make_heartbeats(
        self, config: LinkConfig, *, interval_ms: int, misses: int, callbacks: HeartbeatCallbacks
    ) -> Heartbeats:
        return SimHeartbeats(
            self.process,
            self._stage.network,
            config,
            interval_ms=interval_ms,
            misses=misses,
            callbacks=callbacks,
        )

    def make_keeper(
        self, arbiter: Arbiter, lease: Lease, deadline: LeaseDeadline, callbacks: LeaseCallbacks
    ) -> Keeper:
        return SimKeeper(self.process, arbiter, lease, deadline, callbacks)

    def make_network(self, config: DaemonConfig, deadline: LeaseDeadline) -> Network:
        name, judge = self._name, self._stage.judge
        judge.on_process(name, self.process, deadline)
        self.network = SimNetwork(
            self.process,
            deadline,
            hold_bytes_max=self._stage.settings.hold_bytes_max,
            on_barrier=lambda epoch: judge.on_barrier(name, epoch),
            on_left=lambda data: judge.on_left(name, data),
            is_colo=config.is_colo,
            on_voice=self._note_voice,
        )
        return self.network

    def make_colo(
        self, config: DaemonConfig, kit: GuestKit, link: LinkConfig, peer: PeerAddress
    ) -> Colo | None:
        if not config.is_colo or self.kit is None:
            return None
        return SimColo(self.process, self._stage, config.node.name, peer.host, self.kit)

    def make_control(self, state_dir: Path, handler: Handler) -> NoControl:
        return NoControl()

    def make_folder(self, path: Path) -> StateFolder:
        return SimFolder(path)

    def make_store(
        self, directory: Path, ram_bytes: int, layout: GuestLayout, staging_bytes: int
    ) -> ReplicaStore:
        self.store = SimStore(
            self.process,
            self._conditions.disk,
            directory,
            ram_bytes,
            layout,
            self._stage.settings.staging_pages * PAGE_SIZE,
            lambda store, what: self._stage.judge.on_store(self._name, store, what),
        )
        return self.store

    def make_writer(
        self, link: Link, layout: GuestLayout, epoch: EpochSection, recorder: Recorder | None
    ) -> EpochWriter:
        settings = self._stage.settings
        room = max(settings.staging_pages * PAGE_SIZE, part_bytes(settings.batch_pages))
        bases = BaseCache(settings.bases_pages, layout.pfn_limit) if settings.bases_pages else None
        return EpochWriter(
            link,
            room,
            recorder,
            bases=bases,
            batch_pages=settings.batch_pages,
            bulk_batch_pages=settings.batch_pages,
            clock=self.clock,
        )

    def draw_share(self) -> bytes:
        return self._stage.world.draw_secret(SHARE_BYTES)

    def make_primary_settings(self, config: DaemonConfig, *, promoted: bool) -> PrimarySettings:
        settings = self._stage.settings
        pipeline = PipelineSettings(
            config.epoch.pacing_settings,
            settings.staging_pages,
            settings.in_flight,
            replace(config.sync.policy, min_iterations=2),
            config.epoch.early_pages,
        )
        return PrimarySettings(
            pipeline,
            self._stage.world.between(1, 1 << 62).to_bytes(8, "little"),
            settings.ack_patience_ms * NS_PER_MS,
            has_arbiter=True,
            promoted=promoted,
            colo=config.colo.settings if config.is_colo else None,
        )
