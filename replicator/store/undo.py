"""The undo log: what the pages held before parts of an unfinished epoch were applied over them.

A block with the header, then entries of (count, pfns, pages). An entry counts only once the header's length
covers it, and the length is written after the entry and before the pages are overwritten. Each page is saved
at most once an epoch, so the log is bounded by the RAM and rolling it back may be repeated, in any order,
after any crash.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
from array import array
from pathlib import Path
from typing import TYPE_CHECKING

from replicator.errors import StoreError
from replicator.limits import BATCH_PAGES_MAX
from replicator.store import files
from replicator.units import PAGE_SIZE

if TYPE_CHECKING:
    from replicator.memory.pages import GuestRam

_MAGIC = b"RPLUNDO1"
#: magic, term, epoch, bytes of whole entries.
_HEADER = struct.Struct("<8sQQQ")
_LENGTH_OFFSET = _HEADER.size - 8
_COUNT = struct.Struct("<Q")
_ENTRIES_OFFSET = PAGE_SIZE


class UndoLog:
    """The log of one epoch at a time. Owns its file descriptor."""

    def __init__(self, path: Path, pfn_end: int, write_at: files.WriteAt = files.write_at) -> None:
        self._path = path
        self._write_at = write_at
        self._fd = files.open_private(path)
        self._length = 0
        self._pfn_end = pfn_end
        #: One byte a frame: 1 when its page is in the log.
        self._saved = bytearray()
        #: Takes no memory before it is used.
        self._scratch = mmap.mmap(-1, BATCH_PAGES_MAX * PAGE_SIZE)

    def start(self, term: int, epoch: int) -> None:
        """Empty the log and dedicate it to one epoch."""
        self.clear()
        self._saved = bytearray(self._pfn_end)
        self._write_at(self._fd, self._path, _HEADER.pack(_MAGIC, term, epoch, 0), 0)

    def save(self, pfns: array[int], ram: GuestRam) -> None:
        """Log what `ram` holds at `pfns` now, for those not logged yet."""
        new = [pfn for pfn in dict.fromkeys(pfns) if not self._saved[pfn]]
        for start in range(0, len(new), BATCH_PAGES_MAX):
            self._append(array("Q", new[start : start + BATCH_PAGES_MAX]), ram)
        for pfn in new:
            self._saved[pfn] = 1

    def _append(self, pfns: array[int], ram: GuestRam) -> None:
        pages = memoryview(self._scratch)[: len(pfns) * PAGE_SIZE]
        ram.gather(pfns, pages)
        offset = _ENTRIES_OFFSET + self._length
        head = _COUNT.pack(len(pfns)) + pfns.tobytes()
        self._write_at(self._fd, self._path, head, offset)
        self._write_at(self._fd, self._path, pages, offset + len(head))
        self._length += len(head) + len(pages)
        self._write_at(self._fd, self._path, _COUNT.pack(self._length), _LENGTH_OFFSET)

    def roll_back(self, term: int, epoch: int, ram: GuestRam) -> int:
        """Put all logged pages back; return how many. Raises StoreError when the log is not that epoch's."""
        header = files.read_at(self._fd, self._path, _HEADER.size, 0)
        if len(header) < _HEADER.size:
            raise StoreError(f"the undo log {self._path} has no header")
        *owner, length = _HEADER.unpack(header)
        if owner != [_MAGIC, term, epoch]:
            raise StoreError(f"the undo log {self._path} belongs to another epoch")
        position, pages_restored = 0, 0
        while position < length:
            size, count = self._restore_entry(_ENTRIES_OFFSET + position, ram)
            position, pages_restored = position + size, pages_restored + count
        return pages_restored

    def _restore_entry(self, offset: int, ram: GuestRam) -> tuple[int, int]:
        (count,) = _COUNT.unpack(files.read_at(self._fd, self._path, _COUNT.size, offset).ljust(8, b"\0"))
        size = _COUNT.size + count * (8 + PAGE_SIZE)
        if not 0 < count <= BATCH_PAGES_MAX:
            raise StoreError(f"the undo log {self._path} is damaged at {offset}")
        body = files.read_at(self._fd, self._path, size - _COUNT.size, offset + _COUNT.size)
        if len(body) != size - _COUNT.size:
            raise StoreError(f"the undo log {self._path} is shorter than its header says")
        pfns = array("Q", body[: count * 8])
        ram.scatter(pfns, memoryview(body)[count * 8 :])
        return size, count

    def clear(self) -> None:
        """Forget all entries and give their space back."""
        self._saved = bytearray()
        self._length = 0
        os.ftruncate(self._fd, 0)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            with contextlib.suppress(BufferError):  # a traceback still holds a view; it is unmapped with that
                self._scratch.close()
