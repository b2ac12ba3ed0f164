"""The guest's way to the network on this host: its TAPs, and the relay between them and its NICs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from replicator.arbiter.keeper import LeaseDeadline
from replicator.clock import SYSTEM_CLOCK
from replicator.compare.guard import Guard
from replicator.compare.loading import load_comparer
from replicator.engine.output import Frame
from replicator.errors import ConfigError
from replicator.guests.base import Guest, NicEndpoint
from replicator.output.base import OutputPort, RelayCallbacks
from replicator.output.colo_base import ColoCallbacks, SecondaryPort
from replicator.output.colo_relay import ColoRelay
from replicator.output.relay import NicEnds
from replicator.output.secondary_relay import SecondaryRelay
from replicator.output.tap import Tap, open_tap
from replicator.service.config import DaemonConfig
from replicator.service.config_rules import naming


class GuestNetwork:
    """`make_relay` is called with the ends of the guest's NICs, the deadline and callbacks."""

    def __init__(
        self, config: DaemonConfig, deadline: LeaseDeadline, make_relay: Callable[..., OutputPort]
    ) -> None:
        self._config = config
        self._deadline = deadline
        self._make_relay = make_relay
        self._taps: list[Tap] = []

    def check(self, nics: int) -> None:
        """ConfigError or GuestError unless a TAP for each NIC is there: found out now, and not at a take-over."""
        taps = self._config.guest.taps
        with naming(self._config.path, "[guest] taps"):
            if len(taps) != nics:
                raise ConfigError(
                    f"{len(taps)} devices are named, the guest has {nics} NICs",
                    hint=f"name {nics} TAP devices, in the order of the NICs in {self._config.guest_file}",
                )
            for name in taps:
                open_tap(name).close()

    def open(
        self, guest: Guest, replay: Sequence[Frame], callbacks: RelayCallbacks, colo: ColoCallbacks
    ) -> OutputPort:
        """A relay that runs. `replay` goes to the guest before any other input."""
        self._open_taps()
        ends = [NicEnds(nic, tap) for nic, tap in zip(guest.nics, self._taps, strict=True)]
        relay: OutputPort
        if self._config.is_colo:
            relay = ColoRelay(
                ends, self._make_guard(), deadline=self._deadline, callbacks=callbacks, colo=colo
            )
        else:
            relay = self._make_relay(ends, deadline=self._deadline, callbacks=callbacks)
        if replay:
            relay.replay(replay)
        relay.start()
        return relay

    def stand_by(
        self, nics: Sequence[NicEndpoint], callbacks: RelayCallbacks, colo: ColoCallbacks
    ) -> SecondaryPort:
        """The relay of a secondary's VM, which runs and cannot speak."""
        relay = SecondaryRelay(nics, self._make_guard(), callbacks=callbacks, colo=colo)
        relay.start()
        return relay

    def give_voice(self, relay: SecondaryPort) -> None:
        """From now on that VM is the guest, and speaks under the deadline."""
        self._open_taps()
        relay.take_over(self._taps, deadline=self._deadline)

    def _open_taps(self) -> None:
        with naming(self._config.path, "[guest] taps"):
            for name in self._config.guest.taps:
                self._taps.append(open_tap(name))

    def _make_guard(self) -> Guard:
        colo = self._config.colo
        return load_comparer(colo.comparer, colo.options).guarded(SYSTEM_CLOCK.monotonic_ns)

    def close(self) -> None:
        """After the relay has stopped. May be repeated."""
        for tap in self._taps:
            tap.close()
        self._taps.clear()
