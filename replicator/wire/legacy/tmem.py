"""Transcendent memory of a guest: pages that it had put outside of its own memory, into pools of the hypervisor.

Xen lost the feature in 2019, and no record of a v2 stream was ever made for it. So a stream with such pages is
refused, or, when the operator says so, read without them: a guest may lose its tmem pages at any time, except
those of persistent pools (swap), which it expects back.

    -5  version ... cap, then pools { id, flags, pages, uuid, pages x { object, index, page } }, then all ones;
        an object of all ones ends the pages of a pool early
    -6  pages that became invalid meanwhile: { pool id, object, index } ..., then all ones
"""

from __future__ import annotations

from enum import Enum

from replicator.errors import UnknownMandatoryRecord
from replicator.units import PAGE_SIZE
from replicator.wire import layout
from replicator.wire.legacy.source import Source, Steps
from replicator.wire.records import Place

_LAST_OBJECT = b"\xff" * layout.LEGACY_TMEM_OID_BYTES


class TmemPolicy(Enum):
    """What becomes of tmem pages."""

    REFUSE = "refuse"
    DROP = "drop"


class TmemReader:
    """The tmem chunks of one stream."""

    def __init__(self, source: Source, policy: TmemPolicy) -> None:
        self._source = source
        self._policy = policy
        #: Pages that were read and dropped.
        self.pages_dropped = 0

    def read(self, place: Place) -> Steps[None]:
        """Chunk -5; raises UnknownMandatoryRecord unless tmem is to be dropped."""
        self._permit(place)
        fields = yield from self._source.unpack(layout.LEGACY_TMEM)
        if fields[2] != layout.LEGACY_TMEM_END or fields[6] != layout.LEGACY_TMEM_END:
            raise place.bad(f"{fields[2]:#x} and {fields[6]:#x} instead of all ones twice")
        while (yield from self._read_pool_id()) != layout.LEGACY_TMEM_END:
            yield from self._read_pool()

    def read_extra(self, place: Place) -> Steps[None]:
        """Chunk -6, likewise."""
        self._permit(place)
        while (yield from self._read_pool_id()) != layout.LEGACY_TMEM_END:
            yield from self._source.skip(layout.LEGACY_TMEM_OID_BYTES + layout.LEGACY_TMEM_INDEX_BYTES)

    def _permit(self, place: Place) -> None:
        if self._policy is TmemPolicy.REFUSE:
            raise UnknownMandatoryRecord(
                "tmem was removed from Xen in 2019 and has no record in a v2 stream",
                offset=place.offset,
                record=place.name,
                hint="--tmem drop reads the stream without its tmem pages; a guest that swapped to tmem loses "
                "what it swapped",
            )

    def _read_pool_id(self) -> Steps[int]:
        (pool_id,) = yield from self._source.unpack(layout.LEGACY_TMEM_POOL_ID)
        return int(pool_id)

    def _read_pool(self) -> Steps[None]:
        flags, pages = yield from self._source.unpack(layout.LEGACY_TMEM_POOL)
        shift = flags >> layout.LEGACY_TMEM_PAGE_SHIFT & layout.LEGACY_TMEM_PAGE_MASK
        for _ in range(pages):
            oid = yield from self._source.take(layout.LEGACY_TMEM_OID_BYTES)
            if oid == _LAST_OBJECT:
                return
            yield from self._source.skip(layout.LEGACY_TMEM_INDEX_BYTES + (PAGE_SIZE << shift))
            self.pages_dropped += 1
