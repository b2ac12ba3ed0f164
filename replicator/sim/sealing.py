"""Looks at sealed messages from outside: what is sealed under which key, and what of it is opened.

    N1  no nonce is used twice under a key
    N2  under a key messages are opened in the order they were sealed in, each of them once at most

It reads the numbers in the frames that travel, and knows the keys themselves, not only the ids that they go by.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from replicator.link.sealing import KEY_ID_BYTES, NUMBER_BYTES, BulkKeys

Frames = Sequence["bytes | memoryview"]


class SealingAudit:
    """Of both sides of a run."""

    def __init__(self, accuse: Callable[[str, str], None]) -> None:
        self._accuse = accuse
        self._sealed: set[tuple[bytes, int]] = set()
        #: Key -> number of the newest message that was opened.
        self._opened: dict[bytes, int] = {}

    def note_sealed(self, keys: BulkKeys, frames: Frames) -> None:
        """Both frames of a message have the same number, and lanes of their own."""
        number = number_in(frames)
        if (keys.key, number) in self._sealed:
            self._accuse("N1", f"number {number} is sealed twice under the key {keys.key_id.hex()}")
        self._sealed.add((keys.key, number))

    def note_opened(self, keys: BulkKeys, frames: Frames) -> None:
        number, newest = number_in(frames), self._opened.get(keys.key, -1)
        if number <= newest:
            self._accuse("N2", f"number {number} is opened after {newest} under the key {keys.key_id.hex()}")
        self._opened[keys.key] = number


def number_in(frames: Frames) -> int:
    """Which message under its key this is."""
    return int.from_bytes(frames[0][KEY_ID_BYTES : KEY_ID_BYTES + NUMBER_BYTES], "big")
