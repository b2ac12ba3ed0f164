"""Everything that is no stream: datagrams of one kind between the same ends, compared one by one in their order.

UDP is asked of the comparer. ICMP, fragments (each for itself, without the identification) and protocols that nobody
here knows must be equal.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import NamedTuple

from replicator.compare.api import Ages, Connection, Differs, OutputComparer, Same
from replicator.compare.guard import Guard, Judgement
from replicator.compare.plain import compare_whole
from replicator.engine.compare.effects import Reason
from replicator.engine.compare.flow import Confirmed, Finding
from replicator.engine.compare.packet import Kind, Packet
from replicator.limits import COMPARE_DATAGRAMS_MAX, COMPARE_SIDE_BYTES_MAX


class _Said(NamedTuple):
    content: bytes
    at_ns: int
    #: Of the primary; 0 of the secondary.
    frame_id: int = 0


class DatagramFlow:
    """`connection` is None for what no comparer is asked about."""

    awaits_confirmation = False

    def __init__(self, kind: Kind, connection: Connection | None, now_ns: int) -> None:
        self.kind = kind
        self._connection = connection and replace(connection, from_start=False)
        self._comparer: OutputComparer | None = None
        self._primary: deque[_Said] = deque()
        self._secondary: deque[_Said] = deque()
        self._kept_bytes = 0
        #: Frames that were the same and have not been told.
        self._matched: list[int] = []
        self.since_ns = now_ns
        self.used_turn = 0

    @property
    def name(self) -> str:
        return str(self._connection or self.kind.value)

    @property
    def is_waiting(self) -> bool:
        return bool(self._primary or self._secondary)

    @property
    def is_closed(self) -> bool:
        return False

    @property
    def may_be_forgotten(self) -> bool:
        return True

    @property
    def kept_bytes(self) -> int:
        return self._kept_bytes

    @property
    def is_undecided(self) -> bool:
        return bool(self._primary and self._secondary)

    def say_primary(
        self, frame_id: int, packet: Packet, frame: bytes, newest_input: int, now_ns: int
    ) -> Finding | None:
        return self._say(self._primary, _Said(packet.content, now_ns, frame_id))

    def say_secondary(self, packet: Packet, frame: bytes, now_ns: int) -> Finding | None:
        return self._say(self._secondary, _Said(packet.content, now_ns))

    def note_lost(self, packet: Packet) -> None:
        """It leaves with nobody, and the comparer never knows."""

    def note_input(self, packet: Packet, seq: int) -> None:
        """That both say the same shows that both had it."""

    def compare(self, guard: Guard, now_ns: int) -> Finding | None:
        while self._primary and self._secondary:
            mine, others = self._primary[0], self._secondary[0]
            judgement = self._judge(guard, mine, others, now_ns)
            if isinstance(judgement.verdict, Differs):
                if judgement.is_fault:
                    self._comparer = None
                return Finding(
                    Reason.COMPARER if judgement.is_fault else Reason.DIFFERS, judgement.verdict.reason
                )
            if not isinstance(judgement.verdict, Same):
                break
            self._drop_first(now_ns)
            self._matched.append(mine.frame_id)
        return None

    def release(self, confirmed: Confirmed, now_ns: int) -> list[int]:
        matched, self._matched = self._matched, []
        return matched

    def commit(self, guard: Guard) -> None:
        if self._comparer is not None and self._connection is not None:
            for said in self._primary:
                if not guard.skip(self._comparer, self._connection, said.content):
                    self._comparer = None
                    break
        self._primary.clear()
        self._secondary.clear()
        self._matched.clear()
        self._kept_bytes = 0

    def _say(self, side: deque[_Said], said: _Said) -> Finding | None:
        if not self.is_waiting:
            self.since_ns = said.at_ns
        if (
            len(side) >= COMPARE_DATAGRAMS_MAX
            or self._kept_bytes + len(said.content) > COMPARE_SIDE_BYTES_MAX
        ):
            return Finding(Reason.BUFFER, "too many datagrams that the other side has not said")
        side.append(said)
        self._kept_bytes += len(said.content)
        return None

    def _judge(self, guard: Guard, mine: _Said, others: _Said, now_ns: int) -> Judgement:
        # A comparer is never asked about nothing.
        if self._connection is None or not mine.content or not others.content:
            return Judgement(compare_whole(mine.content, others.content))
        if self._comparer is None:
            self._comparer = guard.make()
        ages = Ages(now_ns - mine.at_ns, now_ns - others.at_ns)
        return guard.judge(self._comparer, self._connection, mine.content, others.content, ages)

    def _drop_first(self, now_ns: int) -> None:
        for side in (self._primary, self._secondary):
            self._kept_bytes -= len(side.popleft().content)
        self.since_ns = now_ns
