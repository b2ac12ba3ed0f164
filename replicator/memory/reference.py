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


class ReferenceBases:
    """A cache of bases: what is held and who gives way, slot by slot."""

    def __init__(self, capacity: int, pfn_limit: int) -> None:
        self.capacity = min(capacity, pfn_limit)
        self.pages: dict[int, bytes] = {}
        self.hits = self.misses = self.evictions = 0
        self.drop_all()

    def update(self, pfn: int, page: bytes) -> None:
        if pfn in self.pages:
            self.hits += 1
            self._spared.add(pfn)
        else:
            self.misses += 1
            self._slots[self._take_slot()] = pfn
        self.pages[pfn] = page

    def drop(self, pfn: int) -> None:
        if pfn in self.pages:
            slot = self._slots.index(pfn)
            self._slots[slot] = None
            self._free.append(slot)
            self._forget(pfn)

    def drop_all(self) -> None:
        self.pages.clear()
        self._slots: list[int | None] = [None] * self.capacity
        #: The one that is taken next stands last.
        self._free = list(reversed(range(self.capacity)))
        self._spared: set[int] = set()
        self._hand = 0

    def _take_slot(self) -> int:
        if self._free:
            return self._free.pop()
        while True:
            slot = self._hand
            self._hand = (slot + 1) % self.capacity
            victim = self._slots[slot]
            if victim in self._spared:
                self._spared.remove(victim)
            elif victim is not None:
                self._forget(victim)
                self.evictions += 1
                return slot

    def _forget(self, pfn: int) -> None:
        del self.pages[pfn]
        self._spared.discard(pfn)


def diff_masks(page: bytes, base: bytes) -> list[int]:
    """64 numbers: bit n % 64 of number n // 64 is set where byte n differs."""
    bits = sum(1 << n for n in range(PAGE_SIZE) if page[n] != base[n])
    return [bits >> (64 * n) & 2**64 - 1 for n in range(64)]


def encode_delta(page: bytes, base: bytes) -> bytes:
    """The delta as native/delta.h describes it; runs with one equal byte between them are one."""
    differs = [page[n] != base[n] for n in range(PAGE_SIZE)]
    for n in range(1, PAGE_SIZE - 1):
        differs[n] = differs[n] or (page[n - 1] != base[n - 1] and page[n + 1] != base[n + 1])
    delta = bytearray()
    done = 0
    while True in differs[done:]:
        first = differs.index(True, done)
        end = differs.index(False, first) if False in differs[first:] else PAGE_SIZE
        skip, beyond_one = first - done, end - first - 1
        delta.append(min(skip, 15) << 4 | min(beyond_one, 15))
        delta += _beyond_field(skip) + _beyond_field(beyond_one) + page[first:end]
        done = end
    return bytes(delta)


def _beyond_field(value: int) -> bytes:
    if value < 15:
        return b""
    value -= 15
    return bytes([value]) if value < 128 else bytes([value & 127 | 128, value >> 7])


def apply_delta(delta: bytes, base: bytes) -> bytes:
    """The page, ValueError when this is no delta."""
    page = bytearray(base)
    at = done = 0

    def take(count: int) -> bytes:
        nonlocal at
        at += count
        if at > len(delta):
            raise ValueError("cut")
        return delta[at - count : at]

    def field(value: int) -> int:
        if value < 15:
            return value
        low = take(1)[0]
        if low < 128:
            return 15 + low
        high = take(1)[0]
        if high >= 128:
            raise ValueError("long number")
        return 15 + low - 128 + 128 * high

    while at < len(delta):
        token = take(1)[0]
        first = done + field(token >> 4)
        done = first + field(token & 15) + 1
        if done > PAGE_SIZE:
            raise ValueError("beyond the page")
        page[first:done] = take(done - first)
    return bytes(page)


def unpack_lz4(block: bytes) -> bytes:
    """What a right LZ4 block holds. Of others it may be anything, or an IndexError."""
    out = bytearray()
    at = 0

    def number(value: int) -> int:
        nonlocal at
        more = value == 15
        while more:
            value += block[at]
            more = block[at] == 255
            at += 1
        return value

    while True:
        token = block[at]
        at += 1
        literals = number(token >> 4)
        out += block[at : at + literals]
        at += literals
        if at >= len(block):
            return bytes(out)
        offset = int.from_bytes(block[at : at + 2], "little")
        at += 2
        for _ in range(number(token & 15) + 4):
            out.append(out[-offset])


def split_encoded(data: bytes, count: int) -> list[tuple[int, bytes]]:
    """Method and data of each page of an encoded body, ValueError when it is none of so many pages."""
    table = 4 + 2 * count
    if len(data) < table or int.from_bytes(data[:4], "little") != count:
        raise ValueError("not this many pages")
    entries = [int.from_bytes(data[4 + 2 * n : 6 + 2 * n], "little") for n in range(count)]
    sizes = [entry & 0x1FFF for entry in entries]
    if table + sum(sizes) != len(data):
        raise ValueError("the table and the data differ")
    starts = [table + sum(sizes[:n]) for n in range(count)]
    return [(entry >> 13, data[start : start + size]) for entry, start, size in zip(entries, starts, sizes)]


def decode_page(method: int, data: bytes, base: bytes | None) -> bytes:
    """One page of an encoded body (native/encode.h), ValueError or IndexError when it cannot be."""
    if method in (1, 2) and base is None:
        raise ValueError("no base")
    if method == 0 and not data:
        return bytes(PAGE_SIZE)
    if method == 1 and not data and base is not None:
        return base
    if method == 2 and 0 < len(data) < PAGE_SIZE and base is not None:
        return apply_delta(data, base)
    if method == 3 and 0 < len(data) < PAGE_SIZE and len(page := unpack_lz4(data)) == PAGE_SIZE:
        return page
    if method == 4 and len(data) == PAGE_SIZE:
        return data
    raise ValueError(f"method {method} with {len(data)} bytes")
