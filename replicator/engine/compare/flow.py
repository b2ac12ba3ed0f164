"""What the flows of all protocols share: a flow is what the two guests say on one connection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from replicator.compare.guard import Guard
from replicator.engine.compare.effects import Reason
from replicator.engine.compare.packet import Kind, Packet


class Finding(NamedTuple):
    """Why this flow needs a checkpoint."""

    reason: Reason
    detail: str


@dataclass(slots=True)
class Confirmed:
    """What the secondary's side has confirmed. Both only grow."""

    inputs_upto: int = 0
    shifts_upto: int = 0


class Flow(Protocol):
    """One connection, or one order of datagrams."""

    kind: Kind
    #: Last time that anything got on, or began to wait.
    since_ns: int
    #: Of its last use.
    used_turn: int

    @property
    def name(self) -> str:
        """For people."""
        ...

    @property
    def is_waiting(self) -> bool:
        """One side has said what the other has not, or a frame is held."""
        ...

    @property
    def is_closed(self) -> bool:
        """Nothing is expected any more."""
        ...

    @property
    def may_be_forgotten(self) -> bool:
        """Nothing would be lost if the next packet were the first one."""
        ...

    @property
    def kept_bytes(self) -> int: ...

    @property
    def awaits_confirmation(self) -> bool:
        """As of the last `release`: the next frame leaves when an input or a shift is confirmed, for all else is known."""
        ...

    @property
    def is_undecided(self) -> bool:
        """`compare` may say something else when only time has passed."""
        ...

    def say_primary(
        self, frame_id: int, packet: Packet, frame: bytes, newest_input: int, now_ns: int
    ) -> Finding | None: ...

    def say_secondary(self, packet: Packet, frame: bytes, now_ns: int) -> Finding | None: ...

    def note_lost(self, packet: Packet) -> None:
        """The primary said it, and it is kept nowhere."""
        ...

    def note_input(self, packet: Packet, seq: int) -> None: ...

    def compare(self, guard: Guard, now_ns: int) -> Finding | None:
        """Compare what both have said."""
        ...

    def release(self, confirmed: Confirmed, now_ns: int) -> list[int]:
        """Frames that may leave now; each is named once."""
        ...

    def commit(self, guard: Guard) -> None:
        """Both guests are the primary's now, and all it said has left."""
        ...
