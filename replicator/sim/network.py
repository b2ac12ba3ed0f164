"""The replication network between the hosts: connections of the link, and datagrams of the heartbeats.

A connection behaves as zeromq over TCP does: messages of a channel arrive in order, a sender waits while the other
side does not read, a cut makes messages wait until the cut ends or the connection is given up, and what was under
way on a connection that fell may still arrive, even behind the first messages of the next one, and twice. Every
message is encoded when it is sent and decoded when it arrives. A message that is damaged in its payload arrives
damaged; one that is damaged elsewhere breaks the connection, as TCP's checksum would. A sealed message arrives damaged
wherever it is damaged, for its own seal is what must show it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from replicator.sim.process import Process
from replicator.sim.sealing import SealingAudit
from replicator.sim.world import World
from replicator.units import NS_PER_MS

#: Messages a channel holds before its sender waits.
BULK_MAX = 4
CONTROL_MAX = 64
#: After so long without progress a connection is given up.
GIVE_UP_NS = (300 * NS_PER_MS, 900 * NS_PER_MS)
REDIAL_NS = (5 * NS_PER_MS, 40 * NS_PER_MS)
#: What a message takes when nothing is wrong.
CALM_LATENCY_NS = (50_000, 300_000)

Frames = Sequence["bytes | memoryview"]


@dataclass(slots=True)
class Weather:
    """What the network does to messages of one direction at present."""

    latency_ns: tuple[int, int] = CALM_LATENCY_NS
    #: 0 for no limit.
    bytes_per_s: int = 0
    cut: bool = False
    #: Of messages: lost without a trace, damaged in their payload, damaged elsewhere.
    drop: float = 0.0
    flip: float = 0.0
    reset: float = 0.0
    #: Whether what was under way when a connection fell arrives late, and some of it twice.
    echo: bool = False


class Severable(Protocol):
    """A connection as the network sees it."""

    @property
    def closed(self) -> bool: ...

    @property
    def dialler_host(self) -> str: ...

    @property
    def listener_host(self) -> str: ...

    def settle(self) -> None:
        """The weather has changed."""
        ...

    def starve(self) -> None:
        """The host at one end is gone without a word."""
        ...

    def fall(self, reason: str) -> None: ...


class Network:
    """Who can hear whom. `weather[a, b]` is for what travels from host a to host b."""

    def __init__(self, world: World, hosts: Sequence[str], audit: SealingAudit, *, sealed: bool) -> None:
        self.world = world
        #: Whether the links over it seal bulk messages, and who looks at them from outside.
        self.sealed, self.audit = sealed, audit
        self.weather = {(a, b): Weather() for a in hosts for b in hosts if a != b}
        #: Address (a host's name) -> who listens there.
        self._listeners: dict[str, Listener] = {}
        self._beat_listeners: dict[str, tuple[Process, Callable[[str, bytes], None]]] = {}
        self._connections: list[Severable] = []

    # The link.

    def listen(self, host: str, listener: Listener) -> None:
        self._listeners[host] = listener

    def unlisten(self, host: str, listener: Listener) -> None:
        if self._listeners.get(host) is listener:
            del self._listeners[host]

    def find(self, caller: str, host: str) -> Listener | None:
        """The living listener at `host`, if the caller reaches it and its answers come back."""
        listener = self._listeners.get(host)
        if listener is None or not listener.process.alive:
            return None
        reachable = not self.weather[caller, host].cut and not self.weather[host, caller].cut
        return listener if reachable else None

    def is_cut(self, host: str, other: str) -> bool:
        """Either way between the two."""
        return self.weather[host, other].cut or self.weather[other, host].cut

    def add(self, connection: Severable) -> None:
        self._connections.append(connection)

    def settle(self) -> None:
        """After the weather has changed: what waited goes on, or the connection will be given up."""
        self._connections = [one for one in self._connections if not one.closed]
        for connection in self._connections:
            connection.settle()

    def drop_host(self, host: str, *, silently: bool) -> None:
        """The process at `host` is gone. With a host's death nobody says so to the other side."""
        for connection in list(self._connections):
            if host in (connection.dialler_host, connection.listener_host) and not connection.closed:
                if silently:
                    connection.starve()
                else:
                    connection.fall("the connection was reset")

    def break_connections(self) -> None:
        for connection in list(self._connections):
            connection.fall("the connection was reset")

    # Heartbeats.

    def listen_beats(self, host: str, process: Process, take: Callable[[str, bytes], None]) -> None:
        self._beat_listeners[host] = (process, take)

    def send_beat(self, sender: str, receiver: str, beat: bytes) -> None:
        weather = self.weather[sender, receiver]
        if weather.cut or self.world.chance(weather.drop):
            return
        self.world.after(self.world.between(*weather.latency_ns), self._deliver_beat, sender, receiver, beat)

    def _deliver_beat(self, sender: str, receiver: str, beat: bytes) -> None:
        if (found := self._beat_listeners.get(receiver)) is not None:
            process, take = found
            process.run(take, (sender, beat))


class Listener(ABC):
    """What a connection needs of the side that was dialled."""

    process: Process

    @abstractmethod
    def accept(self, connection: Connection) -> None: ...

    @abstractmethod
    def lose(self, connection: Connection) -> None: ...


