"""A link inside one process, for tests and drills: same rules and same bounds as over zeromq, no sockets.

Links of one `MemoryNetwork` find each other by the address that `start` gave them. Messages are encoded and decoded
as on the wire. The network can be cut and mended, which breaks connections as a pulled cable would after the
timeouts ran out.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from itertools import count
from typing import Final, Generic, TypeVar

from replicator.errors import InvariantError, TransportError, require
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
from replicator.link.bulk import BulkDrops, BulkReceiver, BulkSender, Frames
from replicator.link.sealing import BulkKeys, KeyExhausted
from replicator.wire.session import Channel, Message

#: Messages a channel holds before its sender waits.
BULK_MAX: Final = 4
CONTROL_MAX: Final = 64


class MemoryNetwork:
    """Where the links of one process meet."""

    def __init__(self) -> None:
        self._links: dict[tuple[str, int], MemoryLink] = {}
        self._ports = count(1)
        self._cut = False

    def attach(self, host: str, link: MemoryLink) -> int:
        port = next(self._ports)
        self._links[host, port] = link
        return port

    def detach(self, link: MemoryLink) -> None:
        self._links = {place: one for place, one in self._links.items() if one is not link}
        self.settle()

    def find(self, peer: PeerAddress) -> MemoryLink | None:
        """The link that listens there, if it can be reached."""
        return None if self._cut else self._links.get((peer.host, peer.control_port))

    def cut(self) -> None:
        """Break every connection and let none come up."""
        self._cut = True
        self.settle()

    def mend(self) -> None:
        self._cut = False
        self.settle()

    def settle(self) -> None:
        """Break what cannot last and connect what can."""
        for link in list(self._links.values()):
            link.settle()


_T = TypeVar("_T")


class _Pipe(Generic[_T]):
    """One channel of a connection, one way."""

    def __init__(self, size_max: int) -> None:
        self.closed = ""
        self._items: deque[_T] = deque()
        self._size_max = size_max
        self._turn = asyncio.Lock()
        self._changed = asyncio.Event()

    async def put(self, make: Callable[[], _T]) -> None:
        """Made once there is room."""
        async with self._turn:
            while not self.try_put(make):
                self._changed.clear()
                await self._changed.wait()

    def try_put(self, make: Callable[[], _T]) -> bool:
        if self.closed:
            raise TransportError(self.closed)
        if len(self._items) >= self._size_max:
            return False
        self._items.append(make())
        return True

    def take(self) -> _T | None:
        self._changed.set()
        return self._items.popleft() if self._items else None

    def close(self, reason: str) -> None:
        self.closed = reason
        self._changed.set()


class _Connection:
    """Three pipes between the link that dialled and the one that listens."""

    _ids = count(1)

    def __init__(self, dialler: MemoryLink, listener: MemoryLink) -> None:
        self.peer_id = next(self._ids).to_bytes(5, "big")
        self.dialler = dialler
        self.listener = listener
        self.sender = BulkSender(sealed=dialler.sealed)
        self.bulk = _Pipe[Frames](BULK_MAX)
        self.control = _Pipe[LinkEvent](CONTROL_MAX)
        self.replies = _Pipe[LinkEvent](CONTROL_MAX)

    def close(self, reason: str) -> None:
        self.bulk.close(reason)
        self.control.close(reason)
        self.replies.close(reason)


class MemoryLink:
    """A `Link` to others in this process."""

    def __init__(self, config: LinkConfig, network: MemoryNetwork) -> None:
        self._config = config
        self._network = network
        self._bulk = BulkReceiver(sealed=config.sealed)
        self._address: PeerAddress | None = None
        self._peer: PeerAddress | None = None
        self._dialled: _Connection | None = None
        self._incoming: dict[bytes, _Connection] = {}
        #: Connections that ended; what they still hold is delivered, as from a socket's buffer.
        self._ended: list[_Connection] = []
        self._events: deque[LinkEvent] = deque(maxlen=64)
        self._wake = asyncio.Event()
        self._closed = False

    @property
    def address(self) -> PeerAddress:
        if self._address is None:
            raise InvariantError("address before start")
        return self._address

    @property
    def sealed(self) -> bool:
        return self._config.sealed

    @property
    def drops(self) -> BulkDrops:
        """Bulk messages that were not taken."""
        return self._bulk.drops

    async def start(self) -> None:
        port = self._network.attach(self._config.bind_host, self)
        self._address = PeerAddress(self._config.bind_host, port, port, port)
        self._network.settle()

    async def close(self) -> None:
        self._closed = True
        await self.disconnect()
        self._network.detach(self)
        self._wake.set()

    async def connect(self, peer: PeerAddress) -> None:
        self._config.check_secrecy(peer.host)
        await self.disconnect()
        self._peer = peer
        self._network.settle()

    async def disconnect(self) -> None:
        self._peer = None
        if self._dialled is not None:
            self._hang_up("disconnected")

    async def send(self, message: Message, payload: memoryview | bytes | None = None) -> None:
        frames = _views(pack(message, payload, Channel.CONTROL, reply=False))
        connection = self._connection()
        event = unpack(Channel.CONTROL, connection.peer_id, frames, reply=False)
        await connection.control.put(lambda: event)
        connection.listener.wake()

    async def send_bulk(self, header: Message, payload: memoryview | bytes | None = None) -> None:
        frames = pack(header, payload, Channel.BULK, reply=False)
        connection = self._connection()
        connection.sender.check()
        try:
            await connection.bulk.put(lambda: connection.sender.wrap(frames))
        except KeyExhausted as error:
            self._fall(str(error))
            raise
        connection.listener.wake()

    def seal_bulk(self, keys: BulkKeys) -> None:
        self._connection().sender.seal_with(keys)

    def open_bulk(self, keys: BulkKeys) -> None:
        self._bulk.open_with(keys)

    def _connection(self) -> _Connection:
        if self._dialled is None:
            raise TransportError("no connection to the peer")
        return self._dialled

    async def reply(
        self,
        peer_id: bytes,
        message: Message,
        payload: memoryview | bytes | None = None,
        *,
        patience_s: float = 0,
    ) -> None:
        require(peer_id != CONNECTED_PEER, "reply to the peer that we connected to; use send")
        frames = _views(pack(message, payload, Channel.CONTROL, reply=True))
        connection = self._incoming.get(peer_id)
        if connection is None:
            raise TransportError("the peer that should get a reply is gone")
        event = unpack(Channel.CONTROL, CONNECTED_PEER, frames, reply=True)
        try:
            async with asyncio.timeout(patience_s):
                await connection.replies.put(lambda: event)
        except TimeoutError:
            raise TransportError("the peer does not read its replies") from None
        connection.dialler.wake()

    async def received(self) -> AsyncIterator[LinkEvent]:
        while not self._closed:
            self._wake.clear()
            event = self._next()
            if event is None:
                await self._wake.wait()
                continue
            yield event
            await asyncio.sleep(0)

    def wake(self) -> None:
        """Something came in."""
        self._wake.set()

    def settle(self) -> None:
        """Drop a connection that cannot last, make one that can."""
        listener = None if self._peer is None else self._network.find(self._peer)
        if self._dialled is not None and self._dialled.listener is not listener:
            self._fall(f"the connection to {self._dialled.listener.address.host} was lost")
        if self._dialled is None and listener is not None:
            self._dialled = _Connection(self, listener)
            listener.accept(self._dialled)
            self._report(LinkUp())

    def accept(self, connection: _Connection) -> None:
        self._incoming[connection.peer_id] = connection

    def lose(self, connection: _Connection) -> None:
        self._ended.append(self._incoming.pop(connection.peer_id))
        self._report(PeerLeft())

    def _fall(self, reason: str) -> None:
        self._hang_up(reason)
        self._report(LinkDown(reason))

    def _hang_up(self, reason: str) -> None:
        connection, self._dialled = self._dialled, None
        if connection is not None:
            connection.close(reason)
            connection.listener.lose(connection)

    def _next(self) -> LinkEvent | None:
        if self._events:
            return self._events.popleft()
        if self._dialled is not None and (event := self._dialled.replies.take()) is not None:
            return event
        connections = [*self._ended, *self._incoming.values()]
        for connection in connections:
            if (event := connection.control.take()) is not None:
                return event
        for connection in connections:
            while (frames := connection.bulk.take()) is not None:
                if (found := self._bulk.take(_views(frames))) is not None:
                    return found
        self._ended.clear()
        return None

    def _report(self, event: LinkEvent) -> None:
        self._events.append(event)
        self._wake.set()


def _views(frames: Frames) -> list[memoryview]:
    return [memoryview(one).toreadonly() for one in frames]
