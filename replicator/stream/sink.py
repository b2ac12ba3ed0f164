"""Where a tool's result goes: standard output, or a file that is there whole or not at all."""

from __future__ import annotations

import fcntl
import os
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from replicator.errors import ConfigError, FileAccessError
from replicator.stream.source import Source
from replicator.wire.layout import Buffer

STDOUT: Final = "-"
#: Bytes of one step of `copy_from`.
_COPY_BYTES: Final = 4 << 20


class Sink:
    """An open output. A file gets its name when `commit` is called, and is gone when it is not.

    FileAccessError when it cannot be written, a full disk included; ConfigError when it is a terminal.
    """

    def __init__(self, name: str) -> None:
        self._is_stdout = name == STDOUT
        if self._is_stdout and sys.stdout.isatty():
            raise ConfigError(
                "a stream is nothing for a terminal", hint="name a file, or pipe it into a command"
            )
        self.name = "standard output" if self._is_stdout else name
        #: `copy_from` works: not to a file that is only appended to, nor to a terminal.
        self.can_copy = True
        self._path = Path(name)
        self._partial = self._path.with_name(f".{self._path.name}.{os.getpid()}.part")
        self._committed = self._is_stdout
        #: Bytes written so far.
        self.size = 0
        try:
            self.fd = sys.stdout.fileno() if self._is_stdout else self._open()
            appends = fcntl.fcntl(self.fd, fcntl.F_GETFL) & os.O_APPEND
            self.can_copy = not appends and not os.isatty(self.fd)
        except OSError as error:
            raise self._failure(error) from error

    def _open(self) -> int:
        # Devices and pipes have no whole or partial state; they are written as they are.
        if self._path.exists() and not self._path.is_file():
            self._committed = True
            return os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
        return os.open(self._partial, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)

    @property
    def can_seek(self) -> bool:
        """Holes can be left in it."""
        return not self._committed

    def write(self, data: Buffer) -> None:
        """Append all of it."""
        left = memoryview(data)
        self.size += len(left)
        try:
            while left:
                left = left[os.write(self.fd, left) :]
        except OSError as error:
            raise self._failure(error) from error

    def copy_from(self, source: Source, size: int) -> int:
        """Append up to `size` bytes of a file, without bringing them here; how many there were."""
        copied = 0
        try:
            while copied < size and (
                moved := os.sendfile(self.fd, source.fd, None, min(size - copied, _COPY_BYTES))
            ):
                copied += moved
        except OSError as error:
            raise self._failure(error) from error
        finally:
            self.size += copied
        return copied

    def skip(self, size: int) -> None:
        """Append zeros, as a hole where that is possible."""
        if not self.can_seek:
            for start in range(0, size, 1 << 20):
                self.write(bytes(min(1 << 20, size - start)))
            return
        self.size += size
        try:
            os.truncate(self.fd, self.size)
            os.lseek(self.fd, self.size, os.SEEK_SET)
        except OSError as error:
            raise self._failure(error) from error

    def commit(self) -> None:
        """The result is whole: give the file its name."""
        if self._committed:
            return
        try:
            os.fsync(self.fd)
            os.replace(self._partial, self._path)
        except OSError as error:
            raise self._failure(error) from error
        self._committed = True

    def close(self) -> None:
        """Close it; what was not committed is gone."""
        if not self._is_stdout:
            os.close(self.fd)
        if not self._committed:
            with suppress(OSError):
                self._partial.unlink()

    def _failure(self, error: OSError) -> FileAccessError:
        if isinstance(error, BrokenPipeError):
            return FileAccessError(f"{self.name}: the reader closed it after {self.size} bytes")
        return FileAccessError(f"cannot write {self.name}: {error.strerror}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
