"""The channel between the relays of a COLO pair over TCP: a `FrameChannel` of `output.frame_channel`.

The secondary listens (ROUTER), the primary dials (DEALER), each with a context of its own, so that nothing but this
channel's frames goes through its I/O thread. With keys there is CURVE, as for heartbeats, and only allowed keys come
in. The listener's peer is the connection whose first message opens this session; whatever others send is dropped.

zeromq makes a lost connection anew without a word, which would lose messages in between: so the dialler ends the
channel when its connection falls, and what comes over another connection than the peer's is nobody's. A listener whose
peer fell silent sends into nothing, which is an error, or nothing, and then heartbeats tell.

Not thread-safe: whoever uses it does so under one lock. Descriptors announce changes only once, and any call may take
note of them, so `has_news` is to be asked before waiting."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final

import zmq
from zmq.utils.monitor import parse_monitor_message

from replicator.errors import TransportError, WireError
from replicator.link.base import LinkConfig
from replicator.link.sockets import (
    Context,
    Gatekeeper,
    Socket,
    bound_port,
    dial_for_frames,
    listen_for_frames,
    make_context,
)
from replicator.wire.frames import FrameMessage, FrameNumbers, FramesOpen, OpenFrames

# Plain numbers: an operation of flags takes as long as a call.
_NOBLOCK: Final = int(zmq.NOBLOCK)
_MORE_NOBLOCK: Final = int(zmq.SNDMORE | zmq.NOBLOCK)
_POLLIN: Final = int(zmq.POLLIN)
_POLLOUT: Final = int(zmq.POLLOUT)
_NO_ROOM: Final = "the other relay does not take its frames"


class _Channel(ABC):
    """One end with its socket."""

    def __init__(self, context: Context, socket: Socket, numbers: FrameNumbers) -> None:
        self._context = context
        self._socket = socket
        self._numbers = numbers
        self._closed = False
        self.is_open = False

    @property
    def stale(self) -> int:
        """Messages of other sessions that were dropped."""
        return self._numbers.stale

    def filenos(self) -> tuple[int, ...]:
        return (self._socket.fileno(),)

    def has_news(self) -> bool:
        return not self._closed and _has(self._socket, _POLLIN)

    def send(self, message: FrameMessage) -> None:
        if not self.is_open:
            raise TransportError("the channel is not open")
        self._put(message)

    def receive(self) -> FrameMessage | None:
        while not self._closed:
            # To ask first is cheaper than an exception.
            if not self.has_news():
                self._look_around()
                return None
            try:
                frames = self._socket.recv_multipart(_NOBLOCK)
            except zmq.ZMQError as error:
                raise TransportError(f"the channel cannot be read: {error.strerror}") from error
            if (message := self._take(frames)) is not None:
                return message
        return None

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.is_open = False
            self._context.destroy(linger=0)

    def _put(self, message: FrameMessage) -> None:
        data = self._numbers.wrap(message)
        try:
            self._send_to_peer(data)
        except zmq.Again as error:
            raise TransportError(_NO_ROOM) from error
        except zmq.ZMQError as error:
            raise TransportError(f"the other relay is gone: {error.strerror}") from error

    def _send_to_peer(self, data: bytes) -> None:
        self._socket.send(data, _NOBLOCK)

    @abstractmethod
    def _take(self, frames: list[bytes]) -> FrameMessage | None:
        """The message in what came in, if it is one for this end."""

    @abstractmethod
    def _look_around(self) -> None:
        """See to what is not a message."""


class FrameListener(_Channel):
    """The secondary's end. TransportError when the port cannot be bound."""

    def __init__(
        self,
        config: LinkConfig,
        session: bytes,
        *,
        port: int = 0,
        on_refused: Callable[[str, str], None] = lambda _address, _key: None,
    ) -> None:
        """`port` 0 lets the kernel choose. `on_refused(address, key)` hears of who was not let in."""
        context = make_context()
        try:
            self._gatekeeper = None if config.keys is None else Gatekeeper(context, config.keys, on_refused)
            socket = listen_for_frames(context, config, port)
        except BaseException:
            context.destroy(linger=0)
            raise
        self.port = bound_port(socket)
        #: The connection that the channel is.
        self._peer: bytes | None = None
        #: Messages of strangers.
        self.refused = 0
        super().__init__(context, socket, FrameNumbers(session, is_primary=False))

    def filenos(self) -> tuple[int, ...]:
        fds = super().filenos()
        return fds if self._gatekeeper is None else (*fds, self._gatekeeper.socket.fileno())

    def _send_to_peer(self, data: bytes) -> None:
        self._socket.send(self._peer or b"", _MORE_NOBLOCK)
        self._socket.send(data, _NOBLOCK)

    def _take(self, frames: list[bytes]) -> FrameMessage | None:
        sender, *rest = frames
        if len(rest) != 1 or self._peer not in (None, sender):
            self.refused += 1
            return None
        try:
            message = self._numbers.take(rest[0])
        except WireError:
            if self._peer is not None:
                raise
            self.refused += 1
            return None
        if isinstance(message, OpenFrames):
            self._peer = sender
            self._put(FramesOpen())
            self.is_open = True
        return message

    def _look_around(self) -> None:
        keeper = self._gatekeeper
        if keeper is not None and _has(keeper.socket, _POLLIN):
            keeper.answer()


class FrameDialler(_Channel):
    """The primary's end: connects to a `FrameListener`, and opens the channel when that is there."""

    def __init__(
        self, config: LinkConfig, session: bytes, *, host: str, port: int, public_key: str = ""
    ) -> None:
        """`public_key` is the listener's; "" without keys. ConfigError when only one side has keys."""
        context = make_context()
        try:
            socket = dial_for_frames(context, config, host, port, public_key)
        except BaseException:
            context.destroy(linger=0)
            raise
        self._monitor: Socket = socket.get_monitor_socket(zmq.Event.DISCONNECTED)
        self._has_asked = False
        super().__init__(context, socket, FrameNumbers(session, is_primary=True))

    def filenos(self) -> tuple[int, ...]:
        return (*super().filenos(), self._monitor.fileno())

    def close(self) -> None:
        if not self._closed:
            # Before the receiver of its events goes.
            self._socket.disable_monitor()
        super().close()

    def _take(self, frames: list[bytes]) -> FrameMessage | None:
        if len(frames) != 1:
            raise TransportError(f"a message of {len(frames)} pieces came from the other relay")
        message = self._numbers.take(frames[0])
        if isinstance(message, FramesOpen):
            self.is_open = True
        return message

    def _look_around(self) -> None:
        # What was cut before there was an answer to ask for was only an attempt.
        if self._was_cut() and self._has_asked:
            raise TransportError("the connection to the other relay was lost")
        if not self._has_asked and _has(self._socket, _POLLOUT):
            self._has_asked = True
            self._put(OpenFrames())

    def _was_cut(self) -> bool:
        cut = False
        while _has(self._monitor, _POLLIN):
            event = parse_monitor_message(self._monitor.recv_multipart(_NOBLOCK))["event"]
            cut = cut or event == zmq.Event.DISCONNECTED
        return cut


def _has(socket: Socket, event: int) -> bool:
    return bool(int(socket.get(zmq.EVENTS)) & event)
