"""Guest memory: dirty bitmap, page copies, page encodings and dirty trackers over the native core."""

from replicator.memory.bases import BaseCache, BaseCounts
from replicator.memory.bitmap import DirtyBitmap, pfn_array
from replicator.memory.encodings import (
    EncodedPages,
    EncodingStats,
    PageMethod,
    decode_pages,
    encode_bound,
    encode_pages,
)
from replicator.memory.pages import GuestLayout, GuestRam, Segment, zero_mask
from replicator.memory.trackers import Audit, DirtyTracker, Fingerprints, ShadowTracker, UffdTracker
from replicator.memory.uffd import (
    inject_uffd,
    open_own_uffd,
    preload_environment,
    receive_preloaded_uffd,
)

__all__ = [
    "Audit",
    "BaseCache",
    "BaseCounts",
    "DirtyBitmap",
    "DirtyTracker",
    "EncodedPages",
    "EncodingStats",
    "Fingerprints",
    "GuestLayout",
    "GuestRam",
    "PageMethod",
    "Segment",
    "ShadowTracker",
    "UffdTracker",
    "decode_pages",
    "encode_bound",
    "encode_pages",
    "inject_uffd",
    "open_own_uffd",
    "pfn_array",
    "preload_environment",
    "receive_preloaded_uffd",
    "zero_mask",
]
