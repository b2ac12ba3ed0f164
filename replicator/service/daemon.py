"""One daemon, whose role is state: it follows as a secondary or runs the guest as a primary, and may change.

It owns what outlives a role: the link, the heartbeats, the control socket, the state folder. A role ends by itself;
its result says whether this side goes on as primary (it was promoted) or ends. This file wires, it decides nothing
about epochs or leases.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import secrets
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from replicator.arbiter.base import Arbiter, Lease
from replicator.arbiter.keeper import LeaseDeadline, LeaseKeeper
from replicator.arbiter.open import open_arbiter
from replicator.arbiter.solo import SoloArbiter
from replicator.engine import events as ev
from replicator.engine.output import Frame
from replicator.engine.pipeline import PipelineSettings
from replicator.engine.primary import PrimaryMachine, PrimarySettings
from replicator.errors import ConfigError, FenceError, GuestError, ReplicatorError
from replicator.guests.base import Guest
from replicator.link.base import (
    BadMessage,
    LinkConfig,
    LinkRefused,
    LinkUp,
    PeerAddress,
    PeerRefused,
    Received,
)
from replicator.link.heartbeat import HeartbeatThread
from replicator.link.keys import Keys, load_keys, load_public_key
from replicator.link.zeromq import ZmqLink
from replicator.memory.pages import GuestLayout
from replicator.observe.journal import Journal
from replicator.observe.status import Progress, Status, word_for_primary, word_for_secondary
from replicator.output.announce import AddressBook, build_announcement
from replicator.output.base import RelayCallbacks
from replicator.output.relay import Relay, RelayPort
from replicator.output.tap import Tap, open_tap
from replicator.service.config import DaemonConfig
from replicator.service.config_rules import naming
from replicator.service.control import Answer, ControlServer
from replicator.service.epoch_writer import EpochWriter, Recorder
from replicator.service.guest_kit import GuestKit, load_kit
from replicator.service.operator import let_primary_go_alone, promote_secondary
from replicator.service.primary_role import PrimaryParts, PrimaryRole
from replicator.service.refusals import Refusals
from replicator.service.secondary_role import SecondaryParts, SecondaryRole
from replicator.store import ReplicaStore
from replicator.units import NS_PER_MS, PAGE_SIZE
from replicator.wire.session import Heartbeat, Hello

_LOG = logging.getLogger(__name__)

#: As many as a guest's dirty tracker is audited in, and the first one, in which it reports every page.
LIVE_ROUNDS_MIN = 6

Role = PrimaryRole | SecondaryRole


class Daemon:
    """`run_primary` or `run_secondary` once; both return when this side's part is over."""

    def __init__(
        self,
        config: DaemonConfig,
        *,
        record: Path | None = None,
        events: Path | None = None,
        discard_replica: bool = False,
        make_relay: Callable[..., Relay] = Relay,
    ) -> None:
        self._config = config
        with naming(config.path, "[guest] file"):
            self._kit: GuestKit = load_kit(config.guest_file)
        self._keys = self._load_keys()
        self._link_config = LinkConfig(
            config.node.name,
            config.listen.host,
            config.listen.port,
            config.listen.port + 1,
            config.listen.port + 2,
            self._keys,
            config.keys.allow_plaintext,
        )
        self._peer = self._peer_address(config.peer.host, config.peer.port)
        self._refusals = Refusals()
        self._recorder = Recorder(record) if record is not None else None
        self._journal = Journal(events)
        self._make_port = make_relay
        self._discard = discard_replica
        self._link = ZmqLink(self._link_config)
        self._control = ControlServer(config.state_dir, self._answer)
        self._deadline = LeaseDeadline()
        self._arbiter = self._open_arbiter()
        self._role: Role | None = None
        #: Until there is a role, nothing is read from the link.
        self._has_role = asyncio.Event()
        self._next: PrimaryRole | None = None
        self._taps: list[Tap] = []
        self._tick_ns = time.monotonic_ns()
        self._lock_fd = -1
        self._heartbeat = HeartbeatThread(
            self._link_config,
            interval_ms=config.heartbeat.interval_ms,
            misses=config.heartbeat.misses,
            local=self._make_beat,
            on_silent=lambda _, __: self._post(ev.PeerSilent()),
            on_alive=lambda _: self._post(ev.PeerSpoke()),
            on_refused=self._refusals.note,
        )

    # Parts.

    def _load_keys(self) -> Keys | None:
        keys = self._config.keys
        if not keys.secret:
            return None
        with naming(self._config.path, "[keys]"):
            return load_keys(
                self._config.resolve(keys.secret), [self._config.resolve(path) for path in keys.allow]
            )

    def _peer_address(self, host: str, port: int) -> PeerAddress:
        public_key = ""
        if self._keys is not None:
            public_key = load_public_key(self._config.resolve(self._config.keys.allow[0]))
        return PeerAddress(host, port, port + 1, port + 2, public_key)

    def _open_arbiter(self) -> Arbiter:
        section = self._config.arbiter
        if not section.url:
            return SoloArbiter(self._config.state_dir / "term", self._kit.name)
        timeout_ms = max(10, (section.ttl_ms - section.margin_ms) // 3)
        with naming(self._config.path, "[arbiter] url"):
            return open_arbiter(
                section.url,
                self._kit.name,
                ttl_ms=section.ttl_ms,
                margin_ms=section.margin_ms,
                timeout_ms=timeout_ms,
            )

    @property
    def _has_arbiter(self) -> bool:
        return bool(self._config.arbiter.url)

    def _prepare_state_dir(self) -> None:
        """Private, ours alone, and without the sockets of a crashed run."""
        path = self._config.state_dir
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.chmod(0o700)
            self._lock_fd = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"another daemon uses {path}", hint="set another [node] state_dir") from None
        except OSError as error:
            raise ConfigError(f"state folder {path} cannot be used: {error.strerror}") from error
        shutil.rmtree(self._run_dir, ignore_errors=True)
        self._run_dir.mkdir(mode=0o700)

    @property
    def _run_dir(self) -> Path:
        return self._config.state_dir / "run"

    # Life.

    async def run_primary(self) -> str:
        """Start the guest and protect it. Returns why it ended."""
        async with self._running():
            lease = await asyncio.to_thread(
                self._arbiter.acquire, self._config.node.name, discard_replica=self._discard
            )
            keeper = self._keep(lease)
            ram_path = self._config.state_dir / "primary-ram"
            ram_path.unlink(missing_ok=True)
            guest = await self._kit.start(ram_path, self._run_dir)
            relay = self._make_relay(guest, ())
            role = self._make_primary(guest, relay, keeper)
            return await self._serve_primary(role)

    async def run_secondary(self) -> str:
        """Wait as a standby; go on as primary when this side has taken over. Returns why it ended."""
        async with self._running():
            identity = await self._kit.identify(self._run_dir)
            store = self._open_store(identity.ram_bytes, GuestLayout(identity.layout))
            standby = self._kit.make_standby(self._run_dir)
            await standby.start(store.ram_path)
            books = [AddressBook(mac) for mac in identity.macs]

            async def activate(lease: Lease, state: bytes, frames: list[Frame]) -> None:
                self._journal.say("granted", term=lease.term, epoch=committed_epoch(self._role))
                keeper = self._keep(lease)
                guest = await standby.activate(state)
                await self._start_promoted(guest, keeper, frames, books)

            parts = SecondaryParts(
                self._config.node.name, identity, store, self._link, self._arbiter, activate
            )
            role = SecondaryRole(parts, has_arbiter=self._has_arbiter)
            self._take_role(role)
            self._expect_primary(role)
            reason = await role.ended
            if reason or self._next is None:
                await standby.kill()
                return reason
            return await self._serve_primary(self._next)

    def _open_store(self, ram_bytes: int, layout: GuestLayout) -> ReplicaStore:
        directory = self._config.state_dir / "replica"
        store = ReplicaStore(directory, ram_bytes, layout, self._config.epoch.staging_bytes)
        recovery = store.recover()
        _LOG.info("replica: %s %s", recovery.outcome.value, recovery.reason)
        return store

    def _expect_primary(self, role: SecondaryRole) -> None:
        """A replica that survived our restart asks for the guest even if its primary was never heard again."""
        beat = self._config.heartbeat

        def check() -> None:
            if not role.machine.primary_alive:
                role.post_threadsafe(ev.PeerSilent())

        asyncio.get_running_loop().call_later(beat.interval_ms * (beat.misses + 2) / 1000, check)

    async def _start_promoted(
        self, guest: Guest, keeper: LeaseKeeper, frames: list[Frame], books: Sequence[AddressBook]
    ) -> None:
        for frame in frames:
            if frame.nic < len(books):
                books[frame.nic].learn_input(frame.data)
        relay = self._make_relay(guest, frames)
        if not keeper.lease.is_live():
            relay.stop()
            await guest.kill()
            raise GuestError("the lease ended before the guest could run")
        await guest.resume()
        self._journal.say("running", replayed_inputs=len(frames))
        relay.announce(
            [Frame(nic, raw) for nic, book in enumerate(books) for raw in build_announcement(book.known())]
        )
        self._next = self._make_primary(guest, relay, keeper)

    async def _serve_primary(self, role: PrimaryRole) -> str:
        self._take_role(role)
        self._heartbeat.connect(self._peer)
        await role.start()
        return await role.ended

    def _take_role(self, role: Role) -> None:
        self._role = role
        self._has_role.set()

    def _make_relay(self, guest: Guest, replay: Sequence[Frame]) -> Relay:
        self._taps = [open_tap(name) for name in self._config.guest.taps]
        ports = [RelayPort(nic, tap) for nic, tap in zip(guest.nics, self._taps, strict=True)]
        callbacks = RelayCallbacks(
            on_input=lambda seq, frames: self._on_input(seq, frames),
            on_hold_full=lambda: self._post(ev.EpochDue()),
        )
        relay = self._make_port(ports, deadline=self._deadline, callbacks=callbacks)
        if replay:
            relay.replay(replay)
        relay.start()
        return relay

    def _on_input(self, first_seq: int, frames: Sequence[Frame]) -> None:
        if isinstance(self._role, PrimaryRole):
            self._role.on_input(first_seq, frames)

    def _make_primary(self, guest: Guest, relay: Relay, keeper: LeaseKeeper) -> PrimaryRole:
        epoch = self._config.epoch
        pipeline = PipelineSettings(
            epoch.interval_ns,
            epoch.staging_bytes // PAGE_SIZE,
            epoch.in_flight,
            live_rounds_min=LIVE_ROUNDS_MIN,
        )
        settings = PrimarySettings(
            pipeline,
            secrets.token_bytes(8),
            epoch.ack_patience_ms * NS_PER_MS,
            self._has_arbiter,
            promoted=isinstance(self._role, SecondaryRole),
        )
        writer = EpochWriter(self._link, epoch.staging_bytes, self._recorder)
        parts = PrimaryParts(
            self._config.node.name,
            guest,
            relay,
            self._link,
            self._peer,
            self._arbiter,
            keeper,
            self._deadline,
            writer,
            may_discard=self._discard,
        )
        return PrimaryRole(PrimaryMachine(settings), parts)

    def _keep(self, lease: Lease) -> LeaseKeeper:
        keeper = LeaseKeeper(
            self._arbiter,
            lease,
            self._deadline,
            progress=self._makes_progress,
            on_lapsed=lambda error: self._post(ev.LeaseLapsed(str(error))),
            on_regained=lambda _: self._post(ev.LeaseRegained()),
            on_lost=lambda error: self._post(ev.LeaseTaken(str(error))),
        )
        keeper.start()
        return keeper

    def _makes_progress(self) -> bool:
        return time.monotonic_ns() - self._tick_ns < self._arbiter.ttl_ms * NS_PER_MS

    def _post(self, event: ev.Event) -> None:
        role = self._role
        if role is None or (isinstance(role, SecondaryRole) and not isinstance(event, _SECONDARY_EVENTS)):
            return
        with contextlib.suppress(RuntimeError):
            role.post_threadsafe(event)

    def _make_beat(self) -> Heartbeat:
        role, age_ns = self._role, time.monotonic_ns() - self._tick_ns
        if isinstance(role, PrimaryRole):
            held_ns = role.parts.relay.stats().oldest_held_age_ns
            term = role.parts.keeper.lease.term
            return Heartbeat(self._config.node.name, "primary", term, 1, role.machine.acked, age_ns, held_ns)
        if isinstance(role, SecondaryRole):
            machine = role.machine
            return Heartbeat(
                self._config.node.name, "secondary", machine.term, 1, machine.committed, age_ns, 0
            )
        return Heartbeat(self._config.node.name, "starting", 0, 1, 0, age_ns, 0)

    def _check_taps(self) -> None:
        """What the guest's network needs is there: found out now, and not when it has to be taken over."""
        taps, nics = self._config.guest.taps, self._kit.nic_count
        with naming(self._config.path, "[guest] taps"):
            if len(taps) != nics:
                raise ConfigError(
                    f"{len(taps)} devices are named, the guest has {nics} NICs",
                    hint=f"name {nics} TAP devices, in the order of the NICs in {self._config.guest_file}",
                )
            for name in taps:
                open_tap(name).close()

    @contextlib.asynccontextmanager
    async def _running(self) -> Any:
        self._check_taps()
        self._prepare_state_dir()
        tasks: list[asyncio.Task[None]] = []
        try:
            await self._link.start()
            self._heartbeat.start()
            await self._control.start()
            tasks = [asyncio.create_task(self._dispatch()), asyncio.create_task(self._keep_ticking())]
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
        for tap in self._taps:
            tap.close()
        if self._recorder is not None:
            self._recorder.close()
        self._arbiter.close()
        self._journal.close()

    async def _keep_ticking(self) -> None:
        """Proof for the lease keeper and the peer that this loop runs."""
        while True:
            self._tick_ns = time.monotonic_ns()
            await asyncio.sleep(self._arbiter.ttl_ms / 8000)

    async def _dispatch(self) -> None:
        await self._has_role.wait()
        async for event in self._link.received():
            if isinstance(event, LinkRefused | PeerRefused | BadMessage):
                self._refusals.note(event)
            elif isinstance(event, LinkUp) or (
                isinstance(event, Received) and isinstance(event.message, Hello)
            ):
                self._refusals.settle()
            role = self._role
            if isinstance(role, SecondaryRole):
                await role.on_link(event)
            elif isinstance(role, PrimaryRole):
                role.on_link(event)

    # Operator.

    async def _answer(self, request: dict[str, Any]) -> Answer:
        command = request.get("command")
        if command == "status":
            return self.status().to_map()
        if command == "promote":
            return await self._promote(force=bool(request.get("force")))
        if command == "stop":
            return await self._stop(shut_down=request.get("guest") != "run")
        raise ConfigError(f"unknown command {command!r}")

    async def _promote(self, *, force: bool) -> Answer:
        role = self._role
        if isinstance(role, PrimaryRole):
            return {"said": let_primary_go_alone(role, has_arbiter=self._has_arbiter)}
        if isinstance(role, SecondaryRole):
            return {"said": await promote_secondary(role, self._arbiter, force=force)}
        raise FenceError("this side is still starting", hint="`replicator status` says when it is ready")

    async def _stop(self, *, shut_down: bool) -> Answer:
        role = self._role
        if isinstance(role, PrimaryRole):
            role.post(ev.StopOrdered(shut_down))
            return {
                "said": "the secondary stands down, the guest " + ("shuts down" if shut_down else "runs on")
            }
        if isinstance(role, SecondaryRole):
            await role.handle(ev.StoodDown("stopped by the operator"))
            role.end("stopped by the operator")
        return {"said": "stopped"}

    async def stop(self) -> None:
        """As the operator's stop: what SIGTERM does."""
        try:
            await self._stop(shut_down=True)
        except ReplicatorError as error:
            _LOG.warning("stop: %s", error)

    def status(self) -> Status:
        return replace(self._role_status(), warning=self._refusals.newest())

    def _role_status(self) -> Status:
        role, node, guest = self._role, self._config.node.name, self._kit.name
        if isinstance(role, PrimaryRole):
            return self._primary_status(role, node, guest)
        if isinstance(role, SecondaryRole):
            machine = role.machine
            return Status(
                node,
                guest,
                "secondary",
                word_for_secondary(machine),
                machine.term,
                machine.receiving or machine.committed,
                machine.committed,
                machine.trouble,
            )
        return Status(node, guest, "none", "starting")

    def _primary_status(self, role: PrimaryRole, node: str, guest: str) -> Status:
        machine, relay = role.machine, role.parts.relay.stats()
        pages_total = role.parts.guest.identity.ram_bytes // PAGE_SIZE
        progress = Progress(role.samples.pages_synced, pages_total)
        return Status(
            node,
            guest,
            "primary",
            word_for_primary(machine, progress, relay.oldest_held_age_ns),
            role.parts.keeper.lease.term,
            machine.pipeline.epoch,
            machine.acked,
            machine.trouble,
            relay.output.held_frames,
            relay.output.held_bytes,
            relay.output.lost_frames,
            relay.oldest_held_age_ns / NS_PER_MS,
            role.samples.stats(),
        )


def committed_epoch(role: Role | None) -> int:
    """What a secondary would start from, 0 for nothing."""
    return role.machine.committed if isinstance(role, SecondaryRole) else 0


_SECONDARY_EVENTS = (ev.PeerSilent, ev.PeerSpoke)
