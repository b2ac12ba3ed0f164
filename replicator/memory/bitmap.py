"""The dirty bitmap: one bit a guest frame, from frame 0 to the highest one, holes of the layout included
(their bits stay clear unless someone sets them).

A bitmap belongs to one thread at a time; calls into the native core release the interpreter lock.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from typing import Any

from replicator._native import ffi, lib
from replicator.errors import InvariantError
from replicator.memory.check import check

#: Bytes of one frame number in a list.
FRAME_BYTES = 8


def pfn_array(pfns: Iterable[int] = ()) -> array[int]:
    """Frames in the form that the native core takes without copying."""
    return array("Q", pfns)


def frames_pointer(pfns: array[int] | memoryview) -> Any:
    """A list of frames as the native core takes it; valid while the result is referenced."""
    if pfns.itemsize != FRAME_BYTES:
        raise InvariantError("a list of frames has 64-bit items")
    return ffi.from_buffer("uint64_t[]", pfns)


class DirtyBitmap:
    """`pages` bits, all clear at first. A frame outside raises NativeError (-ERANGE)."""

    def __init__(self, pages: int) -> None:
        slot = ffi.new("struct rp_bitmap **")
        check(lib.rp_bitmap_create(pages, slot), f"cannot make a dirty bitmap of {pages} pages")
        self._native = ffi.gc(slot[0], lib.rp_bitmap_destroy)
        self.pages = pages

    @property
    def native(self) -> Any:
        """The C object, for other faces of the native core. Lives as long as this bitmap."""
        return self._native

    def set(self, pfn: int) -> None:
        self.set_range(pfn, 1)

    def clear(self, pfn: int) -> None:
        self.clear_range(pfn, 1)

    def set_range(self, first: int, count: int) -> None:
        """Set `count` bits from `first` on, or none of them when some lie outside."""
        check(lib.rp_bitmap_set_range(self._native, first, count), f"pages {first}+{count} of {self.pages}")

    def clear_range(self, first: int, count: int) -> None:
        """Clear `count` bits from `first` on, or none of them when some lie outside."""
        check(lib.rp_bitmap_clear_range(self._native, first, count), f"pages {first}+{count} of {self.pages}")

    def set_pfns(self, pfns: array[int]) -> None:
        """Set every frame of the list, or none of them when one lies outside."""
        code = lib.rp_bitmap_set_list(self._native, frames_pointer(pfns), len(pfns))
        check(code, f"a list of {len(pfns)} pages names one outside of {self.pages}")

    def set_all(self) -> None:
        self.set_range(0, self.pages)

    def clear_all(self) -> None:
        self.clear_range(0, self.pages)

    def test(self, pfn: int) -> bool:
        found = ffi.new("bool *")
        check(lib.rp_bitmap_test(self._native, pfn, found), f"page {pfn} of {self.pages}")
        return bool(found[0])

    def count(self) -> int:
        return int(lib.rp_bitmap_count(self._native))

    def merge(self, other: DirtyBitmap) -> None:
        """Set what is set in `other` as well."""
        check(lib.rp_bitmap_merge(self._native, other._native), self._sizes(other))

    def subtract(self, other: DirtyBitmap) -> None:
        """Clear what is set in `other`."""
        check(lib.rp_bitmap_subtract(self._native, other._native), self._sizes(other))

    def copy(self) -> DirtyBitmap:
        twin = DirtyBitmap(self.pages)
        twin.merge(self)
        return twin

    def next_run(self, start: int) -> tuple[int, int] | None:
        """First frame and length of the first run of set bits at or after `start`, None when there is
        none."""
        first, length = ffi.new("uint64_t *"), ffi.new("uint64_t *")
        lib.rp_bitmap_next_run(self._native, start, first, length)
        return (int(first[0]), int(length[0])) if length[0] else None

    def runs(self) -> Iterator[tuple[int, int]]:
        """All runs of set bits in ascending order. The bitmap must not change meanwhile."""
        run = self.next_run(0)
        while run is not None:
            yield run
            run = self.next_run(run[0] + run[1])

    def pfns(self) -> array[int]:
        """The set frames in ascending order."""
        return self._list(lib.rp_bitmap_list)

    def read_and_clear(self) -> array[int]:
        """The set frames in ascending order; afterwards none is set."""
        return self._list(lib.rp_bitmap_read_and_clear)

    def take(self, limit: int, start: int = 0) -> array[int]:
        """The first `limit` set frames at or after `start`, ascending; afterwards these are clear."""
        pfns = array("Q", bytes(8 * limit))
        found = ffi.new("uint64_t *")
        lib.rp_bitmap_take(
            self._native, start, ffi.from_buffer("uint64_t[]", pfns, require_writable=True), limit, found
        )
        del pfns[found[0] :]
        return pfns

    def words(self) -> memoryview:
        """The bits themselves: 64-bit words in the machine's order, bit n of word w is frame 64 w + n.
        Writable; whoever writes keeps the bits beyond the last frame clear. Valid as long as the bitmap."""
        words = (self.pages + 63) // 64
        return memoryview(ffi.buffer(lib.rp_bitmap_words(self._native), words * 8)).cast("B")

    def _list(self, read: Any) -> array[int]:
        pfns = array("Q", bytes(8 * self.count()))
        found = ffi.new("uint64_t *")
        code = read(
            self._native, ffi.from_buffer("uint64_t[]", pfns, require_writable=True), len(pfns), found
        )
        check(code, "the bitmap changed while it was read")
        return pfns

    def _sizes(self, other: DirtyBitmap) -> str:
        return f"bitmaps of {self.pages} and {other.pages} pages"

    def __len__(self) -> int:
        return self.pages

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DirtyBitmap) and self.pages == other.pages and self.words() == other.words()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"DirtyBitmap({self.count()} of {self.pages})"
