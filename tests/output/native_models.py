"""The native parts of the relay behind the faces of the Python ones, so that one driver can drive both."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from replicator._native import ffi, lib
from replicator.engine.output import Frame, OutputCounters, OutputMode, Verdict
from replicator.errors import require
from replicator.output.announce import NicAddresses, parse_mac
from replicator.output.inputs import Numbered
from replicator.output.memory import frame_cost
from replicator.output.native_relay import output_counters, told_addresses
from replicator.output.nic_socket import Sent
from replicator.units import Epoch

MODES = {OutputMode.PASS: lib.RP_MODE_PASS, OutputMode.HOLD: lib.RP_MODE_HOLD}
PEEK_FRAMES = 8
#: The largest frame that the guest of the model takes, and how many it queues.
GIVEN_BYTES_MAX = 1000
QUEUE_FRAMES = 70


class NativeHold:
    """OutputMachine over `rp_hold`."""

    def __init__(self, *, mode: OutputMode, bytes_max: int) -> None:
        made = ffi.new("struct rp_hold **")
        assert lib.rp_hold_create(bytes_max, MODES[mode], made) == 0
        self._hold = ffi.gc(made[0], lib.rp_hold_destroy)

    @property
    def full(self) -> bool:
        return bool(lib.rp_hold_is_full(self._hold))

    def hold(self, frame: Frame, now_ns: int) -> Verdict:
        if not lib.rp_hold_add(self._hold, frame.nic, frame.data, len(frame.data), now_ns):
            return Verdict.LOST
        return Verdict.HELD if self.counters().mode is OutputMode.HOLD else Verdict.LEAVING

    def inject(self, frames: list[Frame], now_ns: int) -> None:
        for frame in frames:
            assert lib.rp_hold_inject(self._hold, frame.nic, frame.data, len(frame.data), now_ns)

    def mark_barrier(self, epoch: Epoch) -> tuple[int, int]:
        frames, size = ffi.new("uint64_t *"), ffi.new("uint64_t *")
        require(lib.rp_hold_mark_barrier(self._hold, epoch, frames, size) == 0, "barrier")
        return frames[0], size[0]

    def release(self, epoch: Epoch) -> int:
        frames = ffi.new("uint64_t *")
        require(lib.rp_hold_release(self._hold, epoch, frames) == 0, "release")
        return int(frames[0])

    def set_mode(self, mode: OutputMode) -> int:
        return int(lib.rp_hold_set_mode(self._hold, MODES[mode]))

    def next_leaving(self) -> Frame | None:
        frame = lib.rp_hold_next_leaving(self._hold)
        return None if frame == ffi.NULL else Frame(frame.nic, data_of(frame))

    def mark_left(self, *, written: bool = True) -> None:
        lib.rp_hold_mark_left(self._hold, written)

    def discard(self) -> int:
        return int(lib.rp_hold_discard(self._hold))

    def count_lost(self, frames: int = 1) -> None:
        lib.rp_hold_count_lost(self._hold, frames)

    def counters(self) -> OutputCounters:
        counters = ffi.new("struct rp_hold_counters *")
        lib.rp_hold_count(self._hold, counters)
        return output_counters(counters)


@dataclass
class ModelGuest:
    """The guest's end of a NIC: a queue, and all that was ever put there."""

    queue: deque[bytes] = field(default_factory=deque)
    given: list[bytes] = field(default_factory=list)
    is_there: bool = True

    def send(self, data: bytes) -> Sent:
        if not self.is_there:
            return Sent.GONE
        if len(data) > GIVEN_BYTES_MAX:
            return Sent.REFUSED
        if len(self.queue) >= QUEUE_FRAMES:
            return Sent.FULL
        self.queue.append(data)
        self.given.append(data)
        return Sent.GIVEN

    def unread_bytes(self) -> int:
        return sum(map(frame_cost, map(len, self.queue))) if self.is_there else 0

    def read(self, count: int) -> None:
        for _ in range(min(count, len(self.queue))):
            self.queue.popleft()

    def go(self) -> None:
        self.is_there = False
        self.queue.clear()


class ModelCosts:
    def cost(self, size: int) -> int:
        return frame_cost(size)


class NativeInputs:
    """NicInputs over `rp_inputs`; what the relay's sources do around it is done here."""

    def __init__(self, guest: ModelGuest) -> None:
        self._guest = guest
        made = ffi.new("struct rp_inputs **")
        assert lib.rp_inputs_create(made) == 0
        self._inputs = ffi.gc(made[0], lib.rp_inputs_destroy)

    def has_room(self, size: int) -> bool:
        return bool(lib.rp_inputs_has_room(self._inputs, size))

    def accept(self, frame: Numbered) -> None:
        assert lib.rp_inputs_accept(self._inputs, frame.seq, frame.data, len(frame.data)) == 0

    def deliver(self) -> None:
        frames = ffi.new(f"struct rp_frame *[{PEEK_FRAMES}]")
        while count := lib.rp_inputs_peek(self._inputs, frames, PEEK_FRAMES):
            for frame in frames[0:count]:
                data = data_of(frame)
                sent = self._guest.send(data)
                if sent is Sent.FULL or sent is Sent.GONE:
                    return
                if sent is Sent.REFUSED:
                    lib.rp_inputs_mark_refused(self._inputs)
                    break
                lib.rp_inputs_mark_given(self._inputs, frame_cost(len(data)))
            if lib.rp_inputs_wants_look(self._inputs):
                lib.rp_inputs_prune(self._inputs, self._guest.unread_bytes())

    def hold(self) -> None:
        lib.rp_inputs_hold(self._inputs)
        self.note_unread()

    def note_unread(self) -> int:
        unread = ffi.new("uint64_t *")
        code = lib.rp_inputs_note_unread(self._inputs, self._guest.unread_bytes(), unread)
        require(code == 0, "unread")
        return int(unread[0])

    def note_stop(self) -> int | None:
        oldest = ffi.new("uint64_t *")
        code = lib.rp_inputs_note_stop(self._inputs, self._guest.unread_bytes(), oldest)
        require(code == 0, "stop")
        return oldest[0] or None

    def doubtful(self) -> list[bytes]:
        frames = ffi.new("struct rp_frame *[256]")
        return [data_of(frame) for frame in frames[0 : lib.rp_inputs_doubtful(self._inputs, frames, 256)]]

    def resume(self) -> None:
        lib.rp_inputs_resume(self._inputs)
        self.deliver()

    def forget_given(self) -> None:
        lib.rp_inputs_forget_given(self._inputs)

    def counts(self) -> tuple[int, int, int, int, int]:
        """given, waiting, bytes that wait, refused, repeated."""
        made = ffi.new("struct rp_input_counters *")
        lib.rp_inputs_count(self._inputs, made)
        return (
            made.given_frames,
            made.waiting_frames,
            made.waiting_bytes,
            made.refused_frames,
            made.repeated_frames,
        )


class NativeBook:
    """AddressBook over `rp_book`."""

    def __init__(self, mac: str) -> None:
        self._mac = mac
        self._book = ffi.new("struct rp_book *")
        lib.rp_book_init(self._book, parse_mac(mac))

    def learn_output(self, frame: bytes) -> None:
        lib.rp_book_learn(self._book, frame, len(frame))

    def known(self) -> NicAddresses:
        return told_addresses(self._mac, self._book)


def data_of(frame: Any) -> bytes:
    return bytes(ffi.buffer(frame.data, frame.size))
