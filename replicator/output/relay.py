"""The relay in Python: unix sockets of the guest's NICs on one side, TAP devices on the other, a thread in between.
Guests have the native one (`output.native_relay`); this is what the tests compare it with.

A thread and not the event loop, because a frame's way may not wait for the loop's other work. One lock guards the
core; the thread holds it for one turn at a time and never while it waits. What a checkpoint asks for (`hold_input`,
`drain_and_mark` and so on) is done in the caller's thread under that lock: no switch of threads while the guest
stands still. Frames leave only from the relay's own thread.

The guest's process may come, go and come again; its socket is looked for every `_LOOK_S`. An error that says that a
device is gone ends the thread: nothing leaves any more, `on_failed` is called and each later call raises."""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from replicator import urgency
from replicator.engine.output import Frame, OutputMode
from replicator.errors import GuestError, InvariantError, ReplicatorError, require
from replicator.limits import HOLD_BYTES_MAX
from replicator.output.announce import NicAddresses
from replicator.output.base import UNLIMITED, BarrierMark, Deadline, RelayCallbacks, RelayStats
from replicator.output.core import TURN_FRAMES_MAX, RelayCore
from replicator.output.fair_lock import FairLock
from replicator.output.nic_socket import FrameCosts, NicPaths, NicSocket
from replicator.units import Epoch

_LOG = logging.getLogger(__name__)

#: How often to look for another process at the guest's path.
_LOOK_S: Final = 0.1
#: The same while nobody is there.
_LOOK_ABSENT_S: Final = 0.01
#: How often a mute relay looks whether its deadline was moved.
_LOOK_MUTED_S: Final = 0.005
#: Between two looks whether the guest has taken its inputs.
_QUIESCE_STEP_S: Final = 0.00005
_STOP_S: Final = 5.0


class TapDevice(Protocol):
    """What a relay needs of a TAP."""

    @property
    def name(self) -> str: ...

    def fileno(self) -> int: ...

    def read_frame(self) -> bytes | None: ...

    def write_frame(self, data: bytes) -> bool: ...


@dataclass(frozen=True, slots=True)
class NicEnds:
    """Where a NIC's frames come from and go to. The TAP stays the caller's to close, after the relay's end."""

    paths: NicPaths
    tap: TapDevice


class RelayPort:
    """One NIC of the relay; without a TAP it has no network."""

    def __init__(self, paths: NicPaths, tap: TapDevice | None = None) -> None:
        self.tap = tap
        self.mac = paths.mac
        self.socket = NicSocket(paths)
        self.recv_guest = self.socket.recv
        self.send = self.socket.send
        self.unread_bytes = self.socket.unread_bytes

    @property
    def connected(self) -> bool:
        return self.socket.connected

    def recv_network(self) -> bytes | None:
        return None if self.tap is None else self.tap.read_frame()

    def send_network(self, data: bytes) -> bool:
        return self.tap is not None and self.tap.write_frame(data)


