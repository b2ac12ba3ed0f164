"""ARP, neighbour and group discovery: each guest keeps up its link at times of its own, and says nothing by it that
the other could contradict: both have the same addresses. The primary's leaves when the secondary's side has the inputs
that it may be an answer to; the secondary's is not looked at."""

from __future__ import annotations

from collections import deque

from replicator.compare.guard import Guard
from replicator.engine.compare.flow import Confirmed, Finding
from replicator.engine.compare.packet import Kind, Packet


class UpkeepFlow:
    kind = Kind.UPKEEP
    name = "link upkeep"
    is_closed = False
    may_be_forgotten = True
    kept_bytes = 0
    is_undecided = False

    def __init__(self, now_ns: int) -> None:
        self.since_ns = now_ns
        self.used_turn = 0
        #: (number of the frame, newest input when it was said)
        self._held: deque[tuple[int, int]] = deque()

    @property
    def is_waiting(self) -> bool:
        return bool(self._held)

    @property
    def awaits_confirmation(self) -> bool:
        return bool(self._held)

    def say_primary(
        self, frame_id: int, packet: Packet, frame: bytes, newest_input: int, now_ns: int
    ) -> Finding | None:
        if not self._held:
            self.since_ns = now_ns
        self._held.append((frame_id, newest_input))
        return None

    def say_secondary(self, packet: Packet, frame: bytes, now_ns: int) -> Finding | None:
        return None

    def note_lost(self, packet: Packet) -> None:
        """It is said again when it is needed."""

    def note_input(self, packet: Packet, seq: int) -> None:
        """The newest input of all counts."""

    def compare(self, guard: Guard, now_ns: int) -> Finding | None:
        return None

    def release(self, confirmed: Confirmed, now_ns: int) -> list[int]:
        out: list[int] = []
        while self._held and self._held[0][1] <= confirmed.inputs_upto:
            out.append(self._held.popleft()[0])
        if out:
            self.since_ns = now_ns
        return out

    def commit(self, guard: Guard) -> None:
        self._held.clear()
