"""The channel between the relays of a COLO pair over TCP: a `FrameChannel` of `output.frame_channel`.

The secondary listens, the primary dials; each message is sent by the relay's own thread and wakes the other relay's,
with nothing in between. With keys, messages are sealed under the channel's session, which came over the control channel
(`record_seal`). The listener's peer is the connection whose first message opens this session; whoever else connects is
dropped, and once the peer is there nobody is let in any more.

Whoever dials tries again until the channel is open. From then on a connection that falls ends the channel: the
dialler notices at once, a listener by the next thing that it sends.

The one descriptor is that of an epoll with all sockets of this end, for they change while it opens. It is told of as
long as something is to be read, so `receive` need not be called unless it says so, or `has_news` does."""

from __future__ import annotations

import contextlib
import secrets
import select
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from typing import Final

from replicator.errors import ReplicatorError, TransportError, WireError
from replicator.link.base import LinkConfig
from replicator.link.record_seal import SALT_BYTES, RecordSeal
from replicator.link.record_socket import RecordSocket
from replicator.link.sockets import BACKLOG, RECONNECT_MS, check_keys
from replicator.units import NS_PER_MS
from replicator.wire.frames import FrameMessage, FrameNumbers, FramesOpen, OpenFrames
from replicator.wire.lent_line import LentLine, LineBack

#: Connections that have not said who they are; one more takes the place of the oldest.
STRANGERS_MAX: Final = 16
_NOT_OPEN: Final = "the channel is not open"

_Found = tuple[socket.AddressFamily, tuple[str, int]]


class _Channel(ABC):
    """One end. `_line` is the connection that the channel is, once there is one."""

    def __init__(self, config: LinkConfig, session: bytes, *, is_primary: bool) -> None:
        self._secret = None if config.keys is None else session
        self._is_primary = is_primary
        self._numbers = FrameNumbers(session, is_primary=is_primary)
        self._line: RecordSocket | None = None
        self._poll = select.epoll()
        self._polls_for_room = False
        self._closed = False
        self.is_open = False

    @property
    def stale(self) -> int:
        """Messages of other sessions that were dropped."""
        return self._numbers.stale

    def filenos(self) -> tuple[int, ...]:
        return (self._poll.fileno(),)

    def has_news(self) -> bool:
        return self._line is not None and self._line.has_news

    def send(self, message: FrameMessage) -> None:
        if not self.is_open or self._line is None:
            raise TransportError(_NOT_OPEN if not self.is_open else "the other relay is gone")
        self._put(self._line, self._numbers.wrap(message))

    def receive(self) -> FrameMessage | None:
        if self._closed:
            return None
        if not self.is_open:
            return self._meet()
        while self._line is not None:
            try:
                data = self._line.receive()
            except TransportError as error:
                self._lose(error)
                return None
            self._look_for_room(self._line)
            if data is None:
                return None
            if (message := self._numbers.take(data)) is not None:
                return message
        return None

    def lend(self) -> LentLine | None:
        if not self.is_open or self._line is None or (rest := self._line.lend()) is None:
            return None
        return LentLine(self._line.fileno(), self._numbers.session, *self._numbers.counts, rest)

    def take_back(self, line: LineBack) -> None:
        self._numbers.go_on_from(line.sent, line.taken)
        if self._line is not None:
            self._line.take_back(line.rest, line.unsent)
            self._look_for_room(self._line)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self.is_open = False
        self._drop_line()
        self._poll.close()

    @abstractmethod
    def _meet(self) -> FrameMessage | None:
        """Get on with opening the channel; the message that opened it."""

    @abstractmethod
    def _lose(self, error: TransportError) -> None:
        """The open channel's connection ended by itself."""

    def _put(self, line: RecordSocket, data: bytes) -> None:
        line.send(data)
        self._look_for_room(line)

    def _make_line(self, connection: socket.socket) -> RecordSocket:
        seal = None
        if self._secret is not None:
            seal = RecordSeal(self._secret, secrets.token_bytes(SALT_BYTES), is_dialler=self._is_primary)
        return RecordSocket(connection, seal)

    def _look_for_room(self, line: RecordSocket) -> None:
        """Ask for room exactly while something waits for it."""
        if line.wants_room is not self._polls_for_room:
            self._polls_for_room = line.wants_room
            self._poll.modify(line, select.EPOLLIN | (select.EPOLLOUT if line.wants_room else 0))

    def _drop_line(self) -> None:
        line, self._line = self._line, None
        self._polls_for_room = False
        if line is not None:
            self._poll.unregister(line)
            line.close()


