"""A `Link` over the simulated network: the connections a side dials and those it is dialled on, and one inbox for all.

It carries messages and does not read them; delays, losses and breaks are the network's (network.py).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
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
    pack,
    unpack,
)
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


class SimLink(Listener):
    """Implements link.base.Link."""

    def __init__(self, process: Process, network: Network, config: LinkConfig) -> None:
        self.process = process
        self._network = network
        self._host = config.bind_host
        self._peer: PeerAddress | None = None
        self._dialled: Connection | None = None
        self._dial_number = 0
        self._incoming: dict[bytes, Connection] = {}
        self._control: deque[tuple[Pipe | None, LinkEvent]] = deque()
        self._bulk: deque[tuple[Pipe | None, LinkEvent]] = deque()
        self._wake = asyncio.Event()
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
        self._wake.set()

    # The side that dials.

    async def connect(self, peer: PeerAddress) -> None:
        await self.disconnect()
        self._peer = peer
        self._dial_number += 1
        self._redial(self._dial_number)

    async def disconnect(self) -> None:
        self._peer = None
        connection, self._dialled = self._dialled, None
        self._room.set()
        if connection is not None:
            connection.fall("disconnected")

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
        self._dialled = None
        self._room.set()
        self._put_control(None, LinkDown(reason))
        self.process.schedule(self._network.world.between(*REDIAL_NS), self._redial, self._dial_number)

    async def send(self, message: Message, payload: memoryview | bytes | None = None) -> None:
        await self._send("control", pack(message, payload, Channel.CONTROL, reply=False))

    async def send_bulk(self, header: Message, payload: memoryview | bytes | None = None) -> None:
        await self._send("bulk", pack(header, payload, Channel.BULK, reply=False))

    async def _send(self, name: str, frames: Frames) -> None:
        connection = self._dialled
        async with self._turns[name]:
            while connection is not None and not connection.closed and connection is self._dialled:
                if connection.pipes[name].has_room:
                    connection.send(name, frames)
                    return
                self._room.clear()
                await self._room.wait()
        raise TransportError("no connection to the peer")

    # The side that listens.

    def accept(self, connection: Connection) -> None:
        self._incoming[connection.peer_id] = connection

    def lose(self, connection: Connection) -> None:
        if self._incoming.pop(connection.peer_id, None) is not None:
            self._put_control(None, PeerLeft())

    async def reply(self, peer_id: bytes, message: Message) -> None:
        frames = pack(message, None, Channel.CONTROL, reply=True)
        connection = self._incoming.get(peer_id)
        if connection is None or connection.closed:
            raise TransportError("the peer that should get a reply is gone")
        if not connection.pipes["replies"].has_room:
            raise TransportError("the peer does not read its replies")
        connection.send("replies", frames)

    # What comes in.

    def take(self, pipe: Pipe, channel: Channel, peer_id: bytes, reply: bool, frames: Frames) -> None:
        views = [memoryview(frame).toreadonly() for frame in frames]
        event = unpack(channel, peer_id, views, reply=reply)
        if channel is Channel.BULK:
            self._bulk.append((pipe, event))
            self._wake.set()
        else:
            self._put_control(pipe, event)

    def _put_control(self, pipe: Pipe | None, event: LinkEvent) -> None:
        self._control.append((pipe, event))
        self._wake.set()

    async def received(self) -> AsyncIterator[LinkEvent]:
        while not self._closed:
            self._wake.clear()
            inbox = self._control or self._bulk
            if not inbox:
                await self._wake.wait()
                continue
            pipe, event = inbox.popleft()
            if pipe is not None:
                pipe.consumed()
            yield event
            await asyncio.sleep(0)
