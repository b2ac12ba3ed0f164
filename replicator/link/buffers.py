"""Memory for what a socket sends without copying it: the same few buffers again and again, which stay in the cache.

A view that was taken is free again when its last holder has let go of it, which for one that is sent is zeromq, once the
kernel has it. So nobody gives anything back, and nothing is overwritten that is still on its way.
"""

from __future__ import annotations

import mmap
import weakref
from collections import deque
from typing import Final

#: Free buffers that are kept: as many as are on their way at most times.
KEPT_MAX: Final = 8


class BufferPool:
    """Views of up to `size_max` bytes. A buffer takes only as much memory as the largest of its views."""

    def __init__(self, size_max: int) -> None:
        self._size_max = size_max
        self._free: deque[mmap.mmap] = deque(maxlen=KEPT_MAX)

    def take(self, size: int) -> memoryview:
        """A writable view whose content is undefined. It must not be cut: a slice would not keep the buffer."""
        try:
            # The newest one: it is the likeliest to be in the cache.
            buffer = self._free.pop()
        except IndexError:
            buffer = mmap.mmap(-1, self._size_max)
        view = memoryview(buffer)[:size]
        # In whatever thread the last reference goes.
        weakref.finalize(view, self._free.append, buffer).atexit = False
        return view
