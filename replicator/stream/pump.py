"""Moves bytes from a source through a converter into the standard input of a child: a thread, since each step blocks.

One thread does both, reading and converting: while the converter works nothing is read, and while the reader waits
there is nothing to convert. It never blocks in a read or a write, only in a poll that an abort wakes: the source is
read once it is readable, the sink is a pipe that does not block. So an abort takes as long as the converter works on
one piece. (A source that others read as well may still block the read; a disk that hangs always does.)

The converter has finished when the child has taken every byte, not when the pipe has: a child that ends without
looking at the rest did not have the whole stream. The kernel does not tell when a pipe is empty, so the last bytes
are watched in short steps.
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import termios
import threading
import time
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from replicator.engine.teardown import End, Part, PartEnded
from replicator.errors import FileAccessError, ReceiverError

Buffer = bytes | bytearray | memoryview

_PIECE_BYTES: Final = 1 << 20
#: Between two looks whether the child has taken the last bytes.
_STEP_MIN_MS: Final = 1
_STEP_MAX_MS: Final = 20


class Converter(Protocol):
    """Bytes in, bytes out. What it hands out is valid until the next step, as is what it is given."""

    @property
    def done(self) -> bool:
        """The stream has ended: input behind it is not wanted."""
        ...

    def feed(self, piece: memoryview) -> Iterable[Buffer]:
        """Convert `piece`. It may be overwritten once the last buffer was taken."""
        ...

    def finish(self) -> Iterable[Buffer]:
        """The input has ended, or is `done`. Raises if the stream has not."""
        ...


class _Aborted(Exception):
    pass


class _InputClosed(Exception):
    """Nobody reads the sink any more."""


class Pump:
    """Reader and converter of a feeding. Reads a duplicate of `source_fd`; `sink_fd` is a pipe that does not block
    and stays the caller's.

    `progress` is called after each piece with the bytes read so far, in the pump's thread. ReceiverError ends the
    converter when the child took nothing for `stall_s` while bytes were waiting for it."""

    def __init__(
        self,
        source_fd: int,
        sink_fd: int,
        converter: Converter,
        *,
        stall_s: float | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self._source = _duplicate(source_fd)
        self._sink = sink_fd
        self._converter = converter
        self._stall_s = stall_s
        self._progress = progress or _ignore
        #: Readable from the first abort on.
        self._wake = os.eventfd(0)
        self._buffer = memoryview(bytearray(_PIECE_BYTES))
        self._reading = True
        self._report: Callable[[PartEnded], None] = _ignore
        self._thread = threading.Thread(target=self._run, name="feeding", daemon=True)
        self.bytes_read = 0
        self.bytes_written = 0

    # For the owner.

    def start(self, report: Callable[[PartEnded], None]) -> None:
        """Begin. `report` is told the end of each of the two parts, in the pump's thread."""
        self._report = report
        self._thread.start()

    def abort(self) -> None:
        """End both parts as soon as possible. May be repeated."""
        os.eventfd_write(self._wake, 1)

    def close_source(self) -> None:
        """Once the reader has ended. May be repeated."""
        if self._source >= 0:
            os.close(self._source)
            self._source = -1

    def close(self) -> None:
        """End the thread if it still runs, give the descriptors back."""
        self.abort()
        if self._thread.ident is not None:
            self._thread.join()
        self.close_source()
        os.close(self._wake)

    # In the thread.

    def _run(self) -> None:
        end, error = self._convert()
        self._report(PartEnded(Part.CONVERTER, end, error))
        if self._reading:
            # Nobody is left to read for; its abort is on the way.
            self._end_reading(End.ABORTED)

    def _convert(self) -> tuple[End, Exception | None]:
        try:
            while not self._converter.done and (piece := self._read_piece()):
                self._write_all(self._converter.feed(piece))
            self._write_all(self._converter.finish())
            self._wait_until_taken()
        except _Aborted:
            return End.ABORTED, None
        except _InputClosed:
            taken = self.bytes_written - self._unread()
            return End.REFUSED, ReceiverError(f"the receiver closed its input after {taken} bytes")
        except Exception as error:
            return End.FAILED, error
        return End.WELL, None

    # Reader.

    def _read_piece(self) -> memoryview:
        """The next piece; empty at the end of the input, which is reported from here, as is an error."""
        self._wait_for_input()
        try:
            count = os.readv(self._source, [self._buffer])
        except OSError as error:
            self._end_reading(End.FAILED, FileAccessError(f"cannot read the input: {error.strerror}"))
            raise _Aborted from error
        if not count:
            self._end_reading(End.WELL)
        self.bytes_read += count
        self._progress(self.bytes_read)
        return self._buffer[:count]

    def _end_reading(self, end: End, error: Exception | None = None) -> None:
        self._reading = False
        self._report(PartEnded(Part.READER, end, error))

    def _wait_for_input(self) -> None:
        # No events of the sink are asked for: it shows up when its other end is closed.
        ready = self._poll({self._source: select.POLLIN, self._sink: 0})
        if self._source not in ready:
            # Whatever the source says one day, the converter needs it and the child would refuse it.
            raise _InputClosed

    # Converter.

    def _write_all(self, buffers: Iterable[Buffer]) -> None:
        for buffer in buffers:
            rest = memoryview(buffer).cast("B")
            while rest:
                rest = rest[self._write(rest) :]

    def _write(self, data: memoryview) -> int:
        """Write what the pipe takes of `data`; wait if that is nothing."""
        try:
            count = os.write(self._sink, data)
        except BlockingIOError:
            self._wait_for_room()
            return 0
        except BrokenPipeError:
            raise _InputClosed from None
        self.bytes_written += count
        return count

    def _wait_for_room(self) -> None:
        patience = _Patience(self._stall_s, self._unread())
        while not self._poll({self._sink: select.POLLOUT}, patience.left_ms()):
            patience.note(self._unread())

    def _wait_until_taken(self) -> None:
        patience, step_ms = _Patience(self._stall_s, self._unread()), _STEP_MIN_MS
        while unread := self._unread():
            patience.note(unread)
            self._watch_last_bytes(step_ms)
            step_ms = min(2 * step_ms, _STEP_MAX_MS)

    def _watch_last_bytes(self, timeout_ms: int) -> None:
        """Raises only if bytes are left: a child that took all may end, and that may abort us."""
        try:
            closed = self._poll({self._sink: 0}, timeout_ms)
        except _Aborted:
            if self._unread():
                raise
            return
        if closed and self._unread():
            raise _InputClosed

    def _unread(self) -> int:
        """Bytes in the pipe."""
        size: int = struct.unpack("i", fcntl.ioctl(self._sink, termios.FIONREAD, bytes(4)))[0]
        return size

    def _poll(self, events: dict[int, int], timeout_ms: float | None = None) -> set[int]:
        """Wait for one of the descriptors; an abort goes before all of them."""
        poll = select.poll()
        for fd, mask in {**events, self._wake: select.POLLIN}.items():
            poll.register(fd, mask)
        ready = {fd for fd, _ in poll.poll(timeout_ms)}
        if self._wake in ready:
            raise _Aborted
        return ready


class _Patience:
    """Knows for how long the child has taken nothing of what waits in the pipe."""

    def __init__(self, stall_s: float | None, unread: int) -> None:
        self._stall_s = stall_s
        self._unread = unread
        self._since_s = time.monotonic()

    def left_ms(self) -> float | None:
        """Time until `note` is due, None for ever."""
        if self._stall_s is None:
            return None
        return max(0.0, (self._since_s + self._stall_s - time.monotonic()) * 1000)

    def note(self, unread: int) -> None:
        """Raises ReceiverError when too long ago anything was taken."""
        if unread != self._unread:
            self._unread, self._since_s = unread, time.monotonic()
        elif self._stall_s is not None and time.monotonic() - self._since_s >= self._stall_s:
            raise ReceiverError(f"the receiver took nothing for {self._stall_s:g} s")


def _duplicate(fd: int) -> int:
    try:
        return os.dup(fd)
    except OSError as error:
        raise FileAccessError(f"cannot read the input: {error.strerror}") from error


def _ignore(_: object) -> None:
    pass
