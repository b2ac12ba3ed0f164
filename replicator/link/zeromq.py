"""The link over zeromq: PULL and ROUTER that listen, PUSH and DEALER towards a peer while we are its primary.

`received` reads straight from the sockets, so nothing is queued in Python: a consumer that stops reading stops the
network at the sockets' high-water marks. Control is asked before bulk at each step.

A connection is both channels or nothing. When one of them fails, `_Dialled` closes both and makes new sockets after
a moment; so no message of an old connection can follow in a new one on this side, and on the other side an older
session id gives it away. Heartbeats have sockets of their own (heartbeat.py).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Final

import zmq

from replicator.errors import InvariantError, TransportError, require
from replicator.limits import PART_BYTES_MAX
from replicator.link.base import (
    CONNECTED_PEER,
    BadMessage,
    LinkConfig,
    LinkDown,
    LinkEvent,
    LinkRefused,
    LinkUp,
    PeerAddress,
    PeerRefused,
    Received,
    pack,
    unpack,
)
from replicator.link.buffers import BufferPool
from replicator.link.bulk import BulkDrops, BulkReceiver, BulkSender
from replicator.link.monitor import Monitor, PeerWatch, why_dial_failed
from replicator.link.polled import PolledSocket
from replicator.link.sealing import TAG_BYTES, BulkKeys, KeyExhausted
from replicator.link.sockets import (
    RECONNECT_MS,
    Context,
    Gatekeeper,
    bound_port,
    dial,
    endpoint_of,
    listen,
    make_context,
)
from replicator.wire.session import Channel, Message

#: After a refusal, which will not change by itself.
REFUSED_RETRY_MS: Final = 1_000
#: Events (not messages) kept for the consumer; beyond that the oldest is lost.
EVENTS_MAX: Final = 64
_CHANNELS: Final = (Channel.CONTROL, Channel.BULK)


class ZmqLink:
    """A `Link` over TCP. See base.py for what it promises."""

    def __init__(self, config: LinkConfig) -> None:
        self._config = config
        self._context = make_context()
        self._gatekeeper: PolledSocket | None = None
        self._bound: dict[Channel, PolledSocket] = {}
        self._watches: list[PeerWatch] = []
        self._address: PeerAddress | None = None
        self._dialled: _Dialled | None = None
        self._bulk = BulkReceiver(sealed=config.sealed)
        self._loop = asyncio.get_running_loop()
        self._events: deque[LinkEvent] = deque(maxlen=EVENTS_MAX)
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
        try:
            self._listen()
        except TransportError:
            await self.close()
            raise

    def _listen(self) -> None:
        config = self._config
        if config.keys is not None:
            keeper = Gatekeeper(self._context, config.keys, self._report_key)
            self._gatekeeper = PolledSocket(keeper.socket, keeper.answer)
        ports = {Channel.CONTROL: config.control_port, Channel.BULK: config.bulk_port}
        for channel, port in ports.items():
            socket = listen(self._context, config, channel, port)
            ports[channel] = bound_port(socket)
            self._bound[channel] = PolledSocket(socket, self._wake.set)
            self._watches.append(PeerWatch(socket, channel, self._report))
        self._address = PeerAddress(
            config.bind_host,
            ports[Channel.BULK],
            ports[Channel.CONTROL],
            config.heartbeat_port,
            config.keys.public if config.keys else "",
        )

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        await self.disconnect()
        for watch in self._watches:
            watch.close()
        for socket in self._bound.values():
            socket.close("the link is closed")
        if self._gatekeeper is not None:
            self._gatekeeper.close("the link is closed")
        self._context.term()
        self._wake.set()

    async def connect(self, peer: PeerAddress) -> None:
        await self.disconnect()
        self._dialled = _Dialled(self._context, self._config, peer, self._wake.set, self._report)

    async def disconnect(self) -> None:
        if self._dialled is not None:
            self._dialled.close("disconnected")
            self._dialled = None

    async def send(self, message: Message, payload: memoryview | bytes | None = None) -> None:
        frames = pack(message, payload, Channel.CONTROL, reply=False)
        await self._connection().socket(Channel.CONTROL).send(lambda: frames)

    async def send_bulk(self, header: Message, payload: memoryview | bytes | None = None) -> None:
        frames = pack(header, payload, Channel.BULK, reply=False)
        await self._connection().send_bulk(frames)

    def seal_bulk(self, keys: BulkKeys) -> None:
        self._connection().seal_bulk(keys)

    def open_bulk(self, keys: BulkKeys) -> None:
        self._bulk.open_with(keys)

    def _connection(self) -> _Dialled:
        if self._dialled is None:
            raise TransportError("not connected to a peer")
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
        frames = pack(message, payload, Channel.CONTROL, reply=True)
        socket, give_up_at = self._bound[Channel.CONTROL], self._loop.time() + patience_s
        while not self._try_reply(socket, [peer_id, *frames]):
            if self._loop.time() >= give_up_at:
                raise TransportError("the peer does not read its replies")
            await socket.wait_for_room(give_up_at - self._loop.time())

    def _try_reply(self, socket: PolledSocket, frames: Sequence[bytes | memoryview]) -> bool:
        try:
            return socket.try_send(frames)
        except zmq.ZMQError as error:
            raise TransportError(f"the peer that should get a reply is gone: {error.strerror}") from error

    async def received(self) -> AsyncIterator[LinkEvent]:
        while not self._closed:
            self._wake.clear()
            event = self._next()
            if event is None:
                await self._wake.wait()
                continue
            yield event
            # A peer that floods us always has something ready; let others have the loop in between.
            await asyncio.sleep(0)

    def _next(self) -> LinkEvent | None:
        if self._events:
            return self._events.popleft()
        return self._next_reply() or self._next_control() or self._next_bulk()

    def _next_reply(self) -> Received | BadMessage | None:
        if self._dialled is None or not self._dialled.up:
            return None
        frames = self._dialled.socket(Channel.CONTROL).receive()
        return None if frames is None else unpack(Channel.CONTROL, CONNECTED_PEER, frames, reply=True)

    def _next_control(self) -> Received | BadMessage | None:
        frames = self._bound[Channel.CONTROL].receive()
        if frames is None:
            return None
        # ROUTER puts the identity of the connection in front.
        return unpack(Channel.CONTROL, bytes(frames[0]), frames[1:], reply=False)

    def _next_bulk(self) -> Received | BadMessage | None:
        frames = self._bound[Channel.BULK].receive()
        if frames is None:
            return None
        found = self._bulk.take(frames)
        if found is None:
            # There may be more; but whoever has sent what we drop does not get the loop for himself.
            self._loop.call_soon(self._wake.set)
        return found

    def _report(self, event: LinkEvent) -> None:
        if not (self._events and self._events[-1] == event):
            self._events.append(event)
        self._wake.set()

    def _report_key(self, address: str, key: str) -> None:
        if key:
            reason = f"{address} connected with the key {key}, which is not allowed"
            hint = "if that is the peer, name its .key file in [keys] allow here, and restart"
            self._report(PeerRefused(Channel.CONTROL, reason, hint))
        else:
            reason = f"{address} connected for bulk, where no allowed key has come from"
            self._report(PeerRefused(Channel.BULK, reason, "something else may use this port"))


class _Dialled:
    """The connection to one peer: both channels up, or being made again."""

    def __init__(
        self,
        context: Context,
        config: LinkConfig,
        peer: PeerAddress,
        on_readable: Callable[[], None],
        report: Callable[[LinkEvent], None],
    ) -> None:
        self._context = context
        self._config = config
        self._peer = peer
        self._on_readable = on_readable
        self._report = report
        self._loop = asyncio.get_running_loop()
        self._sockets: dict[Channel, PolledSocket] = {}
        self._monitors: list[Monitor] = []
        self._ready: set[Channel] = set()
        self._buffers = BufferPool(PART_BYTES_MAX + TAG_BYTES)
        self._bulk = self._make_sender()
        self._retry: asyncio.TimerHandle | None = None
        #: What was reported last, so that a lasting refusal is reported once.
        self._refused: LinkRefused | None = None
        self._open()

    @property
    def up(self) -> bool:
        return len(self._ready) == len(_CHANNELS)

    def socket(self, channel: Channel) -> PolledSocket:
        """The channel's socket. TransportError while the connection is not up."""
        if not self.up:
            raise TransportError(f"no connection to {self._peer.host}")
        return self._sockets[channel]

    def seal_bulk(self, keys: BulkKeys) -> None:
        """For as long as this connection stands. TransportError when it does not."""
        self.socket(Channel.BULK)
        self._bulk.seal_with(keys)

    async def send_bulk(self, frames: Sequence[bytes | memoryview]) -> None:
        sender = self._bulk
        sender.check()
        try:
            await self.socket(Channel.BULK).send(lambda: sender.wrap(frames))
        except KeyExhausted as error:
            self._fall(str(error), RECONNECT_MS)
            raise

    def _make_sender(self) -> BulkSender:
        return BulkSender(sealed=self._config.sealed, take_buffer=self._buffers.take)

    def close(self, reason: str) -> None:
        if self._retry is not None:
            self._retry.cancel()
        self._close_sockets(reason)

    def _open(self) -> None:
        """Control first: where bulk is sealed, the peer lets it in once our key has come from this address."""
        self._retry = None
        self._dial(Channel.CONTROL)

    def _dial(self, channel: Channel) -> None:
        socket = dial(self._context, self._config, channel, self._peer)
        self._monitors.append(Monitor(socket, partial(self._on_event, channel, socket)))
        self._sockets[channel] = PolledSocket(socket, self._on_readable)
        socket.connect(endpoint_of(channel, self._peer))

    def _close_sockets(self, reason: str) -> None:
        self._ready.clear()
        self._bulk = self._make_sender()
        for monitor in self._monitors:
            monitor.close()
        for socket in self._sockets.values():
            socket.close(reason)
        self._monitors.clear()
        self._sockets.clear()

    def _on_event(self, channel: Channel, socket: object, event: zmq.Event, value: int) -> None:
        if event is zmq.Event.HANDSHAKE_SUCCEEDED:
            self._ready.add(channel)
            if channel is Channel.CONTROL:
                self._dial(Channel.BULK)
            else:
                self._refused = None
                self._report(LinkUp())
            return
        refused = why_dial_failed(event, value)
        reason = f"the {channel.value} connection to {self._peer.host} was lost"
        if refused is not None and refused != self._refused and not self.up:
            self._refused = refused
            self._report(refused)
        self._fall(refused.reason if refused else reason, REFUSED_RETRY_MS if refused else RECONNECT_MS)

    def _fall(self, reason: str, delay_ms: int) -> None:
        """Begin anew, with new sockets."""
        if self.up:
            self._report(LinkDown(reason))
        self._close_sockets(reason)
        self._retry = self._loop.call_later(delay_ms / 1000, self._open)
