"""Bytes in the pieces in which they arrive, handed out in the pieces that a format needs.

What lies whole in the newest piece is handed out as a view into it; only what crosses the border of two pieces
is copied. So the pages of a stream pass through without a copy, whatever size the pieces have.
"""

from __future__ import annotations

from replicator.wire.layout import Buffer


class Intake:
    """A queue of bytes. Views that it hands out are valid until the next `add`, or until the newest piece changes."""

    def __init__(self) -> None:
        # Bytes of older pieces that nobody took yet; they come before those of the newest piece.
        self._held = bytearray()
        self._piece = memoryview(b"")
        self._at = 0
        #: Bytes taken or skipped so far: the offset of the next one.
        self.offset = 0

    @property
    def pending(self) -> int:
        """Bytes that nobody took yet."""
        return len(self._held) + len(self._piece) - self._at

    def add(self, piece: Buffer) -> None:
        """Put bytes at the end. `piece` stays the caller's, who may change it after `hold`."""
        self.hold()
        self._piece = memoryview(piece).cast("B")

    def hold(self) -> None:
        """Copy what nobody took of the newest piece: its memory may change from now on."""
        self._held += self._piece[self._at :]
        self._piece, self._at = memoryview(b""), 0

    def take(self, size: int) -> memoryview | None:
        """The next `size` bytes, or None as long as fewer are here."""
        if self._held:
            return self._take_held(size)
        end = self._at + size
        if end > len(self._piece):
            return None
        view = self._piece[self._at : end]
        self._at = end
        self.offset += size
        return view

    def take_units(self, unit: int, units_max: int) -> memoryview | None:
        """As many whole units of `unit` bytes as lie here in one piece, at most `units_max`; None when there is
        no whole one. `units_max` is positive."""
        if self._held:
            return self.take(unit)
        units = min((len(self._piece) - self._at) // unit, units_max)
        return self.take(units * unit) if units else None

    def peek(self, size: int) -> bytes | None:
        """The next `size` bytes without taking them, or None as long as fewer are here."""
        if self.pending < size:
            return None
        head = bytes(self._held[:size])
        return head + bytes(self._piece[self._at : self._at + size - len(head)])

    def skip(self, size: int) -> int:
        """Drop the next bytes, at most `size`; how many there were."""
        skipped = min(size, self.pending)
        from_held = min(skipped, len(self._held))
        del self._held[:from_held]
        self._at += skipped - from_held
        self.offset += skipped
        return skipped

    @property
    def held(self) -> bytes:
        """What nobody took yet."""
        return bytes(self._held) + bytes(self._piece[self._at :])

    def pass_over(self, size: int) -> None:
        """What is here, and `size` bytes that will never come, count as taken."""
        self.skip(self.pending)
        self.offset += size

    def take_rest(self) -> bytes:
        """All that is left, which does not count as taken."""
        rest = self.held
        self._held, self._piece, self._at = bytearray(), memoryview(b""), 0
        return rest

    def _take_held(self, size: int) -> memoryview | None:
        missing = size - len(self._held)
        if missing > 0:
            moved = self._piece[self._at : self._at + missing]
            self._held += moved
            self._at += len(moved)
        if len(self._held) < size:
            return None
        self.offset += size
        if len(self._held) == size:
            whole, self._held = self._held, bytearray()
            return memoryview(whole)
        view = memoryview(bytes(self._held[:size]))
        del self._held[:size]
        return view
