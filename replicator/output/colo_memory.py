"""The relays of a COLO pair without sockets, threads or devices: for tests and simulations of the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from replicator.compare.guard import Guard
from replicator.engine.compare.compared_output import ComparedOutput
from replicator.engine.compare.counters import CompareStatus
from replicator.engine.output import OutputMode
from replicator.limits import HOLD_BYTES_MAX, INPUT_LOG_BYTES_MAX
from replicator.output.base import UNLIMITED, Deadline, RelayCallbacks
from replicator.output.colo_base import ColoCallbacks
from replicator.output.colo_core import ColoCore
from replicator.output.core import boottime_ns
from replicator.output.frame_channel_memory import MemoryFrameChannel
from replicator.output.memory import MemoryCosts, MemoryOutput, MemoryPort
from replicator.output.secondary_core import SecondaryCore
from replicator.units import Epoch


class MemoryColo(MemoryOutput):
    """What both sides have. Each side is pumped by what the other sends; call `pump` as well when time has passed."""

    def __init__(self, ports: Sequence[MemoryPort], core: ColoCore) -> None:
        super().__init__(ports, core=core)
        self._colo = core
        self._pumping = False
        self._pump_again = False

    def stop(self) -> None:
        super().stop()
        self._colo.detach()

    def attach(self, channel: MemoryFrameChannel) -> None:
        channel.on_news = self.pump
        self._colo.attach(channel)
        self.pump()

    def detach(self) -> None:
        self._colo.detach()
        self.pump()

    def compare(self, epoch: Epoch) -> bool:
        is_comparing = self._colo.compare(epoch)
        self.pump()
        return is_comparing

    def stop_comparing(self) -> None:
        self._colo.stop_comparing()
        self.pump()

    def compare_status(self) -> CompareStatus | None:
        return self._colo.compare_status()

    def pump(self) -> None:
        """What the thread does; within itself, once more."""
        self._pump_again = True
        if self._pumping:
            return
        self._pumping = True
        try:
            while self._pump_again:
                self._pump_again = False
                if not self.running:
                    break
                while self._colo.serve_channel():
                    pass
                self._colo.pass_time()
                super().pump()
        finally:
            self._pumping = False

    @property
    def look_in_ns(self) -> int | None:
        """In how long `pump` is due at the latest; None when nothing waits for it."""
        return self._colo.look_in_ns


class MemoryColoOutput(MemoryColo):
    """The primary's."""

    def __init__(
        self,
        ports: Sequence[MemoryPort],
        guard: Guard,
        *,
        deadline: Deadline = UNLIMITED,
        callbacks: RelayCallbacks | None = None,
        colo: ColoCallbacks | None = None,
        mode: OutputMode = OutputMode.PASS,
        hold_bytes_max: int = HOLD_BYTES_MAX,
        clock: Callable[[], int] = boottime_ns,
    ) -> None:
        output = ComparedOutput(guard, mode=mode, bytes_max=hold_bytes_max)
        callbacks, colo = callbacks or RelayCallbacks(), colo or ColoCallbacks()
        super().__init__(
            ports, ColoCore(ports, MemoryCosts(), deadline, callbacks, colo, output, clock=clock)
        )


class MemorySecondary(MemoryColo):
    """The secondary's. Its ports' network side is shut until the take-over."""

    def __init__(
        self,
        ports: Sequence[MemoryPort],
        guard: Guard,
        *,
        callbacks: RelayCallbacks | None = None,
        colo: ColoCallbacks | None = None,
        hold_bytes_max: int = HOLD_BYTES_MAX,
        log_bytes_max: int = INPUT_LOG_BYTES_MAX,
        clock: Callable[[], int] = boottime_ns,
    ) -> None:
        output = ComparedOutput(guard, bytes_max=hold_bytes_max)
        self._secondary = SecondaryCore(
            ports,
            MemoryCosts(),
            callbacks or RelayCallbacks(),
            colo or ColoCallbacks(),
            output,
            log_bytes_max=log_bytes_max,
            clock=clock,
        )
        super().__init__(ports, self._secondary)

    @property
    def standing_by(self) -> bool:
        return self._secondary.standing_by

    def suspend(self) -> None:
        self.hold_input()

    def loaded(self, epoch: Epoch, input_seq: int) -> int:
        missing = self._secondary.loaded(epoch, input_seq)
        self.pump()
        return missing

    def take_over(
        self, taps: Sequence[object] = (), *, deadline: Deadline, mode: OutputMode = OutputMode.PASS
    ) -> None:
        """The ports are the network, whatever `taps` are."""
        self._secondary.take_over(deadline, mode)
        self.pump()
