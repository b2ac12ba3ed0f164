"""A copy of the replica's RAM in a file of its own, made while epochs go on being applied.

As a live migration: the pages are copied in rounds, each round those that were written during the one before. What
is copied while it is written may be torn; it is marked as written then and copied again. Only the last round needs a
replica that stands still. This file does not know when a replica is whole, nor what stands still: service/copying.py
does.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

from replicator.errors import StoreError
from replicator.memory.bitmap import DirtyBitmap
from replicator.store import files
from replicator.store.replica_ram import ReplicaRam
from replicator.units import PAGE_SIZE

#: Copied without a look at whether it is to stop: a fraction of a millisecond.
_SLICE_BYTES = 1 << 20
MEMINFO = Path("/proc/meminfo")


def available_bytes(meminfo: Path = MEMINFO) -> int:
    """Memory that can be had without swapping (MemAvailable)."""
    for line in meminfo.read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) << 10
    return 0


def check_room(directory: Path, file_bytes: int, beside_bytes: int) -> None:
    """StoreError, with the figures, unless `directory` has room for files of `file_bytes` and the host has memory for
    them (they may lie on a tmpfs) and for `beside_bytes` more."""
    found = os.statvfs(directory)
    for what, needed, there in (
        (f"{directory}", file_bytes, found.f_bavail * found.f_frsize),
        ("this host's memory", file_bytes + beside_bytes, available_bytes()),
    ):
        if there < needed:
            raise StoreError(
                f"no room for a copy of the guest in {what}: {needed} bytes are needed, {there} are available",
                hint="free some; the replica itself was not touched",
            )


class RamCopy:
    """The file at `path`, which must not exist. `take` and `close` belong to whoever applies epochs; `copy` may run in
    another thread meanwhile. One copy of a replica at a time."""

    def __init__(self, ram: ReplicaRam, path: Path) -> None:
        self._ram = ram
        self._path = path
        self._stopping = threading.Event()
        ram.begin_marking()
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            os.ftruncate(self._fd, os.fstat(ram.fd).st_size)
            #: Our own: a take-over closes the replica's while a round may be under way.
            self._source_fd = os.dup(ram.fd)
        except OSError as error:
            ram.end_marking()
            raise files.store_error(path, "create", error) from error

    def take(self) -> DirtyBitmap:
        """The pages written since the last call; at first, all."""
        return self._ram.take_marked()

    def copy(self, pages: DirtyBitmap) -> int:
        """Copy these pages as they are now; returns how many bytes. StoreError when there is no room."""
        copied = 0
        for first, count in pages.runs():
            for offset, size in self._places(first, count):
                copied += self._copy_range(offset, size)
        return copied

    def close(self) -> None:
        """Stop a `copy` that is under way, and mark pages no more. May be repeated."""
        self._stopping.set()
        if self._fd >= 0:
            self._ram.end_marking()

    def close_file(self) -> None:
        """After the last `copy` has returned."""
        if self._fd >= 0:
            os.close(self._source_fd)
            os.close(self._fd)
            self._fd = -1

    def _places(self, first: int, count: int) -> list[tuple[int, int]]:
        """Where a run of frames lies in the RAM file: offsets and sizes."""
        places = []
        for segment in self._ram.layout.segments:
            start = max(first, segment.first_pfn)
            end = min(first + count, segment.first_pfn + segment.pages)
            if start < end:
                file_page = segment.file_page + start - segment.first_pfn
                places.append((file_page * PAGE_SIZE, (end - start) * PAGE_SIZE))
        return places

    def _copy_range(self, offset: int, size: int) -> int:
        position, end = offset, offset + size
        while position < end and not self._stopping.is_set():
            wanted = min(_SLICE_BYTES, end - position)
            try:
                done = os.copy_file_range(self._source_fd, self._fd, wanted, position, position)
            except OSError as error:
                raise files.store_error(self._path, "write", error, bytes_wanted=end - position) from error
            if not done:
                raise StoreError(f"{self._path}: the replica's RAM file ends at {position}")
            position += done
        return position - offset