@dataclass(slots=True)
class Pipe:
    """One channel of a connection, one way."""

    sender: Process
    receiver: Process
    weather: Weather
    size_max: int
    #: Hands a message to the receiver's process.
    deliver: Callable[[Frames], None]
    #: Sent and not consumed.
    under_way: int = 0
    #: Sent while there was a cut.
    stuck: deque[Frames] = field(default_factory=deque)
    #: The newest ones, which an echo may repeat.
    sent: deque[Frames] = field(default_factory=lambda: deque(maxlen=3))
    free_at_ns: int = 0
    #: Damage may be anywhere in a message, and not in its payload only.
    sealed: bool = False
    #: Called at the sender's after a message was taken out while somebody waited for room.
    on_room: Callable[[], None] = lambda: None
    is_awaited: bool = False
    #: Messages whose senders wait for room, or for their turn.
    senders: int = 0

    @property
    def has_room(self) -> bool:
        return self.under_way < self.size_max

    def consumed(self) -> None:
        """The receiver took a message out of its inbox."""
        self.under_way -= 1
        if self.is_awaited:
            self.is_awaited = False
            self.sender.schedule(0, self.on_room)


class Connection:
    """Three pipes between the side that dialled and the one that listens."""

    def __init__(
        self,
        network: Network,
        dialler: Process,
        hosts: tuple[str, str],
        listener: Listener,
        on_fall: Callable[[Connection, str], None],
    ) -> None:
        self.network = network
        self.world = network.world
        self.dialler_host, self.listener_host = hosts
        self.peer_id = self.world.between(1, 1 << 40).to_bytes(6, "big")
        self.closed = False
        self._dialler = dialler
        self._listener = listener
        self._on_fall = on_fall
        self._patience = 0
        self.pipes: dict[str, Pipe] = {}

    def add_pipe(self, name: str, pipe: Pipe) -> None:
        self.pipes[name] = pipe

    def send(self, pipe: Pipe, frames: Frames) -> None:
        """The caller has looked whether there is room."""
        world = self.world
        pipe.under_way += 1
        pipe.sent.append(frames)
        weather = pipe.weather
        if weather.drop and world.chance(weather.drop):
            pipe.under_way -= 1
        elif weather.reset and world.chance(weather.reset):
            self.fall("a damaged message broke the connection")
        elif weather.cut:
            pipe.stuck.append(frames)
            self._lose_patience()
        else:
            self._travel(pipe, frames)

    def _travel(self, pipe: Pipe, frames: Frames) -> None:
        world, weather = self.world, pipe.weather
        if weather.flip and world.chance(weather.flip):
            frames = flip_anywhere(world, frames) if pipe.sealed else flip_payload(world, frames)
        at_ns = world.now_ns + world.between(*weather.latency_ns)
        if weather.bytes_per_s:
            at_ns += sum(map(len, frames)) * 1_000_000_000 // weather.bytes_per_s
        # In order: nothing overtakes within a pipe.
        pipe.free_at_ns = at_ns = max(at_ns, pipe.free_at_ns + 1)
        world.put(at_ns - world.now_ns, self._arrive, (pipe, frames))

    def _arrive(self, pipe: Pipe, frames: Frames) -> None:
        if not self.closed:
            pipe.receiver.run(pipe.deliver, (frames,))
        elif pipe.weather.echo:
            self._echo(pipe, frames)

    def _echo(self, pipe: Pipe, frames: Frames) -> None:
        """It was in a buffer when the connection fell: it comes late, perhaps behind those of the next one."""
        delay_ns = self.world.between(NS_PER_MS, 60 * NS_PER_MS)
        for _ in range(self.world.between(0, 2)):
            pipe.receiver.schedule(delay_ns, pipe.deliver, frames)

    def _lose_patience(self) -> None:
        self._patience += 1
        self.world.after(self.world.between(*GIVE_UP_NS), self._give_up, self._patience)

    def _give_up(self, patience: int) -> None:
        if patience == self._patience and any(pipe.weather.cut for pipe in self.pipes.values()):
            self.fall("no answer")

    def settle(self) -> None:
        if any(pipe.weather.cut for pipe in self.pipes.values()):
            self._lose_patience()
            return
        self._patience += 1
        for pipe in self.pipes.values():
            while pipe.stuck:
                self._travel(pipe, pipe.stuck.popleft())

    def starve(self) -> None:
        """The host at one end died: the other end finds out late."""
        self.world.after(self.world.between(*GIVE_UP_NS), self.fall, "no answer")

    def fall(self, reason: str) -> None:
        """Both ends learn of it, each in its own time."""
        if self.closed:
            return
        self.closed = True
        world = self.world
        for pipe in self.pipes.values():
            if pipe.weather.echo:
                for frames in pipe.sent:
                    self._echo(pipe, frames)
        self._dialler.schedule(world.between(0, 5 * NS_PER_MS), self._on_fall, self, reason)
        self._listener.process.schedule(world.between(0, 5 * NS_PER_MS), self._listener.lose, self)


def flip_payload(world: World, frames: Frames) -> Frames:
    """The same message with one bit of its payload turned over; untouched when it has none."""
    return frames if len(frames) < 2 else [frames[0], _flip(world, frames[1])]


def flip_anywhere(world: World, frames: Frames) -> Frames:
    """The same message with one bit of one of its frames turned over."""
    which = world.between(0, len(frames) - 1)
    return [_flip(world, frame) if number == which else frame for number, frame in enumerate(frames)]


def _flip(world: World, frame: bytes | memoryview) -> bytes:
    damaged = bytearray(frame)
    bit = world.between(0, len(damaged) * 8 - 1)
    damaged[bit // 8] ^= 1 << (bit % 8)
    return bytes(damaged)
