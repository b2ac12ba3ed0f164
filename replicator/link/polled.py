"""A zeromq socket on an asyncio loop.

zeromq's descriptor does not say "readable" but "something changed since you last looked", and any call on the socket
may be that look. So after each call of our own the socket's EVENTS are asked again (`poke`); who forgets that waits
for a signal that was already taken.

pyzmq's own asyncio sockets keep a queue of sends that found no room, outside the marks; here a message is either with
zeromq or with its sender, who can still give up. The cost is the same (benchmarks/link.py).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence

import zmq

from replicator.errors import TransportError
from replicator.link.sockets import Socket

Frames = Sequence[bytes | memoryview]


class PolledSocket:
    """Non-blocking receive, and sends that wait for room. Calls `on_readable` when `receive` may have something."""

    def __init__(self, socket: Socket, on_readable: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = socket
        self._on_readable = on_readable
        #: Set while a sender waits for room.
        self._room: asyncio.Future[None] | None = None
        #: Keeps messages of several senders whole and in the order of their calls.
        self._turn = asyncio.Lock()
        self._closed = ""
        self._loop.add_reader(socket.fileno(), self.poke)
        # The change that is announced only once may have come before we listened.
        self._loop.call_soon(self.poke)

    def poke(self) -> None:
        """Look at what changed, and wake whom it concerns."""
        if not self._closed and self._look() and self._room is not None and not self._room.done():
            self._room.set_result(None)

    def _look(self) -> bool:
        """Whether there is room for a message; says so when there is one to read."""
        events = int(self._socket.get(zmq.EVENTS))
        if events & zmq.POLLIN:
            self._on_readable()
        return bool(events & zmq.POLLOUT)

    def receive(self) -> list[memoryview] | None:
        """The frames of the next message, or None: then `on_readable` will be called."""
        if self._closed:
            return None
        try:
            frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            if self._room is not None:
                self.poke()
            return None
        return [frame.buffer for frame in frames]

    async def send(self, make_frames: Callable[[], Frames]) -> None:
        """Send one message when there is room for it, which is then made: messages are made in the order they travel,
        and none whose sender gave up. TransportError when the socket closes before that."""
        frames: Frames | None = None
        async with self._turn:
            while True:
                if frames is None and self._has_room():
                    frames = make_frames()
                # That there was room and is none any more means that the connection falls.
                if frames is not None and self.try_send(frames):
                    return
                await self._wait_for_room()

    def _has_room(self) -> bool:
        if self._closed:
            raise TransportError(self._closed)
        return self._look()

    async def wait_for_room(self, timeout_s: float) -> None:
        """Until a message may find room, at most for so long. With several peers it may be another's room."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._wait_for_room()
        # So whoever tries again and again leaves the loop to others in between.
        await asyncio.sleep(0)

    async def _wait_for_room(self) -> None:
        self._room = self._loop.create_future()
        self.poke()
        try:
            await self._room
        finally:
            self._room = None

    def try_send(self, frames: Frames) -> bool:
        """Send one message if there is room for it now. TransportError when the socket is closed."""
        if self._closed:
            raise TransportError(self._closed)
        try:
            self._socket.send_multipart(frames, zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return False
        self.poke()
        return True

    def close(self, reason: str) -> None:
        """Close the socket; who waits to send gets a TransportError with this reason."""
        if self._closed:
            return
        self._closed = reason
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close(linger=0)
        if self._room is not None and not self._room.done():
            self._room.set_exception(TransportError(reason))
