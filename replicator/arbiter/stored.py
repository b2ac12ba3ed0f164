"""The calls of `Arbiter` on top of one compare-and-swap, which each adapter brings."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass

from replicator.arbiter import rules
from replicator.arbiter.base import (
    DEFAULT_MARGIN_MS,
    DEFAULT_TTL_MS,
    ArbiterRecord,
    Lease,
    Replica,
    check_ttl,
    lease_deadline_ns,
)
from replicator.arbiter.rules import Rule
from replicator.errors import ConfigError, LeaseLost

_GUEST_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Stored:
    """Outcome of a transaction. `requested_at_ns` is BOOTTIME before the first request for the lease."""

    record: ArbiterRecord
    requested_at_ns: int
    ttl_ms: int
    token: str = ""


class StoredArbiter(ABC):
    """An arbiter whose adapter only knows how to apply a rule atomically. Safe to call from several threads."""

    def __init__(
        self, guest: str, *, ttl_ms: int = DEFAULT_TTL_MS, margin_ms: int = DEFAULT_MARGIN_MS
    ) -> None:
        check_ttl(ttl_ms, margin_ms)
        if not _GUEST_NAME.fullmatch(guest):
            raise ConfigError(f"guest name {guest!r} cannot name a record", hint="use letters, digits, . _ -")
        self.guest = guest
        self._ttl_ms = ttl_ms
        self._margin_ms = margin_ms

    @property
    def ttl_ms(self) -> int:
        """Length of a lease."""
        return self._ttl_ms

    @abstractmethod
    def read(self) -> ArbiterRecord | None:
        """The record, or None before the first acquire."""

    @abstractmethod
    def _transact(self, rule: Rule, *, current: Lease | None = None) -> Stored:
        """Apply `rule` to the newest record in one transaction; repeat when the record changed meanwhile."""

    @abstractmethod
    def close(self) -> None:
        """Give back connections."""

    def acquire(self, node: str, *, term: int | None = None, discard_replica: bool = False) -> Lease:
        """See `Arbiter.acquire`."""
        if term is not None:
            return self._grant(rules.acquire_again(node, term))
        return self._grant(rules.acquire_fresh(self.guest, node, discard_replica=discard_replica))

    def renew(self, lease: Lease) -> Lease:
        """See `Arbiter.renew`."""
        return self._grant(rules.renew(lease))

    def take_over(
        self, node: str, replica_term: int, replica_epoch: int, *, replica_session: str | None = None
    ) -> Lease:
        """See `Arbiter.take_over`."""
        return self._grant(rules.take_over(node, replica_term, replica_epoch, replica_session))

    def go_alone(self, lease: Lease) -> None:
        """See `Arbiter.go_alone`."""
        self._transact(rules.go_alone(lease), current=lease)

    def lift_bar(self, lease: Lease, replica_node: str, session: str, *, epoch: int = 0) -> None:
        """See `Arbiter.lift_bar`."""
        self._transact(rules.lift_bar(lease, Replica(replica_node, session, epoch)), current=lease)

    def release(self, lease: Lease, *, hand_over: bool = False) -> None:
        """See `Arbiter.release`."""
        try:
            self._transact(rules.release(lease, hand_over=hand_over), current=lease)
        except LeaseLost:
            return

    def take_back(self, lease: Lease, session: str, epoch: int) -> Lease:
        """See `Arbiter.take_back`."""
        return self._grant(rules.take_back(lease.holder, lease.term, Replica(lease.holder, session, epoch)))

    def force_take_over(self, node: str) -> Lease:
        """See `Arbiter.force_take_over`."""
        return self._grant(rules.force_take_over(self.guest, node))

    def _grant(self, rule: Rule) -> Lease:
        stored = self._transact(rule)
        deadline_ns = lease_deadline_ns(stored.requested_at_ns, stored.ttl_ms, self._margin_ms)
        return Lease(stored.record.term, stored.record.holder, deadline_ns, stored.token)
