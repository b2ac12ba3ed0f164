"""The relay of a COLO pair's primary: `output.relay` with a comparison and a channel to the other relay.

The channel is served in the relay's thread, between the NICs and the TAPs, so nothing the event loop does delays a
frame on its way through both guests. `output.colo_base` has the order of the calls."""

from __future__ import annotations

import select
import time
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
from replicator.output.core import boottime_ns
from replicator.output.fast_path import FastPath, PathBack, PathEnd, PathPoll
from replicator.output.frame_channel import FrameChannel
from replicator.output.nic_socket import FrameCosts
from replicator.output.relay import NicEnds, RelayPort, RelayThread
from replicator.units import NS_PER_S, Epoch

_FOREVER_S: Final = 3600.0
#: After so many runs of the fast path that carried nothing it is not asked for so many turns.
_IDLE_RUNS_MAX: Final = 4
_TURNS_WITHOUT: Final = 32


class ColoThread(RelayThread):
    """What both sides' relays have: a core with a channel, which the thread polls."""

    def __init__(
        self,
        ports: Sequence[RelayPort],
        costs: FrameCosts,
        core: ColoCore,
        callbacks: RelayCallbacks,
        *,
        fast: bool,
    ) -> None:
        super().__init__(ports, costs, core, callbacks)
        self._colo = core
        core.before_close = self._forget_channel
        self._channel_fds: tuple[int, ...] = ()
        #: A descriptor of the channel is ready.
        self._channel_is_due = False
        #: What is ordinary goes by this; None makes all go through the core.
        self._path: FastPath | None = FastPath(len(ports)) if fast else None
        #: The thread is on it, with the lock.
        self._is_on_path = False
        #: Meanwhile: since when something was held as it began, or when it began. None otherwise.
        self._path_held_ns: int | None = None
        #: How often it carried nothing lately, and how many turns it is left alone for that.
        self._idle_runs = self._turns_without = 0
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

    def _wait(self) -> list[tuple[int, int]]:
        end = self._take_path()
        if end is None:
            return super()._wait()
        if end is PathEnd.OTHER:
            return self._epoll.poll(0)
        return [(self._wake_fd, select.EPOLLIN)] if end is PathEnd.WOKEN else []

    def _take_path(self) -> PathEnd | None:
        """Let the fast path carry what is ordinary, until something else is to be done. None when it cannot."""
        with self._lock:
            if self._path is None or self._stopping or len(self._channel_fds) != 1 or not self._is_its_turn():
                return None
            loan = self._colo.lend(self._look_at_ns())
            if loan is None:
                return None
            self._is_on_path = True
            try:
                # Who came before this saw nobody to interrupt.
                if self._lock.has_waiter:
                    return None
                self._poll_for_no_room()
                self._path_held_ns = self._colo.held_since_ns()
                poll = PathPoll(self._epoll.fileno(), self._wake_fd, self._channel_fds[0])
                back = self._path.run(poll, self._sides_of_nics(), loan)
            finally:
                self._is_on_path = False
                self._path_held_ns = None
            self._colo.take_back(back)
            self._weigh_path(back)
            return back.end

    def _is_its_turn(self) -> bool:
        """Where all frames are extraordinary it would only be one more thing to ask."""
        self._turns_without = max(self._turns_without - 1, 0)
        return self._turns_without == 0

    def _weigh_path(self, back: PathBack) -> None:
        is_idle = back.is_idle and back.end not in (PathEnd.TIME, PathEnd.WOKEN)
        self._idle_runs = self._idle_runs + 1 if is_idle else 0
        if self._idle_runs >= _IDLE_RUNS_MAX:
            self._idle_runs, self._turns_without = 0, _TURNS_WITHOUT

    def _look_at_ns(self) -> int:
        """When guests are looked for, in the clock of the cores."""
        left_s = max(self._look_at_s - time.monotonic(), 0.0)
        return boottime_ns() + int(left_s * NS_PER_S)

    def _poll_for_no_room(self) -> None:
        """The path does that itself."""
        for nic in self._room_wanted:
            self._epoll.modify(self._ports[nic].socket, select.EPOLLIN)
        self._room_wanted.clear()

    def _sides_of_nics(self) -> list[tuple[int, int]]:
        return [(port.socket.fileno(), -1 if port.tap is None else port.tap.fileno()) for port in self._ports]

    def _interrupt(self) -> None:
        if self._is_on_path:
            self._wake()

    def held_age_ns(self) -> int:
        # Frames that were held when the path began may have left since.
        since_ns = self._path_held_ns
        if since_ns is None:
            return super().held_age_ns()
        return max(boottime_ns() - since_ns, 0)

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
        fast: bool = True,
    ) -> None:
        ports = [RelayPort(one.paths, one.tap) for one in ends]
        costs, callbacks = FrameCosts(), callbacks or RelayCallbacks()
        output = ComparedOutput(guard, mode=mode, bytes_max=hold_bytes_max)
        core = ColoCore(ports, costs, deadline, callbacks, colo or ColoCallbacks(), output)
        super().__init__(ports, costs, core, callbacks, fast=fast)
