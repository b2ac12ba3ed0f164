"""Until when a side may speak: one number that any thread replaces as a whole, and that native threads read too."""

from __future__ import annotations

from typing import Any, Final

from replicator._native import ffi, lib


class SharedDeadline:
    """A deadline on CLOCK_BOOTTIME; 0 means mute. What is stored is seen by every thread at once."""

    def __init__(self, deadline_ns: int = 0) -> None:
        #: `struct rp_deadline`, for the native relay, which must keep this object as long as it reads it.
        self.cell: Final[Any] = ffi.new("struct rp_deadline *")
        self.deadline_ns = deadline_ns

    @property
    def deadline_ns(self) -> int:
        """The side may speak while now < deadline_ns."""
        return int(lib.rp_deadline_load(self.cell))

    @deadline_ns.setter
    def deadline_ns(self, deadline_ns: int) -> None:
        lib.rp_deadline_store(self.cell, deadline_ns)
