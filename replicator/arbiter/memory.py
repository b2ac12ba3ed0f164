"""An arbiter inside one process: several instances on one `MemoryStore` are the sides of a pair."""

from __future__ import annotations

import threading
from dataclasses import replace

from replicator.arbiter.base import (
    DEFAULT_MARGIN_MS,
    DEFAULT_TTL_MS,
    ArbiterRecord,
    Lease,
    boottime_ns,
)
from replicator.arbiter.rules import LeaseChange, Rule
from replicator.arbiter.stored import Stored, StoredArbiter
from replicator.units import NS_PER_MS


class MemoryStore:
    """What the instances share: the records and when their leases end."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.records: dict[str, ArbiterRecord] = {}
        self.expires_ns: dict[str, int] = {}


class MemoryArbiter(StoredArbiter):
    """For simulations and tests; passes the same contract as the others."""

    def __init__(
        self,
        store: MemoryStore,
        guest: str,
        *,
        ttl_ms: int = DEFAULT_TTL_MS,
        margin_ms: int = DEFAULT_MARGIN_MS,
    ) -> None:
        super().__init__(guest, ttl_ms=ttl_ms, margin_ms=margin_ms)
        self._store = store

    def read(self) -> ArbiterRecord | None:
        """The record, or None before the first acquire."""
        with self._store.lock:
            return self._load()

    def _load(self) -> ArbiterRecord | None:
        record = self._store.records.get(self.guest)
        if record is None:
            return None
        return replace(record, live=boottime_ns() < self._store.expires_ns[self.guest])

    def close(self) -> None:
        """Holds nothing open."""

    def _transact(self, rule: Rule, *, current: Lease | None = None) -> Stored:
        requested_at_ns = boottime_ns()
        with self._store.lock:
            change = rule(self._load())
            self._store.records[self.guest] = change.record
            if change.lease is LeaseChange.GRANT:
                self._store.expires_ns[self.guest] = requested_at_ns + self._ttl_ms * NS_PER_MS
            elif change.lease is LeaseChange.DROP:
                self._store.expires_ns[self.guest] = 0
        return Stored(change.record, requested_at_ns, self._ttl_ms)
