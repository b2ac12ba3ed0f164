"""Streams of Xen before 4.6 ("legacy"), decoded to the items of the libxl v2 stream that they would be today.

`LegacyDecoder` is to these streams what `StreamDecoder` is to v2 and v3.
"""

from replicator.wire.legacy.bases import MemoryBases, PageBases
from replicator.wire.legacy.decoder import LegacyDecoder
from replicator.wire.legacy.tmem import TmemPolicy

__all__ = ["LegacyDecoder", "MemoryBases", "PageBases", "TmemPolicy"]
