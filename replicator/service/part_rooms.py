"""Memory for the parts of epochs, used again and again.

New memory costs a pause more than the copy into it: the kernel gives it page by page, zeroed. So a part's room is given
back once nobody reads the part any more, and the one given back last, which is likely in a cache, is taken first.
"""

from __future__ import annotations

from replicator._native import ffi
from replicator.errors import require

#: Rooms kept while nobody uses them: what is copied and encoded at a time, and an epoch that travels.
KEPT_MAX = 8
#: What is in a room is overwritten.
_allocate = ffi.new_allocator(should_clear_after_alloc=False)


class PartRooms:
    """Rooms of one size."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._free: list[memoryview] = []

    def take(self) -> memoryview:
        """A room that is the caller's alone. It holds anything."""
        return self._free.pop() if self._free else memoryview(ffi.buffer(_allocate("uint8_t[]", self.size)))

    def give_back(self, room: memoryview) -> None:
        """Nobody reads or writes it from now on."""
        require(len(room) == self.size, "a room of another size")
        if len(self._free) < KEPT_MAX:
            self._free.append(room)
