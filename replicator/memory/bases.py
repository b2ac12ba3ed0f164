"""Bases: the versions of pages that were sent last, which the far end has in its RAM.

A `BaseCache` holds as many of them as it was made for; all its memory is mapped at the start. It is used in two
phases. Threads that encode pages only look versions up, so any number may do so at the same time. What was sent is
stored afterwards by `update`, while nobody encodes.

When the cache is full the clock's hand looks for a version to give up: it passes over those that were updated since
it passed last. So pages that are written again and again stay, and a walk over the whole RAM does not drive them out.
"""

from __future__ import annotations

from array import array
from typing import Any, NamedTuple

from replicator._native import ffi, lib
from replicator.errors import require
from replicator.memory.bitmap import frames_pointer
from replicator.memory.check import check
from replicator.memory.pages import Buffer
from replicator.units import PAGE_SIZE


class BaseCounts(NamedTuple):
    """Sizes in pages; hits, misses and evictions since the cache was made."""

    capacity: int
    held: int
    #: Pages given to `update` of which an older version was held, and of which none was.
    hits: int
    misses: int
    #: Versions that gave way to one of another frame.
    evictions: int

    @property
    def held_bytes(self) -> int:
        return self.held * PAGE_SIZE


class BaseCache:
    """Up to `capacity` versions, of frames below `pfn_limit`. NativeError when the numbers make no sense
    (-EINVAL) or there is no memory for it (-ENOMEM)."""

    def __init__(self, capacity: int, pfn_limit: int) -> None:
        require(capacity >= 0 and pfn_limit >= 0, "a base cache of a negative size")
        slot = ffi.new("struct rp_bases **")
        code = lib.rp_bases_create(capacity, pfn_limit, slot)
        check(code, f"cannot make a cache of {capacity} pages of {pfn_limit} frames")
        self._native = ffi.gc(slot[0], lib.rp_bases_destroy)
        self._pfn_limit = pfn_limit

    @property
    def native(self) -> Any:
        """The C object, for other faces of the native core. Lives until `close`."""
        require(self._native is not None, "base cache used after it was closed")
        return self._native

    def lookup(self, pfn: int) -> bytes | None:
        """A copy of the version that is held."""
        page = lib.rp_bases_find(self.native, pfn)
        return None if page == ffi.NULL else bytes(ffi.buffer(page, PAGE_SIZE))

    def update(self, pfns: array[int], body: Buffer) -> None:
        """Hold these versions from now on. Nobody encodes meanwhile. NativeError (-ERANGE) and nothing is held when
        a frame is beyond the limit."""
        require(len(body) == len(pfns) * PAGE_SIZE, "update: body and frame list differ in size")
        pages = ffi.from_buffer("uint8_t[]", body)
        code = lib.rp_bases_update(self.native, frames_pointer(pfns), len(pfns), pages)
        check(code, f"a base of a frame beyond {self._pfn_limit:#x}")

    def drop(self, pfns: array[int]) -> None:
        """Forget the versions of these frames, as far as there are any."""
        lib.rp_bases_drop(self.native, frames_pointer(pfns), len(pfns))

    def drop_all(self) -> None:
        """Forget all; takes no longer for a large cache."""
        lib.rp_bases_drop_all(self.native)

    def counts(self) -> BaseCounts:
        counts = ffi.new("struct rp_bases_counts *")
        lib.rp_bases_count(self.native, counts)
        return BaseCounts(counts.capacity, counts.held, counts.hits, counts.misses, counts.evictions)

    def close(self) -> None:
        """Give the memory back. May be repeated."""
        if self._native is not None:
            ffi.release(self._native)
            self._native = None