class FrameListener(_Channel):
    """The secondary's end. TransportError when the port cannot be bound."""

    def __init__(self, config: LinkConfig, session: bytes, *, port: int = 0) -> None:
        """`port` 0 lets the kernel choose."""
        self._listening = _listen(config.bind_host, port)
        self.port: int = self._listening.getsockname()[1]
        #: Connections that were dropped because they did not open this session.
        self.refused = 0
        #: Those that have not said anything.
        self._strangers: deque[RecordSocket] = deque()
        super().__init__(config, session, is_primary=False)
        self._poll.register(self._listening, select.EPOLLIN)

    def close(self) -> None:
        if not self._closed:
            self._stop_listening()
        super().close()

    def _meet(self) -> FrameMessage | None:
        self._let_in()
        for stranger in tuple(self._strangers):
            if (message := self._hear_stranger(stranger)) is not None:
                self._strangers.remove(stranger)
                self._stop_listening()
                self._line = stranger
                self._put(stranger, self._numbers.wrap(FramesOpen()))
                self.is_open = True
                return message
        return None

    def _let_in(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                self._greet(connection)

    def _greet(self, connection: socket.socket) -> None:
        if len(self._strangers) >= STRANGERS_MAX:
            self._refuse(self._strangers[0])
        try:
            stranger = self._make_line(connection)
        except (OSError, TransportError):
            connection.close()
            return
        self._strangers.append(stranger)
        self._poll.register(stranger, select.EPOLLIN)

    def _hear_stranger(self, stranger: RecordSocket) -> FrameMessage | None:
        """The opening message, if this is it. Whoever says anything else, or goes, is dropped."""
        try:
            if (data := stranger.receive()) is None:
                return None
            message = self._numbers.take(data)
        except (TransportError, WireError):
            message = None
        if message is None:
            self._refuse(stranger)
        return message

    def _refuse(self, stranger: RecordSocket) -> None:
        self.refused += 1
        self._strangers.remove(stranger)
        self._poll.unregister(stranger)
        stranger.close()

    def _stop_listening(self) -> None:
        while self._strangers:
            self._refuse(self._strangers[0])
        if self._listening.fileno() >= 0:
            self._poll.unregister(self._listening)
            self._listening.close()

    def _lose(self, error: TransportError) -> None:
        self._drop_line()


class FrameDialler(_Channel):
    """The primary's end: connects to a `FrameListener`, again and again until that is there."""

    def __init__(
        self, config: LinkConfig, session: bytes, *, host: str, port: int, public_key: str = ""
    ) -> None:
        """`public_key` is the listener's; "" without keys. ConfigError when only one side has keys."""
        check_keys(config, host, public_key)
        self._whereabouts = _Whereabouts(host, port)
        super().__init__(config, session, is_primary=True)
        #: The same for each attempt.
        self._opening = self._numbers.wrap(OpenFrames())
        self._has_asked = False
        self._retry_at_ns = 0

    def has_news(self) -> bool:
        if self._line is None:
            return not self._closed and time.monotonic_ns() >= self._retry_at_ns
        return super().has_news()

    def _meet(self) -> FrameMessage | None:
        if self._line is None and not self.has_news():
            return None
        try:
            return self._try_to_open(self._line or self._dial())
        except (OSError, ReplicatorError):
            # Nobody is there, or nobody who knows this session.
            self._drop_line()
            self._retry_at_ns = time.monotonic_ns() + RECONNECT_MS * NS_PER_MS
            return None

    def _dial(self) -> RecordSocket:
        family, address = self._whereabouts.get()
        connection = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            with contextlib.suppress(BlockingIOError):
                connection.connect(address)
            line = self._make_line(connection)
        except BaseException:
            connection.close()
            raise
        self._has_asked = False
        self._line = line
        self._poll.register(line, select.EPOLLIN)
        return line

    def _try_to_open(self, line: RecordSocket) -> FrameMessage | None:
        data = line.receive()
        if line.is_ready and not self._has_asked:
            self._has_asked = True
            line.send(self._opening)
        self._look_for_room(line)
        message = None if data is None else self._numbers.take(data)
        self.is_open = message is not None
        return message

    def _lose(self, error: TransportError) -> None:
        raise error


class _Whereabouts:
    """The address of `host`. A name is looked up in a thread of its own, for that may take as long as it likes."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._thread: threading.Thread | None = None
        self._found: _Found | None = None
        with contextlib.suppress(TransportError):
            self._found = _find_address(host, port, socket.AI_NUMERICHOST)

    def get(self) -> _Found:
        """TransportError while it is not known; it is looked up meanwhile."""
        if self._found is None:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._look_up, name="frames-address", daemon=True)
                self._thread.start()
            raise TransportError(f"the address of {self._host} is not known yet")
        return self._found

    def _look_up(self) -> None:
        with contextlib.suppress(TransportError):
            self._found = _find_address(self._host, self._port)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, address = _find_address(host, port)
        listening = socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except (OSError, TransportError) as error:
        raise TransportError(
            f"cannot listen for frames on {host} port {port}: {error}",
            hint="another daemon may run here, or the address is not one of this host",
        ) from error
    listening.setblocking(False)
    return listening


def _find_address(host: str, port: int, flags: int = 0) -> _Found:
    # As zeromq for the other channels: a name is one of IPv4.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        *_, address = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, flags=flags)[0]
    except OSError as error:
        raise TransportError(f"{host} is no address for frames: {error.strerror}") from error
    return family, address  # type: ignore[return-value]
