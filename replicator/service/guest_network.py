"""The guest's way to the network on this host: its TAPs, and the relay between them and its NICs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from replicator.arbiter.keeper import LeaseDeadline
from replicator.engine.output import Frame
from replicator.errors import ConfigError
from replicator.guests.base import Guest
from replicator.output.base import OutputPort, RelayCallbacks
from replicator.output.relay import NicEnds
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

    def open(self, guest: Guest, replay: Sequence[Frame], callbacks: RelayCallbacks) -> OutputPort:
        """A relay that runs. `replay` goes to the guest before any other input."""
        with naming(self._config.path, "[guest] taps"):
            for name in self._config.guest.taps:
                self._taps.append(open_tap(name))
        ends = [NicEnds(nic, tap) for nic, tap in zip(guest.nics, self._taps, strict=True)]
        relay = self._make_relay(ends, deadline=self._deadline, callbacks=callbacks)
        if replay:
            relay.replay(replay)
        relay.start()
        return relay

    def close(self) -> None:
        """After the relay has stopped. May be repeated."""
        for tap in self._taps:
            tap.close()
        self._taps.clear()
