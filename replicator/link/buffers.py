"""Memory for what a socket sends without copying it: the same few buffers again and again, which stay in the cache.

A view that was taken is free again when its last holder has let go of it, which for one that is sent is zeromq, once the
kernel has it. So nobody gives anything back, and nothing is overwritten that is still on its way.
"""

from __future__ import annotations

import ctypes
import mmap
import weakref
from collections import deque
from typing import Final

from replicator.limits import PART_BYTES_MAX

#: Free buffers that are kept: as many as are on their way at most times.
KEPT_MAX: Final = 8


#: mallopt(3), and what it gets: blocks of that size are not mapped one by one, and so much that is free is kept.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_HEAP_BLOCK_BYTES_MAX: Final = 2 * PART_BYTES_MAX
_FREE_BYTES_KEPT: Final = 8 * PART_BYTES_MAX


def keep_freed_memory() -> None:
    """zeromq takes memory for each message that it receives. As it is, the C library gives that of large ones back to
    the kernel at once, and new memory, page by page and zeroed, costs as much as receiving into it. Elsewhere than with
    glibc this does nothing."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _HEAP_BLOCK_BYTES_MAX)
        mallopt(_M_TRIM_THRESHOLD, _FREE_BYTES_KEPT)


class BufferPool:
    """Views of up to `size_max` bytes. A buffer takes only as much memory as the largest of its views."""

    def __init__(self, size_max: int) -> None:
        self._size_max = size_max
        self._free: deque[mmap.mmap] = deque(maxlen=KEPT_MAX)

    def take(self, size: int) -> memoryview:
        """A writable view whose content is undefined. It must not be cut: a slice would not keep the buffer."""
        return self.lend(self.get(), size)

    def get(self) -> mmap.mmap:
        """A whole buffer, to be written and lent."""
        try:
            # The newest one: it is the likeliest to be in the cache.
            return self._free.pop()
        except IndexError:
            return mmap.mmap(-1, self._size_max)

    def lend(self, buffer: mmap.mmap, size: int) -> memoryview:
        """A view of what `get` gave; with it the buffer becomes free again. It must not be cut."""
        view = memoryview(buffer)[:size]
        # In whatever thread the last reference goes.
        weakref.finalize(view, self._free.append, buffer).atexit = False
        return view
