"""The same in plain Python, as slow and as plain as possible: what the tests hold the native core against.
The product never uses it."""

from __future__ import annotations

from collections.abc import Sequence

from replicator.units import PAGE_SIZE


class ReferenceBitmap:
    """A dirty bitmap as a set of frames."""

    def __init__(self, pages: int) -> None:
        self.pages = pages
        self.frames: set[int] = set()

    def set_range(self, first: int, count: int) -> None:
        self._check_range(first, count)
        self.frames |= set(range(first, first + count))

    def clear_range(self, first: int, count: int) -> None:
        self._check_range(first, count)
        self.frames -= set(range(first, first + count))

    def merge(self, other: ReferenceBitmap) -> None:
        self.frames |= other.frames

    def subtract(self, other: ReferenceBitmap) -> None:
        self.frames -= other.frames

    def runs(self) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        for pfn in sorted(self.frames):
            if found and sum(found[-1]) == pfn:
                found[-1] = (found[-1][0], found[-1][1] + 1)
            else:
                found.append((pfn, 1))
        return found

    def next_run(self, start: int) -> tuple[int, int] | None:
        rest = ReferenceBitmap(self.pages)
        rest.frames = {pfn for pfn in self.frames if pfn >= start}
        return next(iter(rest.runs()), None)

    def read_and_clear(self) -> list[int]:
        found = sorted(self.frames)
        self.frames = set()
        return found

    def take(self, limit: int, start: int = 0) -> list[int]:
        found = [pfn for pfn in sorted(self.frames) if pfn >= start][:limit]
        self.frames -= set(found)
        return found

    def _check_range(self, first: int, count: int) -> None:
        if first < 0 or count < 0 or first + count > self.pages:
            raise IndexError(f"{first}+{count} of {self.pages}")


#: (first_pfn, file_page, pages) as in a layout's segments.
Segments = Sequence[tuple[int, int, int]]


def find_page(segments: Segments, pfn: int) -> int:
    """Page of the RAM file, IndexError when the frame is no RAM."""
    for first_pfn, file_page, pages in segments:
        if first_pfn <= pfn < first_pfn + pages:
            return file_page + pfn - first_pfn
    raise IndexError(pfn)


def gather(ram: bytes | bytearray, segments: Segments, pfns: Sequence[int]) -> bytes:
    """The pages of these frames, joined in their order."""
    offsets = [find_page(segments, pfn) * PAGE_SIZE for pfn in pfns]
    return b"".join(bytes(ram[offset : offset + PAGE_SIZE]) for offset in offsets)


def scatter(ram: bytearray, segments: Segments, pfns: Sequence[int], body: bytes) -> None:
    """The reverse of gather; a frame that is no RAM leaves all as it was."""
    offsets = [find_page(segments, pfn) * PAGE_SIZE for pfn in pfns]
    for index, offset in enumerate(offsets):
        ram[offset : offset + PAGE_SIZE] = body[index * PAGE_SIZE : (index + 1) * PAGE_SIZE]


def zero_mask(body: bytes) -> bytes:
    """One byte a page, 1 when it holds only zeros."""
    starts = range(0, len(body), PAGE_SIZE)
    return bytes(not any(body[start : start + PAGE_SIZE]) for start in starts)


def changed_pages(before: bytes, now: bytes) -> set[int]:
    """File pages that differ."""
    starts = range(0, len(now), PAGE_SIZE)
    return {s // PAGE_SIZE for s in starts if before[s : s + PAGE_SIZE] != now[s : s + PAGE_SIZE]}
