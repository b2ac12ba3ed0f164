"""Staging of the primary: where the pages of an epoch wait between the pause in which they are copied and the
moment the link has sent them.

One buffer, mapped and touched at start so that the pause never pays for a page fault, cut into slots of one
full PAGE_DATA record each. `copy_pages` moves frames out of a dirty bitmap into free slots; a part stays
untouched until it is released, because a link that sends without copying still reads it. When no slot is
free the bitmap keeps the rest: the caller sends, releases, and calls again, so an epoch may be larger than
staging.

Rule: a bit is cleared if and only if its page is in a returned part.
"""

from __future__ import annotations

import mmap
from array import array

from replicator.errors import require
from replicator.limits import BATCH_PAGES_MAX
from replicator.memory.bitmap import DirtyBitmap
from replicator.memory.pages import GuestRam
from replicator.units import PAGE_SIZE
from replicator.wire.recording import page_data_header, page_data_header_bytes

#: A record of one page: the least that `bytes_max` must allow.
RECORD_BYTES_MIN = page_data_header_bytes(1) + PAGE_SIZE
#: A full record, which is also the largest part.
RECORD_BYTES_MAX = page_data_header_bytes(BATCH_PAGES_MAX) + BATCH_PAGES_MAX * PAGE_SIZE
#: Distance of two slots: whole pages, so that no two parts share one.
SLOT_BYTES = -(-RECORD_BYTES_MAX // PAGE_SIZE) * PAGE_SIZE


class StagingBuffer:
    """At most `capacity_bytes` of memory, at least one slot. Belongs to one thread at a time."""

    def __init__(self, capacity_bytes: int) -> None:
        require(capacity_bytes >= SLOT_BYTES, f"staging needs at least {SLOT_BYTES} bytes")
        slots = capacity_bytes // SLOT_BYTES
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
        self._memory = memoryview(mmap.mmap(-1, slots * SLOT_BYTES, flags=flags))
        #: Last in, first out: the slot that was used last is the one that the caches know.
        self._free = [slot * SLOT_BYTES for slot in reversed(range(slots))]
        #: By identity: the part, kept so that its identity stays its own, and its slot.
        self._held: dict[int, tuple[memoryview, int]] = {}
        self.capacity_bytes = slots * SLOT_BYTES

    @property
    def free_bytes(self) -> int:
        """Room for new parts; 0 means that something must be released first."""
        return len(self._free) * SLOT_BYTES

    @property
    def held_parts(self) -> int:
        """Parts that were returned and not released."""
        return len(self._held)

    def copy_pages(
        self, ram: GuestRam, bitmap: DirtyBitmap, *, bytes_max: int | None = None
    ) -> list[memoryview]:
        """Copy set frames, ascending, until none is set, staging is full or another page would exceed
        `bytes_max` bytes. Each part is one whole PAGE_DATA record, read-only, the caller's until `release`.

        NativeError (-ERANGE) when a frame is no RAM: then the bitmap is as it was
        and nothing is held by this call."""
        left = self.capacity_bytes if bytes_max is None else bytes_max
        parts: list[memoryview] = []
        taken: list[array[int]] = []
        start = 0
        try:
            while self._free and (pages := min(_pages_that_fit(left), BATCH_PAGES_MAX)):
                pfns = bitmap.take(pages, start)
                if not pfns:
                    break
                taken.append(pfns)
                parts.append(self._fill(ram, pfns))
                left -= len(parts[-1])
                start = pfns[-1] + 1
        except BaseException:
            self._take_back(bitmap, parts, taken)
            raise
        return parts

    def release(self, part: memoryview) -> None:
        """The part was sent, or is not wanted: its memory may be written again. `part` is the very object
        that `copy_pages` returned."""
        held, slot = self._held.pop(id(part), (None, -1))
        require(held is part, "released a part that is not held")
        self._free.append(slot)

    def _fill(self, ram: GuestRam, pfns: array[int]) -> memoryview:
        """One PAGE_DATA record in the next free slot."""
        header = page_data_header(pfns)
        slot = self._free[-1]
        end = len(header) + len(pfns) * PAGE_SIZE
        record = self._memory[slot : slot + end]
        record[: len(header)] = header
        ram.gather(pfns, record[len(header) :])
        part = record.toreadonly()
        self._held[id(part)] = (part, self._free.pop())
        return part

    def _take_back(self, bitmap: DirtyBitmap, parts: list[memoryview], taken: list[array[int]]) -> None:
        for pfns in taken:
            bitmap.set_pfns(pfns)
        for part in parts:
            self.release(part)


def _pages_that_fit(size: int) -> int:
    """Pages of the largest record of at most `size` bytes."""
    return max(0, size - page_data_header_bytes(0)) // (RECORD_BYTES_MIN - page_data_header_bytes(0))
