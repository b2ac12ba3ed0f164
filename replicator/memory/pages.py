"""Guest RAM: where each frame lives in the RAM file, and copies of whole pages out of it and into it.

A pfn is the guest's frame number, not an offset in the file: a PC has a hole below 4 GiB, so frames above
it live at lower file pages. Only `GuestLayout` knows the difference.

Copies are made by the native core with the interpreter lock released. Of a paused guest they are exact. Of
a running guest a page may change under the copy; the tracker then reports it again, so what was sent is
replaced before it counts. What this process writes goes through its own mapping: trackers of the guest
process do not report it.
"""

from __future__ import annotations

import errno
import mmap
import os
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from replicator._native import ffi, lib
from replicator.errors import GuestError, InvariantError, NativeError, require
from replicator.limits import PFN_MAX
from replicator.memory.bitmap import DirtyBitmap, frames_pointer, pfn_array
from replicator.memory.check import check
from replicator.units import PAGE_SIZE

#: What the native core reads from or writes to.
Buffer = bytes | bytearray | memoryview | mmap.mmap


class Segment(NamedTuple):
    """Frames [first_pfn, first_pfn + pages) live in the RAM file from page `file_page` on."""

    first_pfn: int
    file_page: int
    pages: int


class GuestLayout:
    """Where each frame lives in the RAM file. Segments (first_pfn, file_page, pages) ascend by frame and by
    file page and do not overlap; NativeError (-EINVAL) otherwise."""

    def __init__(self, segments: Iterable[tuple[int, int, int]]) -> None:
        self.segments = tuple(Segment(*segment) for segment in segments)
        table = ffi.new("struct rp_segment[]", [_check_segment(segment) for segment in self.segments])
        slot = ffi.new("struct rp_layout **")
        code = lib.rp_layout_create(table, len(self.segments), slot)
        check(code, "guest layout with empty, overlapping, descending or too many segments")
        self._native = ffi.gc(slot[0], lib.rp_layout_destroy)
        #: Pages of RAM, holes not counted.
        self.pages = sum(segment.pages for segment in self.segments)
        #: One more than the highest frame: the size that a dirty bitmap of this guest has.
        self.pfn_limit = int(lib.rp_layout_pfn_limit(self._native))
        #: Least size of the RAM file.
        self.file_bytes = int(lib.rp_layout_file_pages(self._native)) * PAGE_SIZE

    @classmethod
    def flat(cls, pages: int) -> GuestLayout:
        """RAM without a hole: frame n is file page n."""
        return cls([Segment(0, 0, pages)])

    @classmethod
    def with_hole(cls, pages: int, *, low_pages: int, high_pfn: int) -> GuestLayout:
        """The first `low_pages` from frame 0 on, the rest (if any) from `high_pfn` on."""
        if pages <= low_pages:
            return cls.flat(pages)
        return cls([Segment(0, 0, low_pages), Segment(high_pfn, low_pages, pages - low_pages)])

    @property
    def native(self) -> Any:
        """The C object, for other faces of the native core. Lives as long as this layout."""
        return self._native

    def file_page(self, pfn: int) -> int:
        """The page of the RAM file that holds this frame. NativeError (-ERANGE) when the frame is no RAM."""
        found = ffi.new("uint64_t *")
        check(lib.rp_layout_find(self._native, pfn, found), f"frame {pfn:#x} is no RAM of this guest")
        return int(found[0])

    def new_bitmap(self) -> DirtyBitmap:
        """A clear bitmap of the right size."""
        return DirtyBitmap(self.pfn_limit)

    def mark_all(self, bitmap: DirtyBitmap) -> None:
        """Set every frame that is RAM."""
        for segment in self.segments:
            bitmap.set_range(segment.first_pfn, segment.pages)

    def pfns(self) -> array[int]:
        """Every frame that is RAM, ascending."""
        return pfn_array(pfn for s in self.segments for pfn in range(s.first_pfn, s.first_pfn + s.pages))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GuestLayout) and self.segments == other.segments

    def __hash__(self) -> int:
        return hash(self.segments)

    def __repr__(self) -> str:
        return f"GuestLayout({list(self.segments)})"


def _check_segment(segment: Segment) -> Segment:
    if not all(0 <= field <= PFN_MAX for field in segment):
        raise NativeError(f"{segment} lies beyond the largest guest", code=-errno.ERANGE)
    return segment


