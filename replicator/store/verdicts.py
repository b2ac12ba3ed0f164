"""What a store says about its replica."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from replicator.store.journal import Entry, Phase
from replicator.units import Epoch, Term


class Committed(NamedTuple):
    """The epoch that RAM and device state are those of."""

    term: Term
    epoch: Epoch
    #: Of the whole epoch: wire/epoch_digest.py.
    digest: bytes


class Promotable(NamedTuple):
    """Whether a guest may be started from the replica; if not, why."""

    ready: bool
    reason: str = ""


class Outcome(Enum):
    """What recovery found."""

    FRESH = "fresh"
    CLEAN = "clean"
    REDONE = "redone"
    ROLLED_BACK = "rolled back"
    UNSYNCED = "unsynced"


@dataclass(frozen=True, slots=True)
class Recovery:
    outcome: Outcome
    committed: Committed | None
    #: For the operator: what happened, or why the replica is not trusted.
    reason: str


def committed_of(entry: Entry) -> Committed | None:
    """The epoch that the replica is, or goes back or forward to; None while there is none."""
    mark = entry.committed
    if entry.phase in (Phase.UNSYNCED, Phase.ACTIVE, Phase.UNDO_ACTIVE) or not mark.epoch:
        return None
    return Committed(Term(mark.term), Epoch(mark.epoch), mark.digest)


def promotable_of(entry: Entry) -> Promotable:
    """True only while RAM and device state are exactly those of the committed epoch."""
    if entry.phase is Phase.COMMITTED:
        return Promotable(True)
    if entry.phase in (Phase.ACTIVE, Phase.UNDO_ACTIVE):
        return Promotable(False, "the guest runs on this RAM file")
    if entry.phase is Phase.UNSYNCED:
        return Promotable(False, entry.reason)
    return Promotable(False, f"epoch {entry.pending.epoch} is being applied")
