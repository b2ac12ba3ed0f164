"""A host's clocks: they drift, and CLOCK_BOOTTIME jumps when the host was suspended."""

from __future__ import annotations

from replicator.sim.world import World

PPM = 1_000_000


class HostClock:
    """Implements clock.Clock in virtual time."""

    def __init__(self, world: World, *, offset_ns: int, drift_ppm: int) -> None:
        self._world = world
        #: Of this clock, in a million of the world's.
        self._rate = PPM + drift_ppm
        self._base_world_ns = world.now_ns
        self._base_ns = offset_ns
        self._suspended_ns = 0

    def monotonic_ns(self) -> int:
        passed_ns = self._world.now_ns - self._base_world_ns
        return self._base_ns + passed_ns * self._rate // PPM

    def boottime_ns(self) -> int:
        passed_ns = self._world.now_ns - self._base_world_ns
        return self._base_ns + passed_ns * self._rate // PPM + self._suspended_ns

    def drift(self, drift_ppm: int) -> None:
        """Run faster or slower from now on."""
        self._base_ns, self._base_world_ns = self.monotonic_ns(), self._world.now_ns
        self._rate = PPM + drift_ppm

    def jump(self, ns: int) -> None:
        """The boot clock goes on as after a suspend; it never goes back."""
        self._suspended_ns += ns

    def world_ns(self, local_ns: int) -> int:
        """How long a span of this clock takes in the world; rounded up, so that nothing is early."""
        return -(-local_ns * PPM // self._rate)
