"""Which pages the secondary does not have yet, by the epoch they travel in.

A page is in exactly one of three places: owed (in no epoch), open (copied into the epoch that is being made), or in
the set of a closed epoch that was not acked. Rule: a page leaves the ledger only when an epoch that carries it, or
a later content of it, was acked. This file does not know when an epoch is acked or given up.
"""

from __future__ import annotations

from array import array
from collections import deque

from replicator.memory.bitmap import DirtyBitmap
from replicator.memory.pages import GuestLayout

#: Pages that each of so many closed epochs had are hot: copied before the next pause they would be copied in vain.
HOT_EPOCHS = 3


class OwedLedger:
    """Bitmaps of guest frames. `owed` is the caller's to scan into."""

    def __init__(self, layout: GuestLayout) -> None:
        self._layout = layout
        self.owed = layout.new_bitmap()
        self._open = layout.new_bitmap()
        self._closed: dict[int, DirtyBitmap] = {}
        #: Sets of the newest closed epochs, acked or not. Never written to.
        self._recent: deque[DirtyBitmap] = deque(maxlen=HOT_EPOCHS)

    def owe(self, pfns: array[int]) -> None:
        """What the secondary has of these frames is not the guest's."""
        self.owed.set_pfns(pfns)

    def take(self) -> DirtyBitmap:
        """Move all that is owed to the open epoch; returns those frames, for the caller to copy."""
        taken = self.owed
        self._open.merge(taken)
        self.owed = self._layout.new_bitmap()
        return taken

    def take_cold(self) -> DirtyBitmap:
        """The same without pages that are dirty in each epoch; those stay owed."""
        hot = self._hot()
        hot_owed = self.owed.copy()
        taken = self.owed
        taken.subtract(hot)
        hot_owed.subtract(taken)
        self._open.merge(taken)
        self.owed = hot_owed
        return taken

    def _hot(self) -> DirtyBitmap:
        """Empty until enough epochs were closed."""
        if len(self._recent) < HOT_EPOCHS:
            return self._layout.new_bitmap()
        hot = self._recent[0].copy()
        for other in self._recent:
            cold = hot.copy()
            cold.subtract(other)
            hot.subtract(cold)
        return hot

    def close(self, epoch: int) -> None:
        """The open epoch got its number and can be sent."""
        self._closed[epoch] = self._open
        self._recent.append(self._open)
        self._open = self._layout.new_bitmap()

    def abandon(self) -> None:
        """The open epoch will not be sent."""
        self.owed.merge(self._open)
        self._open.clear_all()

    def settle(self, epoch: int) -> None:
        """The secondary has all epochs up to this one."""
        for closed in [number for number in self._closed if number <= epoch]:
            del self._closed[closed]

    def owe_again(self) -> None:
        """What was closed and not acked goes into the next epoch."""
        self.abandon()
        for bitmap in self._closed.values():
            self.owed.merge(bitmap)
        self._closed.clear()

    def owe_all(self) -> None:
        self._closed.clear()
        self._open.clear_all()
        self._layout.mark_all(self.owed)

    @property
    def closed_epochs(self) -> tuple[int, ...]:
        return tuple(sorted(self._closed))
