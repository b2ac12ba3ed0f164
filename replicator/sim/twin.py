"""The virtual machine of a pair that does COLO: two of them that began equal say the same, until one takes in entropy.

What the n-th frame says follows from the machine's state alone, whenever it is said; when it works, how often it speaks
and which pages it writes is each one's own, and no page that one has written equals what another would have written. A
machine may diverge before it speaks: it takes in a word of entropy, and all that it says from then on is another's. It
does not know that there is another one.
"""

from __future__ import annotations

from replicator.guests.synthetic_machine import mix
from replicator.memory.pages import GuestRam
from replicator.sim.machine import FILLER, Machine, MachineState, Workload
from replicator.sim.world import World

_NONCE_MASK = (1 << 62) - 1
_TAG_BYTES = 8


class TwinMachine(Machine):
    """`divergence` is the probability of taking in entropy in a burst."""

    def __init__(
        self, world: World, ram: GuestRam, workload: Workload, state: MachineState, divergence: float
    ) -> None:
        super().__init__(world, ram, workload, state)
        #: Pages, since it was loaded.
        self.written: set[int] = set()
        self._divergence = divergence
        self._draw_tag()

    def load(self, state: MachineState) -> None:
        """May be repeated, while it stands still."""
        super().load(state)
        self.written = set()
        self._draw_tag()

    def _draw_tag(self) -> None:
        """Of this execution: what fills its pages."""
        tag = self.world.between(1, 1 << 62).to_bytes(_TAG_BYTES, "little")
        self._filler = tag + FILLER[_TAG_BYTES:]

    def _work(self) -> None:
        if self.world.chance(self._divergence):
            self.noise = self.world.between(1, 1 << 62)
        super()._work()

    def _write(self, *pfns: int) -> None:
        super()._write(*pfns)
        self.written.update(pfns)

    def _draw_nonce(self) -> int:
        return 1 + mix(mix(self.lineage, self.sent), self.noise) % _NONCE_MASK