class RelayThread:
    """A core with sockets, a thread and a lock; `Relay` and the relays of COLO are such.

    Raises GuestError from any call once the relay has failed."""

    def __init__(
        self, ports: Sequence[RelayPort], costs: FrameCosts, core: RelayCore, callbacks: RelayCallbacks
    ) -> None:
        self._ports = tuple(ports)
        self._callbacks = callbacks
        self._costs = costs
        self._core = core
        self._lock = FairLock(self._interrupt)
        self._epoll = select.epoll()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake_fd, select.EPOLLIN)
        #: fd -> (NIC, whether it is the guest's side)
        self._sides: dict[int, tuple[int, bool]] = {}
        #: NICs whose socket is polled for room at the guest's side.
        self._room_wanted: set[int] = set()
        #: Frames of all ports in one turn, and some that are let go by it.
        self._turn_frames_max = TURN_FRAMES_MAX * (len(self._ports) + 1)
        self._look_at_s = 0.0
        self._stopping = False
        self._closed = False
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)

    # Life.

    def start(self) -> None:
        """Bind the sockets and begin. GuestError when a socket cannot be made."""
        with self._lock:
            require(not self._sides and not self._closed, "a relay starts once")
            try:
                for nic, port in enumerate(self._ports):
                    self._open_port(nic, port)
            except BaseException:
                self._close()
                raise
        self._thread.start()

    def stop(self) -> None:
        """End the thread, close and remove the sockets. May be repeated; not from a callback."""
        require(self._thread is not threading.current_thread(), "the relay's thread cannot wait for itself")
        with self._lock:
            self._stopping = True
            self._wake()
        if self._thread.ident is not None:
            self._thread.join(_STOP_S)
            require(not self._thread.is_alive(), "the relay's thread does not end: a callback blocks it")
        with self._lock:
            self._close()

    # Inputs.

    def hold_input(self) -> None:
        with self._lock:
            self._check()
            self._core.hold_input()
            self._wake_if_needed()

    def quiesce_input(self, timeout_s: float) -> int:
        end_s = time.monotonic() + timeout_s
        while True:
            with self._lock:
                self._check()
                unread = self._core.note_unread()
            if not unread or time.monotonic() >= end_s:
                return unread
            time.sleep(_QUIESCE_STEP_S)

    def resume_input(self) -> None:
        with self._lock:
            self._check()
            self._core.resume_input()
            self._wake_if_needed()

    def restart_inputs(self) -> None:
        with self._lock:
            self._core.restart_inputs()

    def replay(self, frames: Sequence[Frame]) -> None:
        with self._lock:
            self._core.replay(frames)
            self._wake_if_needed()

    # Outputs.

    def drain_and_mark(self, epoch: Epoch) -> BarrierMark:
        with self._lock:
            self._check()
            mark = self._core.drain_and_mark(epoch)
            self._wake_if_needed()
            return mark

    def release(self, epoch: Epoch) -> int:
        with self._lock:
            self._check()
            released = self._core.release(epoch)
            self._wake_if_needed()
            return released

    def set_mode(self, mode: OutputMode) -> int:
        with self._lock:
            self._check()
            let_go = self._core.set_mode(mode)
            self._wake_if_needed()
            return let_go

    def discard_output(self) -> int:
        """Also of a relay that failed or ended."""
        with self._lock:
            return self._core.discard_output()

    def set_deadline(self, deadline: Deadline) -> None:
        with self._lock:
            self._core.set_deadline(deadline)
            self._wake_if_needed()

    def announce(self, frames: Sequence[Frame]) -> None:
        with self._lock:
            self._check()
            self._core.announce(frames)
            self._wake_if_needed()

    # Looks.

    def addresses(self) -> tuple[NicAddresses, ...]:
        with self._lock:
            return self._core.addresses()

    def held_age_ns(self) -> int:
        return self.stats().oldest_held_age_ns

    def stats(self) -> RelayStats:
        with self._lock:
            return self._core.stats()

    # The thread.

    def _run(self) -> None:
        failure: Exception | None = GuestError("unexpected error in the relay's thread, see the log")
        urgency.hurry()
        try:
            while self._turn():
                self._core.deliver_notices()
            failure = None
        except (ReplicatorError, InvariantError, OSError) as error:
            _LOG.exception("the relay ended by itself; nothing leaves any more")
            failure = error
        finally:
            # Any other exception goes its way to the thread's hook, after this.
            if failure is not None:
                self._failure = failure
                self._callbacks.on_failed(failure)

    def _turn(self) -> bool:
        """Wait, then one turn for each side that has something. False when the relay shall end."""
        ready = self._wait()
        with self._lock:
            if self._stopping:
                return False
            for fd, _ in ready:
                self._serve(fd)
            self._serve_more()
            self._core.write_network(self._turn_frames_max)
            self._look_for_guests()
            self._poll_for_room()
            self._finish_turn()
        return True

    def _wait(self) -> list[tuple[int, int]]:
        """The descriptors that have something."""
        return self._epoll.poll(self._patience_s())

    def _patience_s(self) -> float:
        """How long to wait for a descriptor."""
        if self._core.has_notices or self._core.may_write:
            return 0.0
        if self._core.muted:
            return _LOOK_MUTED_S
        return _LOOK_S if all(port.connected for port in self._ports) else _LOOK_ABSENT_S

    def _serve(self, fd: int) -> None:
        if fd == self._wake_fd:
            os.eventfd_read(fd)
            return
        if fd not in self._sides:
            return
        nic, is_guest = self._sides[fd]
        if not is_guest:
            self._core.read_network(nic)
            return
        self._core.read_guest(nic)
        if nic in self._room_wanted:
            self._core.inputs[nic].deliver()

    def _interrupt(self) -> None:
        """Somebody waits for the lock; for those whose thread may keep it for long."""

    def _serve_more(self) -> None:
        """What a turn has to do beside the descriptors of NICs."""

    def _finish_turn(self) -> None:
        """The last look before the thread waits, under the lock."""

    def _look_for_guests(self) -> None:
        """Connect to processes that came, and to those that took a former one's place."""
        now_s = time.monotonic()
        if now_s < self._look_at_s:
            return
        self._connect_guests()
        connected = all(port.connected for port in self._ports)
        self._look_at_s = now_s + (_LOOK_S if connected else _LOOK_ABSENT_S)

    def _connect_guests(self) -> None:
        for nic, port in enumerate(self._ports):
            if port.connected and not port.socket.peer_changed():
                continue
            self._core.read_guest(nic)
            self._core.inputs[nic].forget_given()
            if port.socket.connect():
                self._core.inputs[nic].deliver()

    def _poll_for_room(self) -> None:
        """Ask for room at the guest's side exactly while frames wait for it."""
        for nic, port in enumerate(self._ports):
            wanted = port.connected and self._core.inputs[nic].wants_room
            if wanted is (nic in self._room_wanted):
                continue
            self._epoll.modify(port.socket, select.EPOLLIN | (select.EPOLLOUT if wanted else 0))
            self._room_wanted ^= {nic}

    # Under the lock.

    def _open_port(self, nic: int, port: RelayPort) -> None:
        port.socket.open()
        self._watch_side(port.socket.fileno(), nic, is_guest=True)
        if port.tap is not None:
            self._watch_side(port.tap.fileno(), nic, is_guest=False)
        self._core.inputs[nic].deliver()

    def _watch_side(self, fd: int, nic: int, *, is_guest: bool) -> None:
        self._sides[fd] = (nic, is_guest)
        self._epoll.register(fd, select.EPOLLIN)

    def _check(self) -> None:
        if self._failure is not None:
            raise GuestError(f"the relay has failed: {self._failure}") from self._failure
        if self._closed:
            raise GuestError("the relay has ended")

    def _wake_if_needed(self) -> None:
        """Let the thread go round when there is something only it does."""
        core = self._core
        room = any(one.wants_room for one in core.inputs)
        if room or core.has_notices or core.machine.next_leaving() is not None:
            self._wake()

    def _wake(self) -> None:
        if not self._closed:
            os.eventfd_write(self._wake_fd, 1)

    def _close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for port in self._ports:
            port.socket.close()
        self._epoll.close()
        os.close(self._wake_fd)
        self._costs.close()


class Relay(RelayThread):
    """The OutputPort of a guest with real NICs. See `output.base` for the order of calls.

    `ends` are the guest's NICs in order; `deadline` is read before each write to a TAP."""

    def __init__(
        self,
        ends: Sequence[NicEnds],
        *,
        deadline: Deadline = UNLIMITED,
        callbacks: RelayCallbacks | None = None,
        mode: OutputMode = OutputMode.PASS,
        hold_bytes_max: int = HOLD_BYTES_MAX,
    ) -> None:
        ports = [RelayPort(one.paths, one.tap) for one in ends]
        costs, callbacks = FrameCosts(), callbacks or RelayCallbacks()
        core = RelayCore(ports, costs, deadline, callbacks, mode=mode, hold_bytes_max=hold_bytes_max)
        super().__init__(ports, costs, core, callbacks)
