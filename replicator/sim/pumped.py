"""What every simulated relay has: the memory's core, run by a thread of the process, and a way out that is seen.

What may leave does so a little later than it was allowed, as with a real thread; `on_left` sees every frame that does.
"""

from __future__ import annotations

from collections.abc import Callable

from replicator.output.base import BarrierMark
from replicator.output.memory import MemoryOutput, MemoryPort
from replicator.sim.machine import MAC
from replicator.sim.process import Process
from replicator.units import NS_PER_MS, Epoch

PUMP_NS = (2_000, 300_000)
LOOK_MUTED_NS = 5 * NS_PER_MS


class SimPort(MemoryPort):
    """`on_left` gets what is written to the network."""

    def __init__(self, on_left: Callable[[bytes], None]) -> None:
        super().__init__(MAC)
        self._on_left = on_left

    def send_network(self, data: bytes) -> bool:
        self._on_left(data)
        return True


class Pumped(MemoryOutput):
    """A relay that a thread of the process serves. `on_barrier` is called while the guest stands still."""

    _process: Process
    _on_barrier: Callable[[Epoch], None]
    _is_pumping = False

    def pump(self) -> None:
        if not self._is_pumping and self.running:
            self._is_pumping = True
            self._process.schedule(self._process.world.between(*PUMP_NS), self._pump_now)

    def _pump_now(self) -> None:
        self._is_pumping = False
        super().pump()
        if self._core.muted:
            self._process.schedule(LOOK_MUTED_NS, self.pump)

    def drain_and_mark(self, epoch: Epoch) -> BarrierMark:
        mark = super().drain_and_mark(epoch)
        self._on_barrier(epoch)
        return mark
