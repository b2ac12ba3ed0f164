"""One daemon, whose role is state: it follows as a secondary or runs the guest as a primary, and may change.

It owns what outlives a role: the link, the heartbeats, the control socket, the state folder. A role ends by itself;
its result says whether this side goes on as primary (it was promoted) or ends. This file is about life only: what
the parts are made from says wiring.py, how the guest starts to run on a replica promotion.py, who gets what the link
brings doorkeeper.py, what an operator may order operator.py, what is shown views.py. Nothing here decides about epochs
or leases.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median_high

from replicator.arbiter.base import Lease
from replicator.arbiter.keeper import Keeper, LeaseCallbacks, LeaseDeadline
from replicator.engine import events as ev
from replicator.engine.compare.effects import Reason
from replicator.engine.guest_clock import ClockPolicy
from replicator.engine.output import Frame
from replicator.engine.primary import PrimaryMachine
from replicator.errors import ReplicatorError
from replicator.guests.base import Guest, GuestIdentity, NicEndpoint
from replicator.link.heartbeat import HeartbeatCallbacks
from replicator.memory.pages import GuestLayout
from replicator.observe.journal import Journal
from replicator.observe.status import Status
from replicator.output.base import OutputPort, RelayCallbacks
from replicator.output.colo_base import ColoCallbacks, SecondaryPort
from replicator.service import wiring
from replicator.service.attached import attach_instead
from replicator.service.chronicle import Chronicle
from replicator.service.clock_keeper import check_agent
from replicator.service.commit_log import WATCHED, CommitLog
from replicator.service.config import DaemonConfig
from replicator.service.config_rules import naming
from replicator.service.doorkeeper import Doorkeeper
from replicator.service.drill_desk import DrillDesk
from replicator.service.early_news import EarlyNews
from replicator.service.guest_kit import GuestKit
from replicator.service.inherited_clock import InheritedClock
from replicator.service.operator import OperatorDesk
from replicator.service.platform import HostPlatform, Platform
from replicator.service.primary_parts import PrimaryParts
from replicator.service.primary_role import PrimaryRole
from replicator.service.promotion import Promotion
from replicator.service.recorder import Recorder
from replicator.service.refusals import Refusals
from replicator.service.secondary_role import SecondaryParts, SecondaryRole
from replicator.service.standby import StandbyKeeper
from replicator.service.views import Role, make_beat, show_role, word_of
from replicator.service.vm_desk import VmParts
from replicator.store import ReplicaStore
from replicator.units import NS_PER_MS
from replicator.wire.session import Heartbeat

_LOG = logging.getLogger(__name__)

#: Switchovers of which the next one's promise is made.
TAKE_OVERS_KEPT = 5
#: Of the VM beside the primary's, below the daemon's own folder.
VM_DIR = "vm"
_SECONDARY_EVENTS = (ev.PeerSilent, ev.PeerSpoke)


@dataclass(frozen=True, slots=True)
class Options:
    """What is ordered for one life of a daemon, and not configured for all."""

    #: Where the session is written as a libxl v2 stream.
    record: Path | None = None
    #: Where what happens is appended as JSON lines.
    events: Path | None = None
    discard_replica: bool = False
    #: QMP socket of a QEMU that runs already, and a second one for the checkpoints.
    attach: Path | None = None
    attach_fast: Path | None = None
    #: In the place of [clock] policy.
    clock: ClockPolicy | None = None


class Daemon:
    """`run_primary` or `run_secondary` once; both return when this side's part is over."""

    def __init__(
        self,
        config: DaemonConfig,
        options: Options | None = None,
        platform: Platform | None = None,
    ) -> None:
        self._config = config
        self._platform = platform = platform or HostPlatform()
        self._clock = platform.clock
        self._options = options or Options()
        self._kit: GuestKit = platform.make_kit(config)
        if self._options.attach is not None:
            self._kit = attach_instead(self._kit, self._options.attach, self._options.attach_fast)
        self._role: Role | None = None
        #: For the primary of the newest lease, which may not be there yet.
        self._news: EarlyNews | None = None
        self._clock_settings = config.clock.settings
        self.order_clock(self._options.clock or self._clock_settings.policy)
        link_config = wiring.make_link_config(config)
        self._peer = wiring.make_peer_address(config)
        self._arbiter = platform.make_arbiter(config, self._kit.name)
        self._folder = platform.make_folder(config.state_dir)
        self._recorder = (
            Recorder(self._options.record, is_colo=config.is_colo)
            if self._options.record is not None
            else None
        )
        self._journal = Journal(self._options.events, self._clock)
        self._refusals = Refusals(self._clock.monotonic_ns)
        self._link = platform.make_link(link_config)
        self._deadline = LeaseDeadline()
        self._chronicle = Chronicle(self._journal, self._deadline, self._clock)
        self._network = platform.make_network(config, self._deadline)
        self._colo = platform.make_colo(config, self._kit, link_config, self._peer)
        self._commits = CommitLog(self._clock)
        self._inherited_clock = InheritedClock(self._clock)
        self.desk = OperatorDesk(
            self._arbiter,
            has_arbiter=config.has_arbiter,
            find_role=lambda: self._role,
            show=self.status,
            order_clock=self.order_clock,
            drills=DrillDesk(config.state_dir, self._commits, self._clock, lambda: self._role),
        )
        self._control = platform.make_control(config.state_dir, self.desk.answer)
        self._standby: StandbyKeeper | None = None
        self._role_came = asyncio.Event()
        #: What the newest switchovers away from here took after their last ack.
        self._take_overs_ns: deque[int] = deque(maxlen=TAKE_OVERS_KEPT)
        self._tick_ns = self._clock.monotonic_ns()
        self._heartbeat = platform.make_heartbeats(
            link_config,
            interval_ms=config.heartbeat.interval_ms,
            misses=config.heartbeat.misses,
            callbacks=HeartbeatCallbacks(
                local=lambda: make_beat(self._role, config.node.name, self._tick_age_ns()),
                on_silent=lambda _, __: self._post(ev.PeerSilent()),
                on_alive=self._hear_beat,
                on_refused=self._refusals.note,
                counts=self._is_expected,
            ),
        )
        self._doorkeeper = Doorkeeper(
            self._link,
            config.node.name,
            self._refusals,
            find_role=self._await_role,
            on_hello=self._heartbeat.expect_peer,
        )

    @property
    def role(self) -> Role | None:
        """What it does at present, None while it starts."""
        return self._role

    def status(self) -> Status:
        node, guest = self._config.node.name, self._kit.name
        shown = show_role(self._role, node, guest, standby_trouble=self._standby_trouble())
        return replace(shown, warning=shown.warning or self._refusals.newest())

    def order_clock(self, policy: ClockPolicy) -> None:
        """The policy for the guest's clocks, now and after a take-over. ConfigError when this guest cannot have it."""
        with naming(self._config.path, "[clock] policy"):
            check_agent(policy, has_agent=self._kit.has_agent)
        self._clock_settings = replace(self._clock_settings, policy=policy)
        if isinstance(self._role, PrimaryRole):
            self._role.guest_clock.set_policy(policy)

    def _standby_trouble(self) -> str:
        return self._standby.trouble if self._standby is not None else ""

    # Life.

    async def run_primary(self) -> str:
        """Start the guest, or take hold of the one that runs, and protect it. Returns why it ended."""
        async with self._running():
            lease = await asyncio.to_thread(
                self._arbiter.acquire,
                self._config.node.name,
                discard_replica=self._options.discard_replica,
            )
            keeper = self._keep(lease)
            self._chronicle.tell_primary(lease, promoted=False)
            guest = await self._kit.start(self._folder.primary_ram, self._folder.run_dir)
            try:
                check_agent(self._clock_settings.policy, has_agent=guest.agent is not None)
                await self._give_up_replica()
                relay = self._open_network(guest, ())
            except ReplicatorError:
                await self._kit.give_back(guest)
                raise
            return await self._lead(self._make_primary(guest, relay, keeper))

    async def _give_up_replica(self) -> None:
        """A guest that starts anew ends what this host kept of an older one, where arbiter or operator have agreed to it:
        nobody could say any more what it is worth. An attached guest may run on that very file."""
        agreed = self._config.has_arbiter or self._options.discard_replica
        if agreed and self._options.attach is None:
            await asyncio.to_thread(self._folder.remove_replica)

    async def run_secondary(self) -> str:
        """Wait as a standby; go on as primary when this side has taken over. Returns why it ended."""
        async with self._running():
            return await self._follow(await self._kit.identify(self._folder.run_dir))

    async def _lead(self, role: PrimaryRole) -> str:
        """Run the guest; once it has been handed over follow it, until a role ends for good."""
        reason = await self._serve_primary(role)
        while role.has_moved:
            self._clear_away(role)
            following = await self._wait_as_standby(role.parts.guest.identity)
            if isinstance(following, str):
                return following
            role = following
            reason = await self._serve_primary(role)
        return reason

    async def _follow(self, identity: GuestIdentity) -> str:
        role = await self._wait_as_standby(identity)
        return role if isinstance(role, str) else await self._lead(role)

    async def _wait_as_standby(self, identity: GuestIdentity) -> PrimaryRole | str:
        """The primary that came of it, or why none did."""
        store = self._open_store(identity.ram_bytes, GuestLayout(identity.layout))
        self._distrust_older(store)
        standby = StandbyKeeper(lambda: self._kit.make_standby(self._folder.run_dir), store.ram_path)
        await standby.start()
        self._standby = standby
        promotion = self._prepare_promotion(standby, identity)
        role = self._make_secondary(identity, store, promotion)
        held = role.machine
        self._chronicle.tell_secondary(held.term, held.session, held.committed, held.digest)
        self._take_role(role)
        self._expect_primary(role)
        await self.desk.obey_early_stop()
        try:
            reason = await role.ended
        finally:
            await standby.kill()
            if role.desk is not None:
                await role.desk.close()
        if reason or promotion.primary is None:
            self._chronicle.tell_ended(reason)
            return reason
        store.leave_ram_to_guest()
        return promotion.primary

    def _prepare_promotion(self, standby: StandbyKeeper, identity: GuestIdentity) -> Promotion:
        return Promotion(
            standby,
            identity.macs,
            self._chronicle,
            has_lease=self._has_lease,
            committed=lambda: committed_epoch(self._role),
            keep_lease=self._keep,
            open_network=self._open_network,
            give_voice=self._network.give_voice,
            make_primary=self._make_primary,
        )

    def _make_secondary(
        self, identity: GuestIdentity, store: ReplicaStore, promotion: Promotion
    ) -> SecondaryRole:
        parts = SecondaryParts(
            self._config.node.name,
            identity,
            store,
            self._link,
            self._arbiter,
            promotion.activate,
            self._platform.draw_share,
            vm=self._make_vm_parts(identity, store),
            activate_vm=promotion.activate_vm,
            clock=self._clock,
            watch=self._watch_secondary,
        )
        return SecondaryRole(parts, has_arbiter=self._config.has_arbiter)

    def _make_vm_parts(self, identity: GuestIdentity, store: ReplicaStore) -> VmParts | None:
        if self._colo is None:
            return None
        layout, run_dir = GuestLayout(identity.layout), self._folder.run_dir / VM_DIR
        return self._colo.secondary_parts(store, layout, run_dir, self._stand_by)

    def _clear_away(self, role: PrimaryRole) -> None:
        """What a primary leaves whose guest has moved."""
        self._heartbeat.disconnect()
        self._network.close()
        self._folder.remove_primary_ram()
        if (report := role.machine.move.report) is not None:
            self._take_overs_ns.append(report.take_over_ns)

    def _open_store(self, ram_bytes: int, layout: GuestLayout) -> ReplicaStore:
        staging_bytes = self._config.epoch.staging_bytes
        store = self._platform.make_store(self._folder.replica_dir, ram_bytes, layout, staging_bytes)
        recovery = store.recover()
        _LOG.info("replica: %s %s", recovery.outcome.value, recovery.reason)
        return store

    def _distrust_older(self, store: ReplicaStore) -> None:
        """The guest that has moved from here is newer than any replica that lay here all the time."""
        if isinstance(self._role, PrimaryRole) and store.promotable.ready:
            store.discard("the guest has run here since")

    def _expect_primary(self, role: SecondaryRole) -> None:
        """A replica that survived our restart asks for the guest even if its primary was never heard again."""
        beat = self._config.heartbeat

        def check() -> None:
            if not role.machine.primary_alive:
                role.post_threadsafe(ev.PeerSilent())

        asyncio.get_running_loop().call_later(beat.interval_ms * (beat.misses + 2) / 1000, check)

    async def _serve_primary(self, role: PrimaryRole) -> str:
        self._take_role(role)
        if self._news is not None:
            self._news.tell(role)
        self._heartbeat.connect(self._peer)
        await role.start()
        await self.desk.obey_early_stop()
        reason = await role.ended
        self._chronicle.tell_ended(reason)
        return reason

    def _watch_secondary(self, happened: object) -> None:
        if type(happened) in WATCHED:
            self._commits.watch(happened)
            self._inherited_clock.watch(happened)
        self._chronicle.watch(happened)

    def _hear_beat(self, beat: Heartbeat) -> None:
        """In the heartbeats' thread."""
        role = self._role
        if isinstance(role, PrimaryRole) and role.is_handing_over and beat.role == "primary":
            if beat.term > role.parts.keeper.lease.term:
                self._post(ev.PeerLeads(beat.term))
        elif beat.role == "primary":
            self._commits.note_beat(beat.held_ns, beat.pause_ns)
            self._inherited_clock.note_beat(beat.behind_ns)
        self._post(ev.PeerSpoke())

    def _take_role(self, role: Role) -> None:
        self._role = role
        self._role_came.set()

    def _open_network(self, guest: Guest, replay: Sequence[Frame]) -> OutputPort:
        callbacks = self._make_callbacks(self._post if self._news is None else self._news.report)
        return self._network.open(guest, replay, callbacks, self._make_colo_callbacks())

    def _make_callbacks(self, report: Callable[[ev.GuestEnded], None]) -> RelayCallbacks:
        return RelayCallbacks(
            on_input=self._mirror_input,
            on_hold_full=lambda: self._post(ev.EpochDue()),
            on_output_waiting=lambda: self._post(ev.OutputWaits()),
            # A host that has lost the guest's network hands the guest over, if it may.
            on_failed=lambda error: report(ev.GuestEnded(f"its network failed: {error}", died=True)),
        )

    def _make_colo_callbacks(self) -> ColoCallbacks:
        return ColoCallbacks(
            on_channel_broken=lambda reason: self._post(ev.ChannelLost(reason)),
            on_ask_checkpoint=lambda asked: self._post(
                ev.CheckpointAsked(asked.epoch, asked.reason is Reason.DIFFERS)
            ),
        )

    def _stand_by(self, nics: Sequence[NicEndpoint]) -> SecondaryPort:
        return self._network.stand_by(nics, self._make_callbacks(self._post), self._make_colo_callbacks())

    def _mirror_input(self, first_seq: int, frames: Sequence[Frame]) -> None:
        if isinstance(self._role, PrimaryRole):
            self._role.on_input(first_seq, frames)

    def _make_primary(self, guest: Guest, relay: OutputPort, keeper: Keeper) -> PrimaryRole:
        promoted = isinstance(self._role, SecondaryRole)
        settings = self._platform.make_primary_settings(self._config, promoted=promoted)
        if self._take_overs_ns:
            settings = replace(settings, take_over_ns=median_high(self._take_overs_ns))
        parts = PrimaryParts(
            self._config.node.name,
            guest,
            relay,
            self._link,
            self._peer,
            self._arbiter,
            keeper,
            self._deadline,
            self._platform.make_writer(self._link, guest.ram.layout, self._config.epoch, self._recorder),
            self._platform.draw_share,
            self._keep,
            colo=self._colo.primary_parts(relay) if self._colo is not None else None,
            back_channel=self._recorder.back_channel if self._recorder is not None else None,
            may_discard=self._options.discard_replica,
            clock=self._clock,
            clock_settings=self._clock_settings,
            clock_behind_ns=self._inherited_clock.behind_ns() if promoted else 0,
            was_set_back=promoted,
            watch=self._chronicle.watch,
        )
        return PrimaryRole(PrimaryMachine(settings), parts)

    def _keep(self, lease: Lease) -> Keeper:
        news = self._news = EarlyNews()
        if isinstance(self._role, PrimaryRole):
            news.tell(self._role)
        callbacks = LeaseCallbacks(
            progress=self._makes_progress,
            on_lapsed=lambda error: news.report(ev.LeaseLapsed(str(error))),
            on_regained=lambda _: news.report(ev.LeaseRegained()),
            on_lost=lambda error: news.report(ev.LeaseTaken(str(error))),
        )
        keeper = self._platform.make_keeper(self._arbiter, lease, self._deadline, callbacks)
        keeper.start()
        return keeper

    def _has_lease(self) -> bool:
        return self._clock.boottime_ns() < self._deadline.deadline_ns

    def _makes_progress(self) -> bool:
        return self._tick_age_ns() < self._arbiter.ttl_ms * NS_PER_MS

    def _tick_age_ns(self) -> int:
        return self._clock.monotonic_ns() - self._tick_ns

    def _is_expected(self, beat: Heartbeat) -> bool:
        """A secondary waits for a primary: one that ended and came back as a secondary is gone all the same."""
        return beat.role == "primary" or not isinstance(self._role, SecondaryRole)

    # What runs beside the role.

    @contextlib.asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        tasks: list[asyncio.Task[None]] = []
        try:
            self._network.check(self._kit.nic_count)
            self._folder.claim(spare_guest=self._options.attach is not None)
            # Not before the folder is ours: the journal may be that of a daemon which lives.
            node, guest = self._config.node.name, self._kit.name
            self._journal.begin(node, guest, has_arbiter=self._config.has_arbiter)
            await self._link.start()
            self._heartbeat.start()
            await self._control.start()
            for work in (self._doorkeeper.read(), self._keep_ticking()):
                tasks.append(asyncio.create_task(work))
                tasks[-1].add_done_callback(self._end_with)
            yield
        finally:
            for task in tasks:
                task.cancel()
            await self._close()

    async def _close(self) -> None:
        self._heartbeat.stop()
        await self._control.stop()
        await self._link.close()
        if isinstance(self._role, PrimaryRole):
            self._role.parts.keeper.stop()
        self._network.close()
        if self._recorder is not None:
            self._recorder.close()
        self._arbiter.close()
        self._journal.close()
        self._folder.release()

    def _end_with(self, task: asyncio.Task[None]) -> None:
        """A loop of ours that ended takes the role with it: half a daemon protects nobody."""
        if task.cancelled() or (error := task.exception()) is None:
            return
        _LOG.critical("the daemon ends: %r", error, exc_info=error)
        if isinstance(self._role, PrimaryRole):
            self._role.post(ev.LeaseTaken.by_bug(error))
        elif isinstance(self._role, SecondaryRole):
            self._role.fail(error)

    async def _keep_ticking(self) -> None:
        """Proof for the lease keeper and the peer that this loop runs."""
        while True:
            self._tick_ns = self._clock.monotonic_ns()
            if self._journal.is_open:
                self._chronicle.tick(word_of(self._role, self._standby_trouble()))
            await asyncio.sleep(self._arbiter.ttl_ms / 8000)

    async def _await_role(self) -> Role:
        """Of this moment. While there is none, or one gives way to the next, nothing more is read from the link."""
        while (role := self._role) is None or (isinstance(role, PrimaryRole) and role.has_moved):
            self._role_came.clear()
            await self._role_came.wait()
        return role

    def _post(self, event: ev.Event) -> None:
        """From any thread."""
        role = self._role
        if role is None or (isinstance(role, SecondaryRole) and not isinstance(event, _SECONDARY_EVENTS)):
            return
        with contextlib.suppress(RuntimeError):
            role.post_threadsafe(event)


def committed_epoch(role: Role | None) -> int:
    """What a secondary would start from, 0 for nothing."""
    return role.machine.committed if isinstance(role, SecondaryRole) else 0
