"""Numbers of the comparison, for status."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from replicator.compare.guard import ComparerStatus
from replicator.engine.compare.effects import Reason
from replicator.engine.compare.packet import Kind


@dataclass(slots=True)
class KindCounters:
    """Frames of the primary of one kind, and checkpoints that this kind asked for."""

    #: Left because the secondary said the same; of upkeep, because its inputs were safe.
    matched: int = 0
    #: Left with a checkpoint.
    committed: int = 0
    #: Found no room.
    lost: int = 0
    asked: dict[Reason, int] = field(default_factory=dict)

    @property
    def hit_rate(self) -> float | None:
        """Of those that left, the part that no checkpoint was needed for. None before the first one."""
        left = self.matched + self.committed
        return self.matched / left if left else None


@dataclass(frozen=True, slots=True)
class CompareStatus:
    """A copy of the machine's numbers."""

    kinds: Mapping[Kind, KindCounters]
    connections: int
    waiting_connections: int
    #: Of the primary.
    held_frames: int
    held_bytes: int
    #: Kept of both sides until the other says the same.
    kept_bytes: int
    #: Frames of the secondary of an epoch that was over, or that nothing was compared with any more.
    ignored_frames: int
    patience_ns: int
    comparer: ComparerStatus
