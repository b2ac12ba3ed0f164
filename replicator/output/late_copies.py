"""Inputs that may travel late to a second keeper, since the first has them already: gathered, so that the second costs
a message now and then and not one for each frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from replicator.engine.output import Frame
from replicator.units import NS_PER_MS

#: How late, and how many at most: what is not mirrored is lost when the first keeper and this host fail together.
LATE_NS: Final = 50 * NS_PER_MS
_FRAMES_MAX: Final = 256
_BYTES_MAX: Final = 1 << 18


class LateCopies:
    """Frames with consecutive numbers. Not thread-safe."""

    def __init__(self) -> None:
        self._first_seq = 0
        self._frames: list[Frame] = []
        self._bytes = 0
        #: When what waits is to be sent at the latest; None when nothing does.
        self.due_ns: int | None = None

    @property
    def is_full(self) -> bool:
        return len(self._frames) >= _FRAMES_MAX or self._bytes >= _BYTES_MAX

    def add(self, first_seq: int, frames: Sequence[Frame], now_ns: int) -> None:
        if not frames:
            return
        if self.due_ns is None:
            self._first_seq, self.due_ns = first_seq, now_ns + LATE_NS
        self._frames += frames
        self._bytes += sum(len(frame.data) for frame in frames)

    def take(self) -> tuple[int, list[Frame]]:
        """The number of the first, and all that wait."""
        frames, self._frames = self._frames, []
        self._bytes, self.due_ns = 0, None
        return self._first_seq, frames
