"""What an epoch hashes to: xxh3-128 over its stream, in which each PAGE_DATA record counts by a digest of its own.

The digest of such a record is xxh3-128 over its header with the table of frames, one byte a page (1: it is all zeros),
and the pages that are not. More than half of a booted guest's RAM is zeros: nobody has to hash those. A record's digest
also proves that it was rebuilt as it was sent, and whoever has computed it need not do so again for the epoch's.

Where a sender cuts the stream into parts does not matter.
"""

from __future__ import annotations

import xxhash

from replicator.memory.pages import zero_mask
from replicator.units import PAGE_SIZE

DIGEST_BYTES = 16
_PAGE, _ZEROS = 0, 1


def digest_page_data(header: memoryview | bytes, pages: memoryview) -> bytes:
    """Of a PAGE_DATA record: all that stands before its pages, and its pages."""
    mask = zero_mask(pages)
    digest = xxhash.xxh3_128(header)
    digest.update(mask)
    first = mask.find(_PAGE)
    while first >= 0:
        end = mask.find(_ZEROS, first)
        if end < 0:
            end = len(mask)
        digest.update(pages[first * PAGE_SIZE : end * PAGE_SIZE])
        first = mask.find(_PAGE, end)
    return digest.digest()


class EpochDigest:
    """Of one epoch, whose records are given in their order."""

    def __init__(self) -> None:
        self._hash = xxhash.xxh3_128()

    def add(self, data: memoryview | bytes) -> None:
        """Headers and records that are not PAGE_DATA, whole or in pieces."""
        self._hash.update(data)

    def add_page_data(self, digest: bytes) -> None:
        """A PAGE_DATA record by its digest."""
        self._hash.update(digest)

    def copy(self) -> EpochDigest:
        other = EpochDigest()
        other._hash = self._hash.copy()
        return other

    def digest(self) -> bytes:
        """Of what was given so far."""
        return self._hash.digest()
