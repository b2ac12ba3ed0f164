"""The arbiter's decisions as pure functions: record in, record and lease change out, or a refusal raised.

Every adapter stores what these say, in one compare-and-swap, and asks again when the record changed meanwhile.
So the three adapters cannot differ in what they allow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from replicator.arbiter.base import ArbiterRecord, Lease, Replica, TakeOverRefused
from replicator.errors import ArbiterError, LeaseLost


class LeaseChange(Enum):
    """What happens to the lease together with the record."""

    KEEP = "keep"
    GRANT = "grant"
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class Change:
    """The next record; its `live` field means nothing."""

    record: ArbiterRecord
    lease: LeaseChange


Rule = Callable[[ArbiterRecord | None], Change]


def acquire_fresh(guest: str, node: str, *, discard_replica: bool) -> Rule:
    """A primary starts its guest anew."""

    def rule(record: ArbiterRecord | None) -> Change:
        if record is None:
            return Change(_new_term(guest, 0, node), LeaseChange.GRANT)
        if record.live:
            raise _held(record, node)
        if not record.barred and record.replica is not None and not discard_replica:
            raise TakeOverRefused(
                f"guest {guest}: the replica on {record.replica.node} may hold what a fresh start on {node} "
                f"would lose (term {record.term} ended with this replica named)",
                hint=f"let {record.replica.node} take over, or start with the replica given up",
            )
        return Change(_new_term(guest, record.term, node), LeaseChange.GRANT)

    return rule


def acquire_again(node: str, term: int) -> Rule:
    """The holder of `term` let its lease run out and wants it back."""

    def rule(record: ArbiterRecord | None) -> Change:
        return Change(_require_holder(record, node, term), LeaseChange.GRANT)

    return rule


def renew(lease: Lease) -> Rule:
    """A holder asks for more time before its lease ends."""

    def rule(record: ArbiterRecord | None) -> Change:
        held = _require_holder(record, lease.holder, lease.term)
        if not held.live:
            raise lease_ran_out(held.guest, lease)
        return Change(held, LeaseChange.GRANT)

    return rule


def take_over(node: str, replica_term: int, replica_epoch: int, replica_session: str | None) -> Rule:
    """The replica that `node` keeps becomes the guest."""

    def rule(record: ArbiterRecord | None) -> Change:
        if record is None:
            raise TakeOverRefused(f"{node} may not take over: the arbiter knows nothing of the guest")
        named = f"{node} may not take over guest {record.guest}"
        if record.term != replica_term:
            raise TakeOverRefused(
                f"{named}: its replica is of term {replica_term}, {record.holder or 'nobody'} holds term "
                f"{record.term}",
                hint="join as secondary; the replica is synchronised anew",
            )
        if record.barred or record.replica is None:
            raise TakeOverRefused(
                f"{named}: {record.holder or 'the former holder'} barred all replicas in term {record.term}",
                hint="its replica is older than what the primary has sent out; `promote` overrides and loses that",
            )
        _require_replica(named, record.replica, node, replica_epoch, replica_session)
        if record.live:
            raise _held(record, node)
        return Change(_new_term(record.guest, record.term, node), LeaseChange.GRANT)

    return rule


def go_alone(lease: Lease) -> Rule:
    """The holder bars every replica."""

    def rule(record: ArbiterRecord | None) -> Change:
        held = _require_holder(record, lease.holder, lease.term)
        return Change(replace(held, barred=True, replica=None), LeaseChange.KEEP)

    return rule


def lift_bar(lease: Lease, replica: Replica) -> Rule:
    """The holder names the replica that may be promoted."""

    def rule(record: ArbiterRecord | None) -> Change:
        held = _require_holder(record, lease.holder, lease.term)
        if replica.node == lease.holder:
            raise ArbiterError(
                f"guest {held.guest}: {replica.node} holds the term and cannot be its own replica"
            )
        return Change(replace(held, barred=False, replica=replica), LeaseChange.KEEP)

    return rule


def release(lease: Lease, *, hand_over: bool) -> Rule:
    """The holder stands down."""

    def rule(record: ArbiterRecord | None) -> Change:
        held = replace(_require_holder(record, lease.holder, lease.term), holder="")
        if not hand_over:
            held = replace(held, barred=True, replica=None)
        return Change(held, LeaseChange.DROP)

    return rule


def take_back(node: str, term: int, kept: Replica) -> Rule:
    """Who has handed the guest over, and still keeps it as it stood then, wants it again.

    Two records allow that. Nobody has taken over: the term is still the last one, held by nobody or, when giving it up
    was never recorded, by this node. Or whoever took over has named what this node keeps as the replica that counts
    (`kept`), and has stood down for it: then its guest has never spoken.
    """

    def rule(record: ArbiterRecord | None) -> Change:
        if record is None:
            raise LeaseLost(f"{node} does not get term {term} back: the arbiter knows nothing of the guest")
        if record.term == term and record.holder in ("", node):
            return Change(replace(record, holder=node), LeaseChange.GRANT)
        if not record.holder and not record.barred and record.replica == kept:
            return Change(_new_term(record.guest, record.term, node), LeaseChange.GRANT)
        owner = f"{record.holder} holds" if record.holder else "nobody holds"
        raise LeaseLost(
            f"guest {record.guest}: {node} does not get term {term} back, {owner} term {record.term}",
            hint="the guest runs there; join it as secondary",
        )

    return rule


def force_take_over(guest: str, node: str) -> Rule:
    """An operator says that the other side is dead."""

    def rule(record: ArbiterRecord | None) -> Change:
        if record is None:
            return Change(_new_term(guest, 0, node), LeaseChange.GRANT)
        if record.live:
            raise _held(record, node)
        return Change(_new_term(guest, record.term, node), LeaseChange.GRANT)

    return rule


def record_to_fields(record: ArbiterRecord) -> dict[str, Any]:
    """What is stored of a record, ready for JSON."""
    replica = record.replica
    return {
        "guest": record.guest,
        "term": record.term,
        "holder": record.holder,
        "barred": record.barred,
        "replica": None
        if replica is None
        else {"node": replica.node, "session": replica.session, "epoch": replica.epoch},
    }


def record_from_fields(fields: Any, guest: str) -> ArbiterRecord:
    """The inverse. ValueError for anything that `record_to_fields` did not write for this guest."""
    if not isinstance(fields, dict) or fields.get("guest") != guest:
        raise ValueError(f"not a record of guest {guest}")
    term, holder, barred = (fields.get(name) for name in ("term", "holder", "barred"))
    if type(term) is not int or term < 1 or not isinstance(holder, str) or not isinstance(barred, bool):
        raise ValueError("term, holder or barred is missing or of a wrong type")
    return ArbiterRecord(guest, term, holder, barred, _replica_from_fields(fields.get("replica")))


def lease_ran_out(guest: str, lease: Lease) -> LeaseLost:
    """The refusal of a renewal that came too late."""
    return LeaseLost(
        f"guest {guest}: the lease of {lease.holder} for term {lease.term} ran out",
        hint="acquire the same term again, if nobody took over",
    )


def _replica_from_fields(fields: Any) -> Replica | None:
    if fields is None:
        return None
    names = ("node", "session", "epoch")
    node, session, epoch = (fields.get(name) if isinstance(fields, dict) else None for name in names)
    if not isinstance(node, str) or not isinstance(session, str) or type(epoch) is not int:
        raise ValueError("the replica or a field of it is missing or of a wrong type")
    return Replica(node, session, epoch)


def _new_term(guest: str, last_term: int, node: str) -> ArbiterRecord:
    return ArbiterRecord(guest, last_term + 1, node, barred=True, replica=None)


def _require_holder(record: ArbiterRecord | None, node: str, term: int) -> ArbiterRecord:
    if record is None:
        raise LeaseLost(f"{node} does not hold term {term}: the arbiter knows nothing of the guest")
    if record.holder != node or record.term != term:
        owner = f"{record.holder} holds" if record.holder else "nobody holds"
        raise LeaseLost(
            f"guest {record.guest}: {node} lost term {term}, {owner} term {record.term}",
            hint="join the new holder as secondary",
        )
    return record


def _require_replica(named: str, replica: Replica, node: str, epoch: int, session: str | None) -> None:
    if replica.node != node:
        raise TakeOverRefused(f"{named}: the replica that counts is on {replica.node}")
    if session is not None and session != replica.session:
        raise TakeOverRefused(f"{named}: its replica is of session {session}, not {replica.session}")
    if epoch < replica.epoch:
        raise TakeOverRefused(f"{named}: its replica is at epoch {epoch}, older than epoch {replica.epoch}")


def _held(record: ArbiterRecord, node: str) -> LeaseLost:
    return LeaseLost(
        f"guest {record.guest}: {record.holder} holds term {record.term} with a live lease, {node} does not get it",
        hint="wait until the lease has ended",
    )
