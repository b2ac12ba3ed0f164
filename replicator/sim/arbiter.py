"""The arbiter as one server in the world, and a host's way to it, which may be cut, slow, or lose the answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from replicator.arbiter.base import Arbiter, ArbiterRecord, Lease
from replicator.arbiter.keeper import LeaseCallbacks, LeaseDeadline, LeaseRenewal
from replicator.arbiter.rules import LeaseChange, Rule
from replicator.arbiter.stored import Stored, StoredArbiter
from replicator.errors import ArbiterError
from replicator.sim.process import Process
from replicator.sim.world import World
from replicator.units import NS_PER_MS, NS_PER_S


@dataclass(slots=True)
class ArbiterRoute:
    """One host's way to the arbiter."""

    cut: bool = False
    #: Probability that a request is carried out and its answer lost.
    answer_lost: float = 0.0


class ArbiterServer:
    """The record and the lease. `on_grant(process, record)` is called with each change that grants a lease."""

    def __init__(self, world: World, ttl_ms: int) -> None:
        self._world = world
        self._ttl_ns = ttl_ms * NS_PER_MS
        #: The same record with a live lease and without one: it is looked at far more often than changed.
        self._live: ArbiterRecord | None = None
        self._lapsed: ArbiterRecord | None = None
        self.expires_ns = 0
        self.down = False
        self.on_change: Callable[[Process, ArbiterRecord | None, ArbiterRecord], None] = lambda _, __, ___: (
            None
        )

    @property
    def record(self) -> ArbiterRecord | None:
        return self._live if self._world.now_ns < self.expires_ns else self._lapsed

    def transact(self, process: Process, rule: Rule) -> ArbiterRecord:
        before = self.record
        change = rule(before)
        self._live, self._lapsed = (replace(change.record, live=live) for live in (True, False))
        if change.lease is LeaseChange.GRANT:
            self.expires_ns = self._world.now_ns + self._ttl_ns
        elif change.lease is LeaseChange.DROP:
            self.expires_ns = 0
        self.on_change(process, before, change.record)
        return change.record

    def restart(self) -> None:
        """A server that comes back cannot know how long it was away: whoever had a lease has a whole one again."""
        if self._world.now_ns < self.expires_ns:
            self.expires_ns = self._world.now_ns + self._ttl_ns


class SimArbiter(StoredArbiter):
    """A process's arbiter."""

    def __init__(
        self,
        process: Process,
        server: ArbiterServer,
        route: ArbiterRoute,
        guest: str,
        *,
        ttl_ms: int,
        margin_ms: int,
    ) -> None:
        super().__init__(guest, ttl_ms=ttl_ms, margin_ms=margin_ms)
        self._process = process
        self._server = server
        self._route = route

    def read(self) -> ArbiterRecord | None:
        self._reach()
        return self._server.record

    def _transact(self, rule: Rule, *, current: Lease | None = None) -> Stored:
        self._reach()
        try:
            record = self._server.transact(self._process, rule)
        finally:
            if self._process.world.chance(self._route.answer_lost):
                raise ArbiterError("the arbiter's answer was lost")
        return Stored(record, self._process.requested_ns, self._ttl_ms)

    def _reach(self) -> None:
        if self._server.down or self._route.cut or not self._process.alive:
            raise ArbiterError("the arbiter cannot be reached")

    def close(self) -> None:
        """Holds nothing open."""


class SimKeeper:
    """Implements arbiter.keeper.Keeper: a thread of the process."""

    def __init__(
        self,
        process: Process,
        arbiter: Arbiter,
        lease: Lease,
        deadline: LeaseDeadline,
        callbacks: LeaseCallbacks,
    ) -> None:
        self._process = process
        self._renewal = LeaseRenewal(arbiter, lease, deadline, callbacks, process.clock)
        self._stopped = False

    @property
    def lease(self) -> Lease:
        return self._renewal.lease

    def start(self) -> None:
        self._renewal.begin()
        self._wait()

    def stop(self) -> bool:
        self._stopped = True
        self._renewal.end()
        return True

    def _wait(self) -> None:
        delay_ns = self._process.clock.world_ns(round(self._renewal.wait_s() * NS_PER_S))
        self._process.schedule(delay_ns, self._ask)

    def _ask(self) -> None:
        process = self._process
        process.schedule(process.draw_pool_delay(), self._tick, process.clock.boottime_ns())

    def _tick(self, requested_ns: int) -> None:
        if self._stopped:
            return
        self._process.requested_ns = requested_ns
        if self._renewal.tick():
            self._wait()
