"""What every arbiter promises: at most one holder a term, and no promotion past a bar.

The arbiter keeps one record a guest (`ArbiterRecord`) and the lease of its holder. Each call below is one
transaction. Calls block (never longer than the adapter's timeout), so an event loop runs them in a thread.

Rule 1: a lease is never taken from a live holder, not even by an operator's force; one waits until it ends.
Rule 2: a term belongs to one start of one side; each `acquire` of a fresh primary and each take-over adds 1.
Rule 3: a term starts barred. Only `lift_bar` of its holder names a replica that may be promoted.
Rule 4: `go_alone` and `take_over` are transactions on the same record, so one of two racing ones is refused.
Rule 5: A holder may hand over by `release` and has it undone by `take_back`, which races with `take_over` on the same
record: one of both is refused.
Rule 6: `Lease.deadline_boottime_ns` counts from before the request, less the margin: the holder always falls
silent before the arbiter lets anyone else in.

This file does not know where the record is stored."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

from replicator.errors import ArbiterError, ConfigError
from replicator.units import NS_PER_MS

DEFAULT_TTL_MS = 300
DEFAULT_MARGIN_MS = 30


class TakeOverRefused(ArbiterError):
    """The arbiter's record forbids this promotion; waiting does not change that."""


@dataclass(frozen=True, slots=True)
class Replica:
    """The one copy that may be promoted: who keeps it, of which sync session, and at least at which epoch."""

    node: str
    session: str
    #: First epoch committed in the session; an older copy is not this replica.
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class ArbiterRecord:
    """What the arbiter knows of one guest at the time it was read."""

    guest: str
    term: int
    #: Node of the newest term's owner; "" after it stood down.
    holder: str
    #: No replica may be promoted.
    barred: bool
    replica: Replica | None
    #: The holder's lease had not run out when this was read. Not part of what is stored.
    live: bool = False


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to run the guest until the deadline."""

    term: int
    holder: str
    #: CLOCK_BOOTTIME of this host; past it the holder is mute. Already less the margin.
    deadline_boottime_ns: int
    #: The adapter's own handle, nothing to anybody else.
    token: str = ""

    def is_live(self) -> bool:
        """Whether the deadline is still ahead."""
        return boottime_ns() < self.deadline_boottime_ns


class Arbiter(Protocol):
    """One guest's arbiter. Raises ArbiterError when it cannot be reached within its timeout."""

    @property
    def ttl_ms(self) -> int:
        """Length of a lease; a renewal is due every quarter of it."""

    def read(self) -> ArbiterRecord | None:
        """The record, or None before the first acquire."""

    def acquire(self, node: str, *, term: int | None = None, discard_replica: bool = False) -> Lease:
        """Become the holder.

        Without `term`: a fresh primary, which starts term + 1, barred. With `term`: the same side has
        let its lease run out and wants it again; bar and replica stay as they are.
        LeaseLost names holder and term when a lease is live or a newer term exists. TakeOverRefused when a
        replica may be promoted: its state is newer than a fresh start (`discard_replica` overrides).
        """

    def renew(self, lease: Lease) -> Lease:
        """The same lease with a later deadline. LeaseLost when it ran out: then `acquire(node, term=...)`."""

    def take_over(
        self, node: str, replica_term: int, replica_epoch: int, *, replica_session: str | None = None
    ) -> Lease:
        """Promote the recorded replica: term + 1, barred.

        LeaseLost while the lease is live (try again later); TakeOverRefused when barred or when the named replica
        is not the recorded one (never try again without a new sync).
        """

    def go_alone(self, lease: Lease) -> None:
        """Bar every replica. After it returned, no take_over succeeds until `lift_bar`. LeaseLost if taken over."""

    def lift_bar(self, lease: Lease, replica_node: str, session: str, *, epoch: int = 0) -> None:
        """Name the replica that may be promoted from now on. LeaseLost if taken over."""

    def release(self, lease: Lease, *, hand_over: bool = False) -> None:
        """Stand down. With `hand_over` the recorded replica may take over at once, else none may, ever.

        Does nothing when another side has taken over meanwhile."""

    def take_back(self, lease: Lease, session: str, epoch: int) -> Lease:
        """After `release(hand_over=True)`, recorded or not: the guest again, whose state is that of `epoch`.

        The same term when nobody took over; a new one when whoever did has handed this very state back, which it does
        with `lift_bar` for this node and `release(hand_over=True)`. LeaseLost when another side has it for good.
        """

    def force_take_over(self, node: str) -> Lease:
        """An operator's promotion: ignores bar and replica, never a live lease (LeaseLost)."""

    def close(self) -> None:
        """Give back connections. Does not end the lease."""


def boottime_ns() -> int:
    """CLOCK_BOOTTIME: goes on through suspend, equal for all processes of a host."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def lease_deadline_ns(requested_at_ns: int, ttl_ms: int, margin_ms: int) -> int:
    """The time from which a holder is mute that asked for its lease at `requested_at_ns`."""
    return requested_at_ns + (ttl_ms - margin_ms) * NS_PER_MS


def check_ttl(ttl_ms: int, margin_ms: int) -> None:
    """Raise ConfigError unless a lease is longer than its margin."""
    if not 0 <= margin_ms < ttl_ms:
        raise ConfigError(
            f"lease ttl of {ttl_ms} ms leaves nothing after its margin of {margin_ms} ms",
            hint="set the ttl to several times the margin",
        )


def check_timing(heartbeat_ms: int, misses: int, margin_ms: int, ttl_ms: int) -> None:
    """Raise ConfigError unless a silent peer is noticed before its lease ends: heartbeat * misses + margin <= ttl."""
    if heartbeat_ms <= 0 or misses <= 0:
        raise ConfigError("heartbeat interval and misses must be at least 1")
    check_ttl(ttl_ms, margin_ms)
    needed_ms = heartbeat_ms * misses + margin_ms
    if needed_ms > ttl_ms:
        raise ConfigError(
            f"heartbeat interval_ms {heartbeat_ms} x misses {misses} + margin_ms {margin_ms} = {needed_ms} ms exceeds "
            f"the lease ttl of {ttl_ms} ms",
            hint=f"raise ttl_ms to {needed_ms} or more, or lower interval_ms or misses",
        )
