"""A `Link` over the simulated network: the connections a side dials and those it is dialled on, and one inbox for all.

It carries messages and does not read them; delays, losses and breaks are the network's (network.py). A sealed one seals
and opens as the real link does, and shows what is sealed and opened under which key to the audit (sealing.py).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Generator
from functools import partial

from replicator.errors import TransportError
from replicator.link.base import (
    CONNECTED_PEER,
    LinkConfig,
    LinkDown,
    LinkEvent,
    LinkUp,
    PeerAddress,
    PeerLeft,
    Received,
    pack,
    unpack,
)
from replicator.link.bulk import BulkReceiver, BulkSender
from replicator.link.sealing import BulkKeys
from replicator.sim.network import (
    BULK_MAX,
    CONTROL_MAX,
    REDIAL_NS,
    Connection,
    Frames,
    Listener,
    Network,
    Pipe,
)
from replicator.sim.process import Process
from replicator.wire.session import Channel, Message


class _OthersTurn:
    """To be awaited: as `asyncio.sleep(0)`, with less ado."""

    def __await__(self) -> Generator[None, None, None]:
        yield


_OTHERS_TURN = _OthersTurn()


class SimLink(Listener):
    """Implements link.base.Link."""

    def __init__(self, process: Process, network: Network, config: LinkConfig) -> None:
        self.process = process
        self._network = network
        self._host = config.bind_host
        self.sealed = network.sealed
        self._receiver = BulkReceiver(sealed=self.sealed)
        self._sender = BulkSender(sealed=self.sealed)
        #: Of the newest agreement: the keys for what is sent, and for what comes in.
        self._sealing: BulkKeys | None = None
        self._opening: BulkKeys | None = None
        self._peer: PeerAddress | None = None
        self._dialled: Connection | None = None
        self._dial_number = 0
        self._incoming: dict[bytes, Connection] = {}
        self._control: deque[tuple[Pipe | None, LinkEvent | None]] = deque()
        self._bulk: deque[tuple[Pipe, list[memoryview]]] = deque()
        #: Of who waits in `received`.
        self._reader: asyncio.Future[None] | None = None
        self._room = asyncio.Event()
        self._turns = {"bulk": asyncio.Lock(), "control": asyncio.Lock()}
        self._closed = False

    @property
    def address(self) -> PeerAddress:
        return PeerAddress(self._host, 1, 2, 3)

    async def start(self) -> None:
        self._network.listen(self._host, self)

    async def close(self) -> None:
        self._closed = True
        await self.disconnect()
        self._network.unlisten(self._host, self)
        self._wake()

    # The side that dials.

    async def connect(self, peer: PeerAddress) -> None:
        await self.disconnect()
        self._peer = peer
        self._dial_number += 1
        self._redial(self._dial_number)

    async def disconnect(self) -> None:
        self._peer = None
        connection = self._hang_up()
        if connection is not None:
            connection.fall("disconnected")

    def _hang_up(self) -> Connection | None:
        connection, self._dialled = self._dialled, None
        self._sender, self._sealing = BulkSender(sealed=self.sealed), None
        self._room.set()
        return connection

    def _redial(self, number: int) -> None:
        if self._closed or self._peer is None or number != self._dial_number or self._dialled is not None:
            return
        listener = self._network.find(self._host, self._peer.host)
        if listener is None:
            self.process.schedule(self._network.world.between(*REDIAL_NS), self._redial, number)
            return
        self._dialled = self._open(listener, self._peer.host)
        self._put_control(None, LinkUp())

    def _open(self, listener: Listener, peer: str) -> Connection:
        network, weather = self._network, self._network.weather
        connection = Connection(network, self.process, (self._host, peer), listener, self._on_fall)
        there, back = weather[self._host, peer], weather[peer, self._host]
        if not isinstance(listener, SimLink):
            raise TransportError("nobody of ours listens there")
        for name, channel, size_max in (
            ("bulk", Channel.BULK, BULK_MAX),
            ("control", Channel.CONTROL, CONTROL_MAX),
        ):
            peer_id = connection.peer_id if channel is Channel.CONTROL else b""
            pipe = Pipe(self.process, listener.process, there, size_max, lambda _: None)
            pipe.sealed = self.sealed and channel is Channel.BULK
            pipe.deliver = partial(listener.take, pipe, channel, peer_id, False)
            pipe.on_room = self._room.set
            connection.add_pipe(name, pipe)
        replies = Pipe(listener.process, self.process, back, CONTROL_MAX, lambda _: None)
        replies.deliver = partial(self.take, replies, Channel.CONTROL, CONNECTED_PEER, True)
        connection.add_pipe("replies", replies)
        network.add(connection)
        listener.process.schedule(0, listener.accept, connection)
        return connection

    def _on_fall(self, connection: Connection, reason: str) -> None:
        if self._dialled is not connection:
            return
        self._hang_up()
        self._put_control(None, LinkDown(reason))
        self.process.schedule(self._network.world.between(*REDIAL_NS), self._redial, self._dial_number)

    async def send(self, message: Message, payload: memoryview | bytes | None = None) -> None:
        await self._send("control", pack(message, payload, Channel.CONTROL, reply=False))

    async def send_bulk(self, header: Message, payload: memoryview | bytes | None = None) -> None:
        frames = pack(header, payload, Channel.BULK, reply=False)
        self._sender.check()
        await self._send("bulk", frames)

    def _wrap(self, frames: Frames) -> Frames:
        wrapped = self._sender.wrap(frames)
        if self._sealing is not None:
            self._network.audit.note_sealed(self._sealing, wrapped)
        return wrapped

    def seal_bulk(self, keys: BulkKeys) -> None:
        if self._dialled is None:
            raise TransportError("no connection to the peer")
        self._sender.seal_with(keys)
        self._sealing = keys

    def open_bulk(self, keys: BulkKeys) -> None:
        self._receiver.open_with(keys)
        self._opening = keys

    async def _send(self, name: str, frames: Frames) -> None:
        """One after the other, in the order of the calls."""
        connection = self._dialled
        if connection is None:
            raise TransportError("no connection to the peer")
        pipe = connection.pipes[name]
        if pipe.senders or connection.closed or not pipe.has_room:
            pipe.senders += 1
            try:
                await self._wait_for_room(connection, name)
            finally:
                pipe.senders -= 1
        connection.send(pipe, self._wrap(frames) if name == "bulk" else frames)

    async def _wait_for_room(self, connection: Connection, name: str) -> None:
        pipe = connection.pipes[name]
        async with self._turns[name]:
            while not connection.closed and connection is self._dialled:
                if pipe.has_room:
                    return
                pipe.is_awaited = True
                self._room.clear()
                await self._room.wait()
        raise TransportError("no connection to the peer")

    # The side that listens.

    def accept(self, connection: Connection) -> None:
        self._incoming[connection.peer_id] = connection

    def lose(self, connection: Connection) -> None:
        if self._incoming.pop(connection.peer_id, None) is not None:
            self._put_control(None, PeerLeft())

    async def reply(
        self,
        peer_id: bytes,
        message: Message,
        payload: memoryview | bytes | None = None,
        *,
        patience_s: float = 0,
    ) -> None:
        frames = pack(message, payload, Channel.CONTROL, reply=True)
        connection = self._incoming.get(peer_id)
        if connection is None or connection.closed:
            raise TransportError("the peer that should get a reply is gone")
        replies = connection.pipes["replies"]
        if not replies.has_room:
            raise TransportError("the peer does not read its replies")
        connection.send(replies, frames)

    # What comes in.

    def take(self, pipe: Pipe, channel: Channel, peer_id: bytes, reply: bool, frames: Frames) -> None:
        views = [memoryview(frame).toreadonly() for frame in frames]
        if channel is Channel.CONTROL:
            self._put_control(pipe, unpack(channel, peer_id, views, reply=reply))
        else:
            self._bulk.append((pipe, views))
            self._wake()

    def _put_control(self, pipe: Pipe | None, event: LinkEvent) -> None:
        self._control.append((pipe, event))
        self._wake()

    def _wake(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None and not reader.done():
            reader.set_result(None)

    async def received(self) -> AsyncIterator[LinkEvent]:
        while not self._closed:
            if self._control:
                pipe, event = self._control.popleft()
            elif self._bulk:
                pipe, views = self._bulk.popleft()
                event = self._open_bulk(views)
            else:
                self._reader = asyncio.get_running_loop().create_future()
                await self._reader
                continue
            if pipe is not None:
                pipe.consumed()
            if event is not None:
                yield event
            await _OTHERS_TURN

    def _open_bulk(self, views: list[memoryview]) -> LinkEvent | None:
        """As on a socket, a message is opened when it is read: keys that come before it count."""
        event = self._receiver.take(views)
        if self._opening is not None and isinstance(event, Received):
            self._network.audit.note_opened(self._opening, views)
        return event