class GuestRam:
    """The RAM file of a guest, mapped shared. `source` is a path or a descriptor (which stays the caller's).

    Raises GuestError when the file is shorter than the layout, OSError when it cannot be opened."""

    def __init__(
        self, source: int | str | os.PathLike[str], layout: GuestLayout, *, writable: bool = True
    ) -> None:
        self.layout = layout
        self.writable = writable
        self.fd = _own_descriptor(source, writable)
        try:
            self._native = ffi.gc(self._map(source), lib.rp_ram_destroy)
        except BaseException:
            os.close(self.fd)
            raise

    def _map(self, source: object) -> Any:
        size = os.fstat(self.fd).st_size
        if size < self.layout.file_bytes:
            raise GuestError(f"RAM file {source} has {size} bytes, the layout needs {self.layout.file_bytes}")
        slot = ffi.new("struct rp_ram **")
        code = lib.rp_ram_create(self.fd, self.layout.native, self.writable, slot)
        check(code, f"cannot map RAM file {source}")
        return slot[0]

    @property
    def is_open(self) -> bool:
        """False once it is unmapped."""
        return self._native is not None

    @property
    def native(self) -> Any:
        """The C object, for other faces of the native core. Lives until `close`."""
        native = self._native
        if native is None:
            raise InvariantError("guest RAM used after it was closed")
        return native

    def reserve(self) -> None:
        """Give the file all its blocks now, so that a full /dev/shm is an OSError (ENOSPC) here and not a
        SIGBUS in the middle of a copy. Content stays."""
        os.posix_fallocate(self.fd, 0, self.layout.file_bytes)

    def check_frames(self, pfns: array[int]) -> None:
        """NativeError (-ERANGE) when one of the frames is no RAM."""
        index = ffi.new("uint64_t *")
        self._check(lib.rp_ram_check(self.native, frames_pointer(pfns), len(pfns), index), pfns)

    def gather(self, pfns: array[int], out: Buffer) -> None:
        """Copy the pages, in the order of `pfns`, to the start of `out`. All frames are checked first."""
        require(len(out) >= len(pfns) * PAGE_SIZE, "gather: the buffer is too small")
        body = ffi.from_buffer("uint8_t[]", out, require_writable=True)
        self._check(lib.rp_ram_gather(self.native, frames_pointer(pfns), len(pfns), body), pfns)

    def scatter(self, pfns: array[int], data: Buffer) -> None:
        """Copy the pages of `data` to the frames. NativeError (-ERANGE) before the first byte when one is
        no RAM."""
        require(self.writable, "scatter into read-only guest RAM")
        require(len(data) == len(pfns) * PAGE_SIZE, "scatter: body and frame list differ in size")
        body = ffi.from_buffer("uint8_t[]", data)
        self._check(lib.rp_ram_scatter(self.native, frames_pointer(pfns), len(pfns), body), pfns)

    def find_absent(self) -> DirtyBitmap:
        """The frames whose pages the file does not hold, and which read as zeros therefore; none where the file system
        cannot tell. A page that is written meanwhile may be among them or not."""
        absent = self.layout.new_bitmap()
        code = lib.rp_ram_find_absent(self.native, self.fd, absent.native)
        return absent if code == 0 else self.layout.new_bitmap()

    def gather_present(self, pfns: array[int], out: Buffer, absent: DirtyBitmap) -> None:
        """The same as `gather`, without a look at pages of `absent`: they are zeros."""
        require(len(out) >= len(pfns) * PAGE_SIZE, "gather: the buffer is too small")
        require(absent.pages == self.layout.pfn_limit, "gather: a bitmap of another guest")
        body = ffi.from_buffer("uint8_t[]", out, require_writable=True)
        code = lib.rp_ram_gather_present(self.native, frames_pointer(pfns), len(pfns), absent.native, body)
        self._check(code, pfns)

    def fill(self, pfns: array[int], data: Buffer) -> None:
        """As `scatter`, for RAM that is filled for the first time: zeros are written only where the file holds something
        else. NativeError before the first byte (-ERANGE) when a frame is no RAM, and in between when the file cannot be
        written."""
        require(self.writable, "fill of read-only guest RAM")
        require(len(data) == len(pfns) * PAGE_SIZE, "fill: body and frame list differ in size")
        body = ffi.from_buffer("uint8_t[]", data)
        code = lib.rp_ram_fill(self.native, self.fd, frames_pointer(pfns), len(pfns), body)
        if code != -errno.ERANGE:
            check(code, "cannot fill the RAM file")
        self._check(code, pfns)

    def save_undo(self, pfns: array[int], out: Buffer) -> None:
        """What `scatter(pfns, ...)` is about to overwrite; `scatter(pfns, out)` brings it back."""
        self.gather(pfns, out)

    def read_page(self, pfn: int) -> bytes:
        page = bytearray(PAGE_SIZE)
        self.gather(pfn_array([pfn]), page)
        return bytes(page)

    def zero_mask(self, pfns: array[int]) -> bytes:
        """One byte a frame: 1 when its page holds only zeros."""
        mask = bytearray(len(pfns))
        body = ffi.from_buffer("uint8_t[]", mask, require_writable=True)
        self._check(lib.rp_ram_zero_mask(self.native, frames_pointer(pfns), len(pfns), body), pfns)
        return bytes(mask)

    def is_zero(self, pfn: int) -> bool:
        return self.zero_mask(pfn_array([pfn])) == b"\x01"

    def close(self) -> None:
        """Unmap. Trackers of this RAM are closed before."""
        if self._native is not None:
            ffi.release(self._native)
            self._native = None
            os.close(self.fd)

    def __enter__(self) -> GuestRam:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _check(self, code: int, pfns: array[int]) -> None:
        if code == 0:
            return
        index = ffi.new("uint64_t *")
        lib.rp_ram_check(self.native, frames_pointer(pfns), len(pfns), index)
        check(code, f"frame {pfns[index[0]]:#x} is no RAM of this guest")


def _own_descriptor(source: int | str | os.PathLike[str], writable: bool) -> int:
    if isinstance(source, int):
        return os.dup(source)
    return os.open(Path(source), (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)


def zero_mask(body: Buffer) -> bytes:
    """The same as GuestRam.zero_mask for pages that were gathered already: one byte a page of `body`."""
    require(len(body) % PAGE_SIZE == 0, "zero_mask: not whole pages")
    mask = bytearray(len(body) // PAGE_SIZE)
    lib.rp_zero_mask(ffi.from_buffer("uint8_t[]", body), len(mask), ffi.from_buffer("uint8_t[]", mask))
    return bytes(mask)
