"""Everything of the relay but sockets and threads: the same for the real one and the one in memory.

Frames of the guest go through `OutputMachine`, frames for the guest through one `NicInputs` a NIC. Input frames of
all NICs share one count, given when a frame is accepted; a frame without room gets none, so the count has no gaps.
Nothing is written to the network unless the deadline lies ahead at that moment: a freeze of this process between the
look at the clock and the write can let out one frame, never two.

Callbacks are gathered as notices and called by `deliver_notices`, outside the lock of whoever owns this. Not
thread-safe by itself."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from replicator.engine.output import Frame, OutputHold, OutputMachine, OutputMode, Verdict
from replicator.errors import require
from replicator.limits import FRAME_BYTES_MAX, HOLD_BYTES_MAX
from replicator.output.announce import AddressBook, NicAddresses
from replicator.output.base import BarrierMark, Deadline, InputCounters, RelayCallbacks, RelayStats
from replicator.output.inputs import CostTable, NicInputs, Numbered
from replicator.output.nic_socket import Sent
from replicator.units import Epoch

#: Frames of one direction of one NIC before the others get their turn, and in one mirrored batch.
TURN_FRAMES_MAX = 32
#: More than the kernel queues for one socket.
DRAIN_FRAMES_MAX = 4096


def boottime_ns() -> int:
    """The leases' clock: it goes on while the machine sleeps."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class NicPort(Protocol):
    """Both ends of one NIC. No method waits."""

    @property
    def mac(self) -> str: ...

    @property
    def connected(self) -> bool: ...

    def recv_guest(self) -> bytes | None: ...

    def send(self, data: bytes) -> Sent:
        """To the guest."""
        ...

    def unread_bytes(self) -> int: ...

    def recv_network(self) -> bytes | None: ...

    def send_network(self, data: bytes) -> bool: ...


