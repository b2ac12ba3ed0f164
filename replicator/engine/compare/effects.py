"""What the comparison wants done, in this order."""

from __future__ import annotations

from enum import Enum

from replicator.engine.compare.shift import Shift
from replicator.frozen import frozen
from replicator.units import Epoch


class Reason(Enum):
    """Why a checkpoint is needed."""

    DIFFERS = "differs"
    #: One side has said what the other has not within the bound, or nobody confirmed an input or shift.
    TIMEOUT = "timeout"
    #: A bound of the comparison was reached.
    BUFFER = "buffer"
    #: The comparer raised, answered nonsense or was slow.
    COMPARER = "comparer"


@frozen
class Release:
    """These frames of the primary leave, in this order."""

    frame_ids: tuple[int, ...]


@frozen
class Drop:
    """These frames of the primary find no room and are lost, as on any network."""

    frame_ids: tuple[int, ...]


@frozen
class AskCheckpoint:
    """Once an epoch. Nothing is released before it is committed."""

    epoch: Epoch
    reason: Reason
    #: Where it happened, for people; empty when it is no connection's fault.
    connection: str
    detail: str


@frozen
class TellShift:
    """The secondary's side must know this of a new connection before its first frame may leave. Numbers grow by one;
    `ShiftsKnown` confirms. Until the next commit, frames towards the secondary's guest are shifted by it."""

    number: int
    key: bytes
    shift: Shift


CompareEffect = Release | Drop | AskCheckpoint | TellShift
