"""The guest's network at a simulated host: which relay a guest gets, and what clients send to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from replicator.arbiter.keeper import LeaseDeadline
from replicator.engine.output import Frame
from replicator.errors import InvariantError, require
from replicator.guests.base import Guest, NicEndpoint
from replicator.output.base import OutputPort, RelayCallbacks
from replicator.output.colo_base import ColoCallbacks, SecondaryPort
from replicator.sim.colo_tap import SimColoOutput, SimSecondary
from replicator.sim.guest import SimGuest
from replicator.sim.machine import SOCKET_FRAMES, Machine
from replicator.sim.process import Process
from replicator.sim.pumped import Pumped, SimPort
from replicator.units import Epoch


class SimOutput(Pumped):
    """Implements output.base.OutputPort."""

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
        self._process, self._on_barrier = process, on_barrier


class SimNetwork:
    """Implements service.platform.Network. `on_voice` is called when the guest of a relay that stood by may speak."""

    def __init__(
        self,
        process: Process,
        deadline: LeaseDeadline,
        *,
        hold_bytes_max: int,
        is_colo: bool,
        on_barrier: Callable[[Epoch], None],
        on_left: Callable[[bytes], None],
        on_voice: Callable[[], None],
    ) -> None:
        self._process = process
        self._deadline = deadline
        self._hold_bytes_max = hold_bytes_max
        self._is_colo = is_colo
        self._on_barrier = on_barrier
        self._on_left = on_left
        self._on_voice = on_voice
        self.output: Pumped | None = None
        self._standing_by: SimSecondary | None = None

    def check(self, nics: int) -> None:
        require(nics == 1, "a simulated host has one TAP")

    def open(
        self, guest: Guest, replay: Sequence[Frame], callbacks: RelayCallbacks, colo: ColoCallbacks
    ) -> OutputPort:
        if not isinstance(guest, SimGuest):
            raise InvariantError("a simulated host runs simulated guests")
        port = SimPort(self._on_left)
        output = self.output = self._make_output(port, callbacks, colo)
        guest.machine.port, guest.machine.on_port = port, output.pump
        if replay:
            output.replay(replay)
        output.start()
        return output

    def _make_output(self, port: SimPort, callbacks: RelayCallbacks, colo: ColoCallbacks) -> Pumped:
        if self._is_colo:
            return SimColoOutput(
                self._process,
                port,
                deadline=self._deadline,
                callbacks=callbacks,
                colo=colo,
                hold_bytes_max=self._hold_bytes_max,
                on_barrier=self._on_barrier,
            )
        return SimOutput(
            self._process,
            port,
            deadline=self._deadline,
            callbacks=callbacks,
            hold_bytes_max=self._hold_bytes_max,
            on_barrier=self._on_barrier,
        )

    def stand_by(
        self, nics: Sequence[NicEndpoint], callbacks: RelayCallbacks, colo: ColoCallbacks
    ) -> SecondaryPort:
        relay = self._standing_by = SimSecondary(
            self._process,
            SimPort(self._on_left),
            callbacks=callbacks,
            colo=colo,
            hold_bytes_max=self._hold_bytes_max,
            on_barrier=self._on_barrier,
        )
        relay.start()
        return relay

    def plug(self, machine: Machine) -> None:
        """A new VM is at the other end of the relay that stands by; what the one before had not read is gone."""
        relay = self._standing_by
        if relay is None:
            raise InvariantError("a VM without a relay")
        port = relay.ports[0]
        port.unread.clear()
        machine.port, machine.on_port = port, relay.pump

    def give_voice(self, relay: SecondaryPort) -> None:
        if relay is not self._standing_by or self._standing_by is None:
            raise InvariantError("nobody stands by with this relay")
        self.output, self._standing_by = self._standing_by, None
        relay.take_over((), deadline=self._deadline)
        self._on_voice()

    def close(self) -> None:
        if self.output is not None:
            self.output.stop()

    def client_sends(self, data: bytes) -> None:
        """Something comes in from the network; a relay that does not read loses it beyond the queue's length."""
        output = self.output
        if output is not None and output.running and len(output.ports[0].from_network) < SOCKET_FRAMES:
            output.ports[0].from_network.append(data)
            output.pump()
