"""The relay of a COLO pair's secondary: its guest's NICs on one side, the channel to the primary's relay on the other,
and after a take-over TAPs. `output.colo_base` has the order of the calls."""

from __future__ import annotations

from collections.abc import Sequence

from replicator.compare.guard import Guard
from replicator.engine.compare.compared_output import ComparedOutput
from replicator.engine.output import OutputMode
from replicator.errors import require
from replicator.limits import HOLD_BYTES_MAX
from replicator.output.base import Deadline, RelayCallbacks
from replicator.output.colo_base import ColoCallbacks
from replicator.output.colo_relay import ColoThread
from replicator.output.nic_socket import FrameCosts, NicPaths
from replicator.output.relay import RelayPort, TapDevice
from replicator.output.secondary_core import SecondaryCore
from replicator.units import Epoch


class SecondaryRelay(ColoThread):
    """`paths` are the guest's NICs in order. Without network, and with inputs held, until told otherwise."""

    def __init__(
        self,
        paths: Sequence[NicPaths],
        guard: Guard,
        *,
        callbacks: RelayCallbacks | None = None,
        colo: ColoCallbacks | None = None,
        hold_bytes_max: int = HOLD_BYTES_MAX,
        fast: bool = True,
    ) -> None:
        ports = [RelayPort(one) for one in paths]
        costs, callbacks = FrameCosts(), callbacks or RelayCallbacks()
        output = ComparedOutput(guard, bytes_max=hold_bytes_max)
        core = SecondaryCore(ports, costs, callbacks, colo or ColoCallbacks(), output)
        super().__init__(ports, costs, core, callbacks, fast=fast)
        self._secondary = core

    @property
    def standing_by(self) -> bool:
        """It has not taken over."""
        return self._secondary.standing_by

    def suspend(self) -> None:
        """While the guest runs: it gets no inputs from now on, and what it has said is told."""
        self.hold_input()

    def loaded(self, epoch: Epoch, input_seq: int) -> int:
        """The guest stands still and is the primary's at the end of `epoch`. Returns how many inputs are missing."""
        with self._lock:
            self._check()
            for nic in range(len(self._ports)):
                self._secondary.throw_away_output(nic)
            # Another process may have taken the guest's place, and what this one says from now on counts.
            self._connect_guests()
            missing = self._secondary.loaded(epoch, input_seq)
            self._wake()
            return missing

    def take_over(
        self, taps: Sequence[TapDevice], *, deadline: Deadline, mode: OutputMode = OutputMode.PASS
    ) -> None:
        """Speak to the world: `taps` in the order of the NICs stay the caller's to close."""
        with self._lock:
            self._check()
            require(len(taps) == len(self._ports), f"{len(taps)} TAPs for {len(self._ports)} NICs")
            self._secondary.take_over(deadline, mode)
            for nic, (port, tap) in enumerate(zip(self._ports, taps, strict=True)):
                port.tap = tap
                self._watch_side(tap.fileno(), nic, is_guest=False)
            self._wake()
