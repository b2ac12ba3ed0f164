"""The clocks a daemon reads. An object, so that a simulation can give each host its own."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Nanoseconds that never go back. The two count from different instants."""

    def monotonic_ns(self) -> int:
        """CLOCK_MONOTONIC: timers, samples, silence."""
        ...

    def boottime_ns(self) -> int:
        """CLOCK_BOOTTIME: leases; goes on through suspend, equal for all processes of a host."""
        ...


class SystemClock:
    """The host's."""

    def monotonic_ns(self) -> int:
        return time.monotonic_ns()

    def boottime_ns(self) -> int:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


SYSTEM_CLOCK: Clock = SystemClock()
