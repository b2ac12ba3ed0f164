"""The guest's network at a simulated host: the relay's real core, run by a thread of the process.

What may leave does so a little later than it was allowed, as with a real thread; `on_left` sees every frame that does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from replicator.arbiter.keeper import LeaseDeadline
from replicator.engine.output import Frame
from replicator.errors import InvariantError, require
from replicator.guests.base import Guest
from replicator.output.base import BarrierMark, OutputPort, RelayCallbacks
from replicator.output.memory import MemoryOutput, MemoryPort
from replicator.sim.guest import SimGuest
from replicator.sim.machine import MAC, SOCKET_FRAMES
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


class SimOutput(MemoryOutput):
    """Implements output.base.OutputPort. `on_barrier` is called while the guest stands still."""

    def __init__(
        self,
        process: Process,
        port: SimPort,
        *,
        deadline: LeaseDeadline,
        callbacks: RelayCallbacks,
        hold_bytes_max: int,
        on_barrier: Callable[[Epoch], None],
    ) -> None:
        super().__init__(
            [port],
            deadline=deadline,
            callbacks=callbacks,
            hold_bytes_max=hold_bytes_max,
            clock=process.clock.boottime_ns,
        )
        self._process = process
        self._on_barrier = on_barrier
        self._is_pumping = False

    def pump(self) -> None:
        if not self._is_pumping and self.running:
            self._is_pumping = True
            self._process.schedule(self._process.world.between(*PUMP_NS), self._pump_now)

    def _pump_now(self) -> None:
        self._is_pumping = False
        super().pump()
        if self.muted:
            self._process.schedule(LOOK_MUTED_NS, self.pump)

    def drain_and_mark(self, epoch: Epoch) -> BarrierMark:
        mark = super().drain_and_mark(epoch)
        self._on_barrier(epoch)
        return mark


class SimNetwork:
    """Implements service.platform.Network."""

    def __init__(
        self,
        process: Process,
        deadline: LeaseDeadline,
        *,
        hold_bytes_max: int,
        on_barrier: Callable[[Epoch], None],
        on_left: Callable[[bytes], None],
    ) -> None:
        self._process = process
        self._deadline = deadline
        self._hold_bytes_max = hold_bytes_max
        self._on_barrier = on_barrier
        self._on_left = on_left
        self.output: SimOutput | None = None

    def check(self, nics: int) -> None:
        require(nics == 1, "a simulated host has one TAP")

    def open(self, guest: Guest, replay: Sequence[Frame], callbacks: RelayCallbacks) -> OutputPort:
        if not isinstance(guest, SimGuest):
            raise InvariantError("a simulated host runs simulated guests")
        port = SimPort(self._on_left)
        output = self.output = SimOutput(
            self._process,
            port,
            deadline=self._deadline,
            callbacks=callbacks,
            hold_bytes_max=self._hold_bytes_max,
            on_barrier=self._on_barrier,
        )
        guest.machine.port, guest.machine.on_port = port, output.pump
        if replay:
            output.replay(replay)
        output.start()
        return output

    def close(self) -> None:
        if self.output is not None:
            self.output.stop()

    def client_sends(self, data: bytes) -> None:
        """Something comes in from the network; a relay that does not read loses it beyond the queue's length."""
        output = self.output
        if output is not None and output.running and len(output.ports[0].from_network) < SOCKET_FRAMES:
            output.ports[0].from_network.append(data)
            output.pump()