class RelayCore:
    """See the module. `ports` are the guest's NICs in order."""

    def __init__(
        self,
        ports: Sequence[NicPort],
        costs: CostTable,
        deadline: Deadline,
        callbacks: RelayCallbacks,
        *,
        mode: OutputMode = OutputMode.PASS,
        hold_bytes_max: int = HOLD_BYTES_MAX,
        clock: Callable[[], int] = boottime_ns,
        machine: OutputHold | None = None,
    ) -> None:
        """`machine` takes the place of an `OutputMachine` with this `mode` and bound."""
        self.ports = tuple(ports)
        self.inputs = tuple(NicInputs(port, costs) for port in ports)
        self.machine = machine or OutputMachine(mode=mode, bytes_max=hold_bytes_max)
        self._deadline = deadline
        self._callbacks = callbacks
        self._clock = clock
        self._books = tuple(AddressBook(port.mac) for port in ports)
        self._input_held = False
        #: Number of the newest input frame, and what to take off for the session's own count.
        self._newest_seq = 0
        self._base_seq = 0
        self._no_room_frames = 0
        self._muted = False
        self._full_said = False
        self._waiting_said = False
        self._notices: deque[Callable[[], None]] = deque()

    @property
    def muted(self) -> bool:
        return self._muted

    @property
    def has_notices(self) -> bool:
        return bool(self._notices)

    @property
    def may_write(self) -> bool:
        """Whether a frame could be written now."""
        return self.machine.next_leaving() is not None and (not self._muted or self._in_time())

    def deliver_notices(self) -> None:
        while self._notices:
            self._notices.popleft()()

    # The guest's frames.

    def read_guest(self, nic: int, frames_max: int = TURN_FRAMES_MAX) -> bool:
        """Take what the guest has sent. False when its socket was read empty."""
        port = self.ports[nic]
        now_ns = self._clock()
        for _ in range(frames_max):
            data = port.recv_guest()
            if data is None:
                return False
            self._hear_guest(Frame(nic, data), now_ns)
        return True

    def drain_guest(self) -> None:
        """Read every guest socket empty. A guest that runs and sends faster than we read does not keep us here."""
        for nic in range(len(self.ports)):
            self.read_guest(nic, DRAIN_FRAMES_MAX)

    def write_network(self, frames_max: int = TURN_FRAMES_MAX) -> bool:
        """Write what may leave, each frame only before the deadline. False when nothing more may be written now."""
        self._say_if_full()
        if self._muted and self._in_time():
            self._set_muted(False)
        machine = self.machine
        for _ in range(frames_max):
            frame = machine.next_leaving()
            if frame is None:
                return False
            if not self._in_time():
                self._set_muted(True)
                return False
            machine.mark_left(written=self.ports[frame.nic].send_network(frame.data))
        return True

    def drain_and_mark(self, epoch: Epoch) -> BarrierMark:
        require(self._input_held, "hold the inputs before the guest stops")
        self.drain_guest()
        later = [seq for seq in (inputs.note_stop() for inputs in self.inputs) if seq is not None]
        input_seq = min(later) - 1 if later else self._newest_seq
        frames, size = self.machine.mark_barrier(epoch)
        self._full_said = self._waiting_said = False
        return BarrierMark(epoch, max(input_seq - self._base_seq, 0), frames, size)

    def release(self, epoch: Epoch) -> int:
        return self.machine.release(epoch)

    def set_mode(self, mode: OutputMode) -> int:
        return self.machine.set_mode(mode)

    def discard_output(self) -> int:
        self._full_said = False
        return self.machine.discard()

    def set_deadline(self, deadline: Deadline) -> None:
        self._deadline = deadline

    def announce(self, frames: Sequence[Frame]) -> None:
        self.machine.inject(frames, self._clock())

    # Frames for the guest.

    def read_network(self, nic: int) -> bool:
        """Number what the network has for the guest, give it or let it wait. False when it has nothing."""
        port = self.ports[nic]
        found: list[bytes] = []
        while len(found) < TURN_FRAMES_MAX and (data := port.recv_network()) is not None:
            found.append(data)
        self._hear_network(nic, found)
        return bool(found)

    def replay(self, frames: Sequence[Frame]) -> None:
        """Regardless of the room for live frames: the log they come from has its own bound."""
        first_seq = self._newest_seq + 1
        for frame in frames:
            require(0 <= frame.nic < len(self.ports), f"replay for NIC {frame.nic}")
            self._number(frame)
        for inputs in self.inputs:
            inputs.deliver()
        for start in range(0, len(frames), TURN_FRAMES_MAX):
            self._mirror(first_seq + start, frames[start : start + TURN_FRAMES_MAX])

    def hold_input(self) -> None:
        self._input_held = True
        for inputs in self.inputs:
            inputs.hold()
        self.drain_guest()

    def note_unread(self) -> int:
        return sum(inputs.note_unread() for inputs in self.inputs)

    def resume_input(self) -> None:
        self._input_held = False
        for inputs in self.inputs:
            inputs.resume()

    def restart_inputs(self) -> None:
        self._base_seq = self._newest_seq

    # What it looks like from outside.

    def addresses(self) -> tuple[NicAddresses, ...]:
        return tuple(book.known() for book in self._books)

    def stats(self) -> RelayStats:
        output = self.machine.counters()
        oldest_ns = output.oldest_held_ns
        return RelayStats(
            output=output,
            input=self._input_counters(),
            oldest_held_age_ns=0 if oldest_ns is None else max(self._clock() - oldest_ns, 0),
            muted=self._muted,
            connected=all(port.connected for port in self.ports),
        )

    def _input_counters(self) -> InputCounters:
        return InputCounters(
            newest_seq=self._newest_seq - self._base_seq,
            given_frames=sum(one.given_frames for one in self.inputs),
            waiting_frames=sum(one.waiting_frames for one in self.inputs),
            waiting_bytes=sum(one.waiting_bytes for one in self.inputs),
            dropped_frames=self._no_room_frames + sum(one.dropped_frames for one in self.inputs),
            repeated_frames=sum(one.repeated_frames for one in self.inputs),
        )

    def _hear_guest(self, frame: Frame, now_ns: int) -> None:
        if not 0 < len(frame.data) <= FRAME_BYTES_MAX:
            self.machine.count_lost()
            return
        self._books[frame.nic].learn_output(frame.data)
        if self.machine.hold(frame, now_ns) is Verdict.HELD:
            self._say_waiting()

    def _hear_network(self, nic: int, found: Sequence[bytes]) -> None:
        inputs = self.inputs[nic]
        first_seq = self._newest_seq + 1
        accepted: list[Frame] = []
        for data in found:
            if inputs.has_room(len(data)):
                accepted.append(self._number(Frame(nic, data)))
            else:
                self._no_room_frames += 1
        self._mirror(first_seq, accepted)
        inputs.deliver()

    def _number(self, frame: Frame) -> Frame:
        """Let `frame` be the next input."""
        self._newest_seq += 1
        self.inputs[frame.nic].accept(Numbered(self._newest_seq, frame.data))
        return frame

    def _mirror(self, first_seq: int, frames: Sequence[Frame]) -> None:
        if not frames:
            return
        batch, on_input, session_seq = tuple(frames), self._callbacks.on_input, first_seq - self._base_seq
        self._notices.append(lambda: on_input(session_seq, batch))

    def _in_time(self) -> bool:
        return self._clock() < self._deadline.deadline_ns

    def _set_muted(self, muted: bool) -> None:
        if muted is not self._muted:
            self._muted = muted
            self._notices.append(self._callbacks.on_muted if muted else self._callbacks.on_unmuted)

    def _say_waiting(self) -> None:
        """A frame waits for its epoch's commit."""
        if not self._waiting_said:
            self._waiting_said = True
            self._notices.append(self._callbacks.on_output_waiting)

    def _say_if_full(self) -> None:
        if self.machine.full and not self._full_said:
            self._full_said = True
            self._notices.append(self._callbacks.on_hold_full)
