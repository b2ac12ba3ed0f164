"""A channel inside one process, for tests and simulations: the same messages, the same bounds, no sockets."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from replicator.errors import InvariantError, TransportError, WireError
from replicator.wire.frames import FrameMessage, FrameNumbers, FramesOpen, OpenFrames
from replicator.wire.lent_line import LentLine, LineBack

#: Messages that wait in one direction.
WAITING_MAX: Final = 512

#: Takes an encoded message and what delivers it, and calls that now, later or never.
Carry = Callable[[bytes, Callable[[bytes], None]], None]


def _carry_at_once(data: bytes, deliver: Callable[[bytes], None]) -> None:
    deliver(data)


class MemoryFrameChannel:
    """One end. `on_news` is called when something has come in."""

    def __init__(self, session: bytes, *, is_primary: bool, carry: Carry = _carry_at_once) -> None:
        self._numbers = FrameNumbers(session, is_primary=is_primary)
        self._is_primary = is_primary
        self._carry = carry
        self._peer: MemoryFrameChannel | None = None
        self._inbox: deque[bytes] = deque()
        self._overrun = False
        self._was_cut = False
        self._closed = False
        self.is_open = False
        self.on_news: Callable[[], None] = lambda: None

    def meet(self, peer: MemoryFrameChannel) -> None:
        """Each end of both; the primary's end then opens the channel."""
        self._peer = peer
        if self._is_primary:
            self._put(OpenFrames())

    def send(self, message: FrameMessage) -> None:
        if not self.is_open:
            raise TransportError("the channel is not open")
        self._put(message)

    def receive(self) -> FrameMessage | None:
        while not self._closed:
            if self._overrun:
                raise TransportError("the other relay sends more than this one takes")
            if not self._inbox:
                if self._was_cut and self.is_open:
                    raise TransportError("the connection to the other relay was lost")
                return None
            message = self._take(self._inbox.popleft())
            if message is None:
                continue
            if isinstance(message, OpenFrames | FramesOpen):
                self.is_open = True
                if not self._is_primary:
                    self._put(FramesOpen())
            return message
        return None

    def has_news(self) -> bool:
        return bool(self._inbox) or self._was_cut

    def filenos(self) -> tuple[int, ...]:
        return ()

    def lend(self) -> LentLine | None:
        return None

    def take_back(self, line: LineBack) -> None:
        raise InvariantError("a channel in memory has no connection to lend")

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self.is_open = False
        self._inbox.clear()
        if self._peer is not None:
            self._peer.cut()

    def cut(self) -> None:
        """The other end is closed; as over TCP, only who dialled notices."""
        if self._is_primary and not self._closed:
            self._was_cut = True
            self.on_news()

    def deliver(self, data: bytes) -> None:
        """Something came in from the other end."""
        if self._closed:
            return
        if len(self._inbox) >= WAITING_MAX:
            self._overrun = True
            return
        self._inbox.append(data)
        self.on_news()

    def _put(self, message: FrameMessage) -> None:
        data = self._numbers.wrap(message)
        if self._peer is not None:
            self._carry(data, self._peer.deliver)

    def _take(self, data: bytes) -> FrameMessage | None:
        try:
            return self._numbers.take(data)
        except WireError:
            if self.is_open:
                raise
            # As of a stranger: it is not known yet who the peer is.
            return None


def make_memory_pair(
    session: bytes, *, carry: Carry = _carry_at_once
) -> tuple[MemoryFrameChannel, MemoryFrameChannel]:
    """The primary's and the secondary's end."""
    ends = tuple(MemoryFrameChannel(session, is_primary=which, carry=carry) for which in (True, False))
    ends[1].meet(ends[0])
    ends[0].meet(ends[1])
    return ends[0], ends[1]
