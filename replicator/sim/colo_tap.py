"""The relays of a simulated pair that does COLO: their real cores, run by threads of the two processes."""

from __future__ import annotations

from collections.abc import Callable

from replicator.arbiter.keeper import LeaseDeadline
from replicator.compare.guard import Guard
from replicator.compare.loading import DEFAULT_COMPARER, load_comparer
from replicator.errors import InvariantError
from replicator.output.base import RelayCallbacks
from replicator.output.colo_base import ColoCallbacks
from replicator.output.colo_memory import MemoryColo, MemoryColoOutput, MemorySecondary
from replicator.output.frame_channel import FrameChannel
from replicator.output.frame_channel_memory import MemoryFrameChannel
from replicator.sim.process import Process
from replicator.sim.pumped import Pumped, SimPort
from replicator.units import Epoch


class ColoPumped(Pumped, MemoryColo):
    """It also looks at the time, for as long as something waits to be compared."""

    _is_looking = False

    def attach(self, channel: FrameChannel) -> None:
        if not isinstance(channel, MemoryFrameChannel):
            raise InvariantError("a simulated relay has a simulated channel")
        super().attach(channel)

    def _pump_now(self) -> None:
        super()._pump_now()
        look_in_ns = self.look_in_ns
        if look_in_ns is not None and not self._is_looking:
            self._is_looking = True
            self._process.schedule(look_in_ns, self._look)

    def _look(self) -> None:
        self._is_looking = False
        self.pump()


class SimColoOutput(ColoPumped, MemoryColoOutput):
    """The primary's: an OutputPort and a ComparingPort."""

    def __init__(
        self,
        process: Process,
        port: SimPort,
        *,
        deadline: LeaseDeadline,
        callbacks: RelayCallbacks,
        colo: ColoCallbacks,
        hold_bytes_max: int,
        on_barrier: Callable[[Epoch], None],
    ) -> None:
        self._process, self._on_barrier = process, on_barrier
        MemoryColoOutput.__init__(
            self,
            [port],
            make_guard(process),
            deadline=deadline,
            callbacks=callbacks,
            colo=colo,
            hold_bytes_max=hold_bytes_max,
            clock=process.clock.boottime_ns,
        )


class SimSecondary(ColoPumped, MemorySecondary):
    """Implements output.colo_base.SecondaryPort."""

    def __init__(
        self,
        process: Process,
        port: SimPort,
        *,
        callbacks: RelayCallbacks,
        colo: ColoCallbacks,
        hold_bytes_max: int,
        on_barrier: Callable[[Epoch], None],
    ) -> None:
        self._process, self._on_barrier = process, on_barrier
        MemorySecondary.__init__(
            self,
            [port],
            make_guard(process),
            callbacks=callbacks,
            colo=colo,
            hold_bytes_max=hold_bytes_max,
            clock=process.clock.boottime_ns,
        )


def make_guard(process: Process) -> Guard:
    return load_comparer(DEFAULT_COMPARER, {}).guarded(process.clock.monotonic_ns)
