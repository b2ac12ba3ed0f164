"""The replica's RAM, which can tell what was written into it since somebody asked."""

from __future__ import annotations

from array import array

from replicator.errors import require
from replicator.memory.bitmap import DirtyBitmap
from replicator.memory.pages import Buffer, GuestRam


class ReplicaRam(GuestRam):
    """Marks pages between `begin_marking` and `end_marking` for who copies it, and from the first `take_written` on for who
    runs on it. Only what goes through `scatter` and `fill` is seen: what a guest that runs on this RAM writes is not."""

    _marked: DirtyBitmap | None = None
    _written: DirtyBitmap | None = None

    def take_written(self) -> DirtyBitmap:
        """The pages written since the last call, at least; the first one knows of every page."""
        written, self._written = self._written, self.layout.new_bitmap()
        if written is None:
            written = self.layout.new_bitmap()
            self.layout.mark_all(written)
        return written

    def begin_marking(self) -> None:
        """From now on; at first every page counts as written."""
        require(self._marked is None, "the replica is copied once at a time")
        self._marked = self.layout.new_bitmap()
        self.layout.mark_all(self._marked)

    def take_marked(self) -> DirtyBitmap:
        """The pages written since the last call."""
        marked = self._marked
        if marked is None:
            return self.layout.new_bitmap()
        self._marked = self.layout.new_bitmap()
        return marked

    def end_marking(self) -> None:
        """May be repeated."""
        self._marked = None

    def scatter(self, pfns: array[int], data: Buffer) -> None:
        self._mark(pfns)
        super().scatter(pfns, data)

    def fill(self, pfns: array[int], data: Buffer) -> None:
        self._mark(pfns)
        super().fill(pfns, data)

    def _mark(self, pfns: array[int]) -> None:
        if self._marked is not None:
            self._marked.set_pfns(pfns)
        if self._written is not None:
            self._written.set_pfns(pfns)
