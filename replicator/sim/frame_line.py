"""The channel of a COLO pair's frames over the simulated network: who listens, who dials, and what becomes of messages.

It behaves as a connection of TCP with a seal on each message: all of them arrive, in order, or the connection breaks.
So one that is lost or damaged on the way breaks it, and a cut lets messages wait until it ends or the connection is
given up. Only who has dialled learns that it broke. Whoever dials tries again until somebody listens. What the messages
say is not known here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from replicator.errors import TransportError
from replicator.output.frame_channel_memory import MemoryFrameChannel
from replicator.sim.network import GIVE_UP_NS, REDIAL_NS, Network
from replicator.sim.process import Process
from replicator.units import NS_PER_MS
from replicator.wire.frames import FrameMessage

Deliver = Callable[[bytes], None]


class FrameEnd(MemoryFrameChannel):
    """Implements output.frame_channel.FrameChannel for one process on `host`."""

    def __init__(self, process: Process, host: str, session: bytes, *, is_primary: bool) -> None:
        super().__init__(session, is_primary=is_primary, carry=self._carry_away)
        self.process = process
        self.host = host
        self._cable: FrameCable | None = None

    @property
    def is_plugged(self) -> bool:
        return self._cable is not None

    @property
    def is_closed(self) -> bool:
        return self._closed

    def plug(self, cable: FrameCable, other: FrameEnd) -> None:
        self._cable = cable
        self.meet(other)

    def receive(self) -> FrameMessage | None:
        message = super().receive()
        if message is None and self._was_cut and not self._closed:
            raise TransportError("the connection to the other relay was lost")
        return message

    def close(self) -> None:
        # The other end hears of it over the network, if at all.
        self._peer = None
        super().close()
        if self._cable is not None:
            self._cable.fall("an end was closed")

    def _carry_away(self, data: bytes, deliver: Deliver) -> None:
        if self._cable is not None:
            self._cable.send(self.host, data, deliver)


class FrameExchange:
    """Of one network. `cut` concerns the frames alone."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.is_cut = False
        self._listeners: dict[str, FrameEnd] = {}
        self._cables: list[FrameCable] = []

    def listen(self, end: FrameEnd) -> None:
        """In the place of whoever listened at this host before."""
        self._listeners[end.host] = end

    def dial(self, end: FrameEnd, peer: str) -> None:
        """Again and again, until `end` is closed or meets somebody."""
        network, other = self.network, self._listeners.get(peer)
        if end.is_closed:
            return
        reachable = not (self.is_cut or network.is_cut(end.host, peer))
        if other is None or other.is_closed or other.is_plugged or not other.process.alive or not reachable:
            end.process.schedule(network.world.between(*REDIAL_NS), self.dial, end, peer)
            return
        cable = FrameCable(self, end, other)
        self._cables = [one for one in self._cables if not one.closed]
        self._cables.append(cable)
        network.add(cable)
        # The listener first: who dials speaks at once.
        other.plug(cable, end)
        end.plug(cable, other)

    def cut(self, is_cut: bool) -> None:
        self.is_cut = is_cut
        for cable in self._cables:
            cable.settle()

    def break_all(self) -> None:
        for cable in self._cables:
            cable.fall("the connection was reset")


class FrameCable:
    """One connection."""

    def __init__(self, exchange: FrameExchange, dialler: FrameEnd, listener: FrameEnd) -> None:
        self._exchange = exchange
        self._network = exchange.network
        self._world = exchange.network.world
        self._ends = {dialler.host: dialler, listener.host: listener}
        self._dialler = dialler
        self.dialler_host, self.listener_host = dialler.host, listener.host
        self.closed = False
        self._stuck: deque[tuple[str, bytes, Deliver]] = deque()
        self._free_at_ns = dict.fromkeys(self._ends, 0)
        self._patience = 0

    @property
    def _is_cut(self) -> bool:
        return self._exchange.is_cut or self._network.is_cut(self.dialler_host, self.listener_host)

    def _other(self, host: str) -> FrameEnd:
        return self._ends[self.listener_host if host == self.dialler_host else self.dialler_host]

    def send(self, host: str, data: bytes, deliver: Deliver) -> None:
        if self.closed:
            return
        weather, world = self._network.weather[host, self._other(host).host], self._world
        if any(map(world.chance, (weather.drop, weather.reset, weather.flip))):
            self.fall("a message was lost or damaged")
        elif self._is_cut:
            self._stuck.append((host, data, deliver))
            self._lose_patience()
        else:
            self._travel(host, data, deliver)

    def _travel(self, host: str, data: bytes, deliver: Deliver) -> None:
        world, other = self._world, self._other(host)
        weather = self._network.weather[host, other.host]
        at_ns = world.now_ns + world.between(*weather.latency_ns)
        if weather.bytes_per_s:
            at_ns += len(data) * 1_000_000_000 // weather.bytes_per_s
        self._free_at_ns[host] = max(at_ns, self._free_at_ns[host] + 1)
        world.at(self._free_at_ns[host], self._arrive, other, data, deliver)

    def _arrive(self, other: FrameEnd, data: bytes, deliver: Deliver) -> None:
        if not self.closed:
            other.process.run(deliver, (data,))

    def _lose_patience(self) -> None:
        self._patience += 1
        self._world.after(self._world.between(*GIVE_UP_NS), self._give_up, self._patience)

    def _give_up(self, patience: int) -> None:
        if patience == self._patience and self._is_cut:
            self.fall("no answer")

    def settle(self) -> None:
        if self._is_cut:
            self._lose_patience()
            return
        self._patience += 1
        while self._stuck:
            self._travel(*self._stuck.popleft())

    def starve(self) -> None:
        self._world.after(self._world.between(*GIVE_UP_NS), self.fall, "no answer")

    def fall(self, reason: str) -> None:
        if self.closed:
            return
        self.closed = True
        self._stuck.clear()
        dialler = self._dialler
        dialler.process.schedule(self._world.between(0, 5 * NS_PER_MS), dialler.cut)
