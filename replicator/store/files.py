"""The replica's files on disk: private, preallocated, and with errors that say what the operator can do.

Space is taken when a file is made and not when a page of it is first touched: on tmpfs a mapped page without
room behind it is SIGBUS, which no caller can handle. Files that only grow are written with pwrite, where a
full file system is an ordinary error.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable
from pathlib import Path

from replicator.errors import StoreError

#: Writes all of the data to the descriptor at the offset; the path is for messages. StoreError when it cannot.
WriteAt = Callable[[int, Path, "bytes | bytearray | memoryview", int], None]

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def store_error(path: Path, action: str, cause: OSError, *, bytes_wanted: int = 0) -> StoreError:
    """Turn `cause` into a StoreError that names the directory and the way out."""
    if cause.errno in _FULL:
        wanted = f" {bytes_wanted / (1 << 20):.1f} MiB more are needed;" if bytes_wanted else ""
        return StoreError(
            f"no space in {path.parent}: cannot {action} {path.name}",
            hint=f"free space in {path.parent}:{wanted} enlarge the file system, lower [epoch] staging_mib, "
            "or configure another state directory",
        )
    return StoreError(
        f"cannot {action} {path}: {os.strerror(cause.errno or 0)}",
        hint=f"check that {path.parent} exists, is writable and belongs to this user",
    )


def make_directory(directory: Path) -> None:
    """Create `directory` (mode 0700) unless it exists. Its parent must exist."""
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
    except OSError as cause:
        raise store_error(directory / ".", "create", cause) from cause


def open_private(path: Path) -> int:
    """Open or create a regular file of ours with mode 0600; refuse links and files of others."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as cause:
        raise store_error(path, "open", cause) from cause
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
        os.close(fd)
        raise StoreError(
            f"{path} is not a regular file of this user",
            hint="remove it or configure another state directory",
        )
    os.fchmod(fd, 0o600)
    return fd


def lock_exclusively(fd: int, path: Path) -> None:
    """Hold `fd` for this process until it is closed; two stores on one directory would tear the replica."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as cause:
        raise StoreError(
            f"the replica in {path.parent} is in use by another process",
            hint="stop the other daemon or configure another state directory",
        ) from cause


def set_size(fd: int, path: Path, size: int) -> None:
    """Give the file exactly `size` bytes, all of them backed by the file system."""
    try:
        if os.fstat(fd).st_size > size:
            os.ftruncate(fd, size)
        if size:
            os.posix_fallocate(fd, 0, size)
    except OSError as cause:
        raise store_error(path, "allocate", cause, bytes_wanted=size) from cause


def write_at(fd: int, path: Path, data: bytes | bytearray | memoryview, offset: int) -> None:
    """Write all of `data`."""
    view = memoryview(data).cast("B")
    try:
        while view:
            written = os.pwrite(fd, view, offset)
            view, offset = view[written:], offset + written
    except OSError as cause:
        raise store_error(path, "write", cause, bytes_wanted=len(view)) from cause


def read_at(fd: int, path: Path, size: int, offset: int) -> bytes:
    """Read up to `size` bytes; fewer only at the end of the file."""
    pieces = []
    try:
        while size and (piece := os.pread(fd, size, offset)):
            pieces.append(piece)
            size, offset = size - len(piece), offset + len(piece)
    except OSError as cause:
        raise store_error(path, "read", cause) from cause
    return b"".join(pieces)


def boot_id() -> bytes:
    """Identity of this boot of the host: files that survive it may have lost what was in the page cache."""
    text = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
    return bytes.fromhex(text.strip().replace("-", ""))
