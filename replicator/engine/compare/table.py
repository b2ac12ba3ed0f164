"""The flows of one epoch after the other, by key. Bounded: those that are over go first, then quiet ones, oldest use
first; one that waits or whose numbers are shifted stays."""

from __future__ import annotations

from collections.abc import Iterator

from replicator.compare.guard import Guard
from replicator.engine.compare.datagram_flow import DatagramFlow
from replicator.engine.compare.flow import Flow
from replicator.engine.compare.packet import Kind, Packet, describe_key
from replicator.engine.compare.steady import SteadyFlows
from replicator.engine.compare.tcp_flow import TcpFlow
from replicator.engine.compare.upkeep_flow import UpkeepFlow
from replicator.errors import InvariantError
from replicator.limits import COMPARE_CONNECTIONS_MAX


class FlowTable:
    """Whoever gets a flow of it may use it: one that was lent to `steady` is taken back first."""

    def __init__(
        self, *, connections_max: int = COMPARE_CONNECTIONS_MAX, steady: SteadyFlows | None = None
    ) -> None:
        self._connections_max = connections_max
        self._steady = steady
        self._flows: dict[bytes, Flow] = {}

    def __len__(self) -> int:
        return len(self._flows)

    def __iter__(self) -> Iterator[Flow]:
        if self._steady is not None:
            self._steady.take_back_all()
        return iter(self._flows.values())

    def find(self, packet: Packet) -> Flow | None:
        self._take_back(packet)
        return self._flows.get(_key_of(packet))

    def use(self, packet: Packet, turn: int, now_ns: int) -> Flow | None:
        """The packet's flow, made if need be. None when there is no room."""
        self._take_back(packet)
        key = _key_of(packet)
        flow = self._flows.get(key)
        if flow is None:
            if len(self._flows) >= self._connections_max and not self._make_room():
                return None
            flow = self._flows[key] = _make_flow(packet, now_ns)
        flow.used_turn = turn
        return flow

    def commit(self, guard: Guard) -> None:
        """Both guests are the primary's now, and all it said has left."""
        lent = self._steady.commit() if self._steady is not None else frozenset()
        for flow in self._flows.values():
            if flow not in lent:
                flow.commit(guard)

    def _take_back(self, packet: Packet) -> None:
        if self._steady is not None and packet.kind is Kind.TCP:
            self._steady.take_back(packet.key)

    def _make_room(self) -> bool:
        """Forget an eighth of the flows at most, so that it need not be done for each new one."""
        most = max(1, self._connections_max // 8)
        if self._steady is not None:
            self._steady.take_back_all()
        quiet = [
            (key, flow) for key, flow in self._flows.items() if not flow.is_waiting and flow.may_be_forgotten
        ]
        quiet.sort(key=lambda one: one[1].used_turn)
        over = [key for key, flow in quiet if flow.is_closed]
        idle = [key for key, flow in quiet if not flow.is_closed]
        chosen = (over + idle)[:most]
        for key in chosen:
            del self._flows[key]
        return bool(chosen)


def _key_of(packet: Packet) -> bytes:
    return packet.kind.prefix + packet.key


def _make_flow(packet: Packet, now_ns: int) -> Flow:
    if packet.kind is Kind.UPKEEP:
        return UpkeepFlow(now_ns)
    if packet.kind not in (Kind.TCP, Kind.UDP):
        return DatagramFlow(packet.kind, None, now_ns)
    connection = describe_key(packet.key, from_start=False)
    if connection is None:
        raise InvariantError(f"the key of a {packet.kind.value} packet names no connection")
    if packet.kind is Kind.TCP:
        return TcpFlow(packet.key, connection, now_ns)
    return DatagramFlow(Kind.UDP, connection, now_ns)
