"""A connection of TCP that carries messages: each as four bytes of length and the message, sealed where there are keys.

Nothing waits. What the kernel has no room for is kept, within a bound, and sent when there is room; a connection that
takes less is given up. Sealed connections begin with a salt of each side; see `record_seal`. A connection that ended
is a TransportError of whichever call notices, and bytes that are no message a RemoteWireError: in both cases nothing
more is to be had of it. Not thread-safe."""

from __future__ import annotations

import socket
import struct
from collections import deque
from typing import Final

from replicator.errors import RemoteWireError, TransportError
from replicator.limits import FRAMES_MESSAGE_BYTES_MAX, FRAMES_UNSENT_BYTES_MAX
from replicator.link.record_seal import SEAL_BYTES, RecordSeal

_LENGTH: Final = struct.Struct("!I")
_RECORD_BYTES_MAX: Final = FRAMES_MESSAGE_BYTES_MAX + SEAL_BYTES
#: One record and the beginning of the next; a turn of the other relay is far less.
_ROOM_BYTES: Final = 2 * (_LENGTH.size + _RECORD_BYTES_MAX)
#: A peer that acknowledges nothing for so long is gone.
_STALLED_MS: Final = 15_000
_NO_ROOM: Final = "the other relay does not take its frames"


class RecordSocket:
    """Takes `connection`, which may still be connecting."""

    def __init__(self, connection: socket.socket, seal: RecordSeal | None = None) -> None:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _STALLED_MS)
        self._socket = connection
        self._seal = seal
        self._inbox: deque[bytes] = deque()
        #: What came in behind the last whole record lies at the beginning.
        self._room = memoryview(bytearray(_ROOM_BYTES))
        self._filled = 0
        #: It was not looked at yet.
        self._is_uncut = False
        #: The kernel had nothing more when it was asked last.
        self._is_read_empty = False
        self._unsent = bytearray()
        if seal is not None:
            self._put(seal.salt)

    @property
    def is_ready(self) -> bool:
        """Messages may be sent."""
        return self._seal is None or self._seal.is_agreed

    @property
    def has_news(self) -> bool:
        """Something has come in that no descriptor tells of."""
        return bool(self._inbox) or self._is_uncut

    @property
    def wants_room(self) -> bool:
        """To be polled for writing too; then `receive`, which sends what is left."""
        return bool(self._unsent)

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, message: bytes) -> None:
        """TransportError also when the other side is too far behind."""
        self._put(message if self._seal is None else self._seal.seal(message))

    def receive(self) -> bytes | None:
        """The next message. None when there is none until the descriptor is readable."""
        if self._unsent:
            self._send_rest()
        if self._is_uncut:
            self._is_uncut = False
            self._split(self._filled)
        if not self._inbox and not self._is_read_empty:
            self._read()
        if self._inbox:
            return self._inbox.popleft()
        self._is_read_empty = False
        return None

    def lend(self) -> bytes | None:
        """For others to use the connection until `take_back`: what came in by it and is no whole message. None while
        it can't be, or is sealed."""
        if self._seal is not None or self._inbox or self._unsent or self._is_uncut:
            return None
        return bytes(self._room[: self._filled])

    def take_back(self, rest: bytes | memoryview, unsent: bytes | memoryview) -> None:
        """What came in and was not taken, perhaps whole messages, and what the kernel had no room for. TransportError
        when that is too much."""
        self._room[: len(rest)] = rest
        self._filled = len(rest)
        self._is_uncut = bool(rest)
        if unsent:
            self._keep(bytes(unsent))

    def close(self) -> None:
        """May be repeated."""
        self._socket.close()

    def _put(self, record: bytes) -> None:
        data = _LENGTH.pack(len(record)) + record
        if self._unsent:
            self._keep(data)
            return
        sent = self._send_now(data)
        if sent < len(data):
            self._keep(data[sent:])

    def _keep(self, data: bytes) -> None:
        if len(self._unsent) + len(data) > FRAMES_UNSENT_BYTES_MAX:
            raise TransportError(_NO_ROOM)
        self._unsent += data

    def _send_rest(self) -> None:
        del self._unsent[: self._send_now(self._unsent)]

    def _send_now(self, data: bytes | bytearray) -> int:
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise TransportError(f"the other relay is gone: {error.strerror}") from error

    def _read(self) -> None:
        room = self._room[self._filled :]
        try:
            size = self._socket.recv_into(room)
        except BlockingIOError:
            return
        except OSError as error:
            raise TransportError(f"the connection to the other relay was lost: {error.strerror}") from error
        if not size:
            raise TransportError("the connection to the other relay was lost: it ended")
        self._is_read_empty = size < len(room)
        self._split(self._filled + size)

    def _split(self, end: int) -> None:
        """Take the whole records out of the first `end` bytes of the room."""
        room, at = self._room, 0
        while end - at >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(room, at)
            if size > _RECORD_BYTES_MAX:
                raise RemoteWireError(f"a record of {size} bytes is larger than {_RECORD_BYTES_MAX}")
            begin = at + _LENGTH.size
            if end - begin < size:
                break
            at = begin + size
            self._take(bytes(room[begin:at]))
        self._filled = end - at
        if at and self._filled:
            room[: self._filled] = bytes(room[at:end])

    def _take(self, record: bytes) -> None:
        if self._seal is None:
            self._inbox.append(record)
        elif self._seal.is_agreed:
            self._inbox.append(self._seal.open(record))
        else:
            self._seal.agree(record)
