"""Guest memory: dirty bitmap, page copies and dirty trackers over the native core."""

from replicator.memory.bitmap import DirtyBitmap, pfn_array
from replicator.memory.pages import GuestLayout, GuestRam, Segment, zero_mask
from replicator.memory.trackers import Audit, DirtyTracker, ShadowTracker, UffdTracker
from replicator.memory.uffd import (
    inject_uffd,
    open_own_uffd,
    preload_environment,
    receive_preloaded_uffd,
)

__all__ = [
    "Audit",
    "DirtyBitmap",
    "DirtyTracker",
    "GuestLayout",
    "GuestRam",
    "Segment",
    "ShadowTracker",
    "UffdTracker",
    "inject_uffd",
    "open_own_uffd",
    "pfn_array",
    "preload_environment",
    "receive_preloaded_uffd",
    "zero_mask",
]
