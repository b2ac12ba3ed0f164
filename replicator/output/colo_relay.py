"""The relay of a COLO pair's primary: `output.relay` with a comparison and a channel to the other relay.

The channel is served in the relay's thread, between the NICs and the TAPs, so nothing the event loop does delays a
frame on its way through both guests. `output.colo_base` has the order of the calls."""

from __future__ import annotations

import select
from collections.abc import Sequence
from typing import Final

from replicator.compare.guard import Guard
from replicator.engine.compare.compared_output import ComparedOutput
from replicator.engine.compare.counters import CompareStatus
from replicator.engine.output import OutputMode
from replicator.limits import HOLD_BYTES_MAX
from replicator.output.base import UNLIMITED, Deadline, RelayCallbacks
from replicator.output.colo_base import ColoCallbacks
from replicator.output.colo_core import ColoCore
from replicator.output.frame_channel import FrameChannel
from replicator.output.nic_socket import FrameCosts
from replicator.output.relay import NicEnds, RelayPort, RelayThread
from replicator.units import NS_PER_S, Epoch

_FOREVER_S: Final = 3600.0


class ColoThread(RelayThread):
    """What both sides' relays have: a core with a channel, which the thread polls."""

    def __init__(
        self, ports: Sequence[RelayPort], costs: FrameCosts, core: ColoCore, callbacks: RelayCallbacks
    ) -> None:
        super().__init__(ports, costs, core, callbacks)
        self._colo = core
        core.before_close = self._forget_channel
        self._channel_fds: tuple[int, ...] = ()
        #: A descriptor of the channel is ready.
        self._channel_is_due = False
        #: How long the thread may wait at most, as far as the channel and the comparison are concerned.
        self._look_in_s = _FOREVER_S

    def attach(self, channel: FrameChannel) -> None:
        """This session's channel to the other relay. From now on it is this relay's to use and to close."""
        with self._lock:
            self._check()
            self._colo.attach(channel)
            self._channel_fds = channel.filenos()
            for fd in self._channel_fds:
                self._epoll.register(fd, select.EPOLLIN)
            # It may have news that no descriptor tells of.
            self._wake()

    def detach(self) -> None:
        """Close the channel, if there is one. May be repeated, also after the relay's end."""
        with self._lock:
            self._colo.detach()
            self._wake()

    def compare(self, epoch: Epoch) -> bool:
        with self._lock:
            self._check()
            is_comparing = self._colo.compare(epoch)
            self._wake()
            return is_comparing

    def stop_comparing(self) -> None:
        with self._lock:
            self._check()
            self._colo.stop_comparing()
            self._wake()

    def compare_status(self) -> CompareStatus | None:
        """None while nothing is compared."""
        with self._lock:
            return self._colo.compare_status()

    def _serve(self, fd: int) -> None:
        if fd in self._channel_fds:
            self._channel_is_due = True
        else:
            super()._serve(fd)

    def _serve_more(self) -> None:
        if self._channel_is_due or self._has_news():
            self._channel_is_due = False
            self._colo.serve_channel()
        self._colo.pass_time()

    def _finish_turn(self) -> None:
        if self._has_news():
            self._look_in_s = 0.0
        else:
            look_in_ns = self._colo.look_in_ns
            self._look_in_s = _FOREVER_S if look_in_ns is None else look_in_ns / NS_PER_S

    def _has_news(self) -> bool:
        channel = self._colo.channel
        return channel is not None and channel.has_news()

    def _patience_s(self) -> float:
        return min(super()._patience_s(), self._look_in_s)

    def _wake_if_needed(self) -> None:
        # A call may have begun a wait that ends before the thread looks again.
        if self._colo.look_in_ns is not None:
            self._wake()
        else:
            super()._wake_if_needed()

    def _forget_channel(self, _channel: FrameChannel) -> None:
        fds, self._channel_fds = self._channel_fds, ()
        if not self._closed:
            for fd in fds:
                self._epoll.unregister(fd)

    def _close(self) -> None:
        self._colo.detach()
        super()._close()


class ColoRelay(ColoThread):
    """The relay of a primary. `guard` is the comparer; without a channel this is a relay as any other."""

    def __init__(
        self,
        ends: Sequence[NicEnds],
        guard: Guard,
        *,
        deadline: Deadline = UNLIMITED,
        callbacks: RelayCallbacks | None = None,
        colo: ColoCallbacks | None = None,
        mode: OutputMode = OutputMode.PASS,
        hold_bytes_max: int = HOLD_BYTES_MAX,
    ) -> None:
        ports = [RelayPort(one.paths, one.tap) for one in ends]
        costs, callbacks = FrameCosts(), callbacks or RelayCallbacks()
        output = ComparedOutput(guard, mode=mode, bytes_max=hold_bytes_max)
        core = ColoCore(ports, costs, deadline, callbacks, colo or ColoCallbacks(), output)
        super().__init__(ports, costs, core, callbacks)
