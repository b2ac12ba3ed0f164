"""What the pages of a compressed checkpoint are unpacked onto: the pages as the stream sent them last.

From the second checkpoint on a compressed Remus stream says only which words of a page changed. So its reader
needs the guest's memory, which no decoder holds: it is told of each page that passes, and asked for the few
that the stream builds on. Whoever can read the stream again may keep offsets only.
"""

from __future__ import annotations

from array import array
from typing import Protocol

from replicator.units import PAGE_SIZE
from replicator.wire import layout


class PageBases(Protocol):
    """The newest contents of the guest's pages, by pfn."""

    @property
    def needs_pages(self) -> bool:
        """Every page must be handed out to be kept; else those that `keep` never sees are read again later."""

    def pass_over(self, end: int) -> None:
        """Pages before offset `end` of the stream were passed over; called only when not `needs_pages`."""

    def keep(self, entries: array[int], offset: int, pages: memoryview) -> None:
        """Pages as the stream has them: 4096 bytes for each of these PAGE_DATA entries, the first of them at
        `offset` of the stream. The view is valid during the call."""

    def keep_rebuilt(self, pfn: int, page: bytes) -> None:
        """A page that was unpacked: nowhere in the stream does it stand like this."""

    def load(self, pfn: int) -> bytes:
        """What was kept last of this page; zeros when nothing was."""


class MemoryBases:
    """Keeps every page in memory."""

    needs_pages = True

    def __init__(self) -> None:
        self._pages: dict[int, bytes] = {}

    def keep(self, entries: array[int], offset: int, pages: memoryview) -> None:
        for index, entry in enumerate(entries):
            start = layout.pages_bytes(index)
            self._pages[entry & layout.ENTRY_PFN_MASK] = bytes(pages[start : start + PAGE_SIZE])

    def keep_rebuilt(self, pfn: int, page: bytes) -> None:
        self._pages[pfn] = page

    def pass_over(self, end: int) -> None:
        """Never called."""

    def load(self, pfn: int) -> bytes:
        return self._pages.get(pfn) or bytes(PAGE_SIZE)
