"""Where a tool's stream comes from: a file or a pipe, read in pieces of one reused buffer."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Final, Self

from replicator.errors import FileAccessError

#: Large enough that a piece holds many records, small enough to stay in the cache.
PIECE_BYTES: Final = 1 << 20
STDIN: Final = "-"
#: Bytes of one step of `pass_over`.
_PASS_BYTES: Final = 4 << 20


class Source:
    """An open input. `name` is a path, or "-" for standard input. FileAccessError when it cannot be read."""

    def __init__(self, name: str) -> None:
        self.name = "standard input" if name == STDIN else name
        self._owned = name != STDIN
        # Where passed bytes go; opened when there are some.
        self._nowhere = -1
        try:
            self.fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC) if self._owned else sys.stdin.fileno()
            status = os.fstat(self.fd)
            is_file = stat.S_ISREG(status.st_mode)
            # Somebody may have read a part of standard input before.
            self._start = os.lseek(self.fd, 0, os.SEEK_CUR) if is_file else 0
        except OSError as error:
            raise self._failure(error) from error
        #: None of what has no size beforehand, such as a pipe.
        self.size = max(0, status.st_size - self._start) if is_file else None

    @property
    def is_file(self) -> bool:
        """It can be read again, at any offset."""
        return self.size is not None

    def pieces(
        self, advance: Callable[[int], None] | None = None, size_max: int = PIECE_BYTES
    ) -> Iterator[memoryview]:
        """All bytes from here on. A piece is valid until the next one; `advance` is told the size of each."""
        buffer = memoryview(bytearray(size_max))
        while size := self._read_into(buffer):
            yield buffer[:size]
            if advance is not None:
                advance(size)

    def look_back(self, offset: int, size: int) -> bytes:
        """Bytes of a file, counted from where the reading began; fewer when there are not as many."""
        try:
            return os.pread(self.fd, size, self._start + offset)
        except OSError as error:
            raise self._failure(error) from error

    def pass_over(self, size: int) -> int:
        """Of a file: read up to `size` bytes without looking at them; how many there were. They are not copied,
        but what is not readable is an error all the same."""
        if self._nowhere < 0:
            self._nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        passed = 0
        while passed < size and (moved := self._move(self._nowhere, size - passed)):
            passed += moved
        return passed

    def _move(self, out: int, count: int) -> int:
        try:
            return os.sendfile(out, self.fd, None, min(count, _PASS_BYTES))
        except OSError as error:
            raise self._failure(error) from error

    def _read_into(self, buffer: memoryview) -> int:
        try:
            return os.readv(self.fd, [buffer])
        except OSError as error:
            raise self._failure(error) from error

    def _failure(self, error: OSError) -> FileAccessError:
        return FileAccessError(f"cannot read {self.name}: {error.strerror}")

    def close(self) -> None:
        """Close it, unless it is the process' own standard input."""
        if self._owned:
            os.close(self.fd)
        if self._nowhere >= 0:
            os.close(self._nowhere)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
