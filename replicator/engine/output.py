"""Output commit: which frame of the guest belongs to which epoch, and when it may leave.

`OutputMachine` takes the guest's frames in order. In HOLD mode a frame stays in the open epoch until a barrier closes
it, and leaves only after that epoch was released. In PASS mode (unprotected, or alone by grant) a frame may leave at
once. Leaving is two steps, `next_leaving` and `mark_left`, because who writes asks a clock before each frame: a frame
that may not be written yet stays here, in its place, and is still counted as held.

Rules kept: frames leave in the order they came; each leaves at most once; none of an epoch that was not released
leaves in HOLD mode; what is held never exceeds the bound. `full` asks for the epoch to be closed early, at half of
the bound; what does not fit the whole bound is lost, and counted.

`InputLog` is the other direction on the secondary: numbered frames that the guest received, kept until a committed
checkpoint contains them, so that a take-over can give the guest those it would otherwise never see.

This file does not know sockets, clocks or leases."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, Protocol

from replicator.errors import require
from replicator.frozen import frozen
from replicator.limits import HOLD_BYTES_MAX, INPUT_LOG_BYTES_MAX
from replicator.units import Epoch

#: What a frame costs beside its bytes; small frames may not evade a bound on bytes.
FRAME_OVERHEAD_BYTES = 128


class Frame(NamedTuple):
    """One Ethernet frame of the NIC with this index (order of the guest's `nics`)."""

    nic: int
    data: bytes

    def pack(self) -> bytes:
        """The frame in one piece, for the mirror to the secondary: a byte for the NIC, then the frame."""
        return bytes((self.nic,)) + self.data

    @classmethod
    def unpack(cls, packed: bytes | memoryview) -> Frame:
        """Of `pack`, not empty. Copies."""
        require(len(packed) > 0, "a packed frame names its NIC")
        return cls(packed[0], bytes(packed[1:]))


class OutputMode(Enum):
    HOLD = "hold"
    PASS = "pass"


class Verdict(Enum):
    """What became of a frame of the guest."""

    HELD = "held"
    #: Held until the secondary's guest has said the same (engine/compare/compared_output.py).
    COMPARING = "comparing"
    LEAVING = "leaving"
    LOST = "lost"


class _Held(NamedTuple):
    frame: Frame
    at_ns: int


@dataclass(slots=True)
class _Closed:
    epoch: Epoch
    frames: list[_Held]


@frozen
class OutputCounters:
    """A copy of the machine's numbers. Held covers the open epoch, closed ones, and released but unwritten frames."""

    mode: OutputMode
    held_frames: int
    held_bytes: int
    #: When the oldest held frame came; None when nothing is held.
    oldest_held_ns: int | None
    #: Frames written after a hold or in pass mode.
    left_frames: int
    left_bytes: int
    #: Frames that found no room or could not be written.
    lost_frames: int
    #: Frames thrown away by a fence.
    discarded_frames: int


class OutputHold(Protocol):
    """What a relay needs of whoever decides when its guest's frames leave; `OutputMachine` says what each does."""

    @property
    def held_frames(self) -> int: ...

    @property
    def full(self) -> bool: ...

    def hold(self, frame: Frame, now_ns: int) -> Verdict: ...

    def inject(self, frames: Sequence[Frame], now_ns: int) -> None: ...

    def mark_barrier(self, epoch: Epoch) -> tuple[int, int]: ...

    def release(self, epoch: Epoch) -> int: ...

    def set_mode(self, mode: OutputMode) -> int: ...

    def next_leaving(self) -> Frame | None: ...

    def mark_left(self, *, written: bool = True) -> None: ...

    def discard(self) -> int: ...

    def count_lost(self, frames: int = 1) -> None: ...

    def counters(self) -> OutputCounters: ...


class OutputMachine:
    """One guest's outgoing frames, all NICs together."""

    def __init__(self, *, mode: OutputMode = OutputMode.PASS, bytes_max: int = HOLD_BYTES_MAX) -> None:
        require(bytes_max > 0, "the hold needs room")
        self._mode = mode
        self._bytes_max = bytes_max
        self._open: list[_Held] = []
        #: Ascending epochs, each closed by a barrier and not released.
        self._closed: deque[_Closed] = deque()
        #: Allowed to leave, not written yet.
        self._leaving: deque[_Held] = deque()
        #: Newest epoch that a barrier closed; released <= closed.
        self._closed_epoch = Epoch(0)
        self._released_epoch = Epoch(0)
        self._held_frames = 0
        self._held_bytes = 0
        self._left_frames = 0
        self._left_bytes = 0
        self._lost_frames = 0
        self._discarded_frames = 0

    @property
    def mode(self) -> OutputMode:
        return self._mode

    @property
    def held_frames(self) -> int:
        return self._held_frames

    @property
    def held_bytes(self) -> int:
        return self._held_bytes

    @property
    def full(self) -> bool:
        """The open epoch should be closed early: it holds frames, and half of the bound is used."""
        return bool(self._open) and 2 * self._cost() >= self._bytes_max

    def hold(self, frame: Frame, now_ns: int) -> Verdict:
        """Take the guest's next frame."""
        if self._cost() + len(frame.data) + FRAME_OVERHEAD_BYTES > self._bytes_max:
            self._lost_frames += 1
            return Verdict.LOST
        self._held_frames += 1
        self._held_bytes += len(frame.data)
        if self._mode is OutputMode.PASS:
            self._leaving.append(_Held(frame, now_ns))
            return Verdict.LEAVING
        self._open.append(_Held(frame, now_ns))
        return Verdict.HELD

    def inject(self, frames: Sequence[Frame], now_ns: int) -> None:
        """Frames of ours (announcements) that leave in either mode, after what is leaving already."""
        for frame in frames:
            self._held_frames += 1
            self._held_bytes += len(frame.data)
            self._leaving.append(_Held(frame, now_ns))

    def mark_barrier(self, epoch: Epoch) -> tuple[int, int]:
        """Close the open epoch as `epoch`; later frames belong to the next one. Returns its (frames, bytes)."""
        require(epoch > self._closed_epoch, f"barrier of epoch {epoch} after that of {self._closed_epoch}")
        frames, self._open = self._open, []
        self._closed_epoch = epoch
        if frames:
            self._closed.append(_Closed(epoch, frames))
        return len(frames), sum(len(held.frame.data) for held in frames)

    def release(self, epoch: Epoch) -> int:
        """Let the frames of all epochs up to `epoch` leave; returns how many. Repeating it lets nothing more leave."""
        require(epoch <= self._closed_epoch, f"epoch {epoch} released, newest closed is {self._closed_epoch}")
        released = 0
        while self._closed and self._closed[0].epoch <= epoch:
            frames = self._closed.popleft().frames
            self._leaving.extend(frames)
            released += len(frames)
        self._released_epoch = max(self._released_epoch, epoch)
        return released

    def set_mode(self, mode: OutputMode) -> int:
        """Change the mode; PASS lets everything held leave, HOLD begins with the next frame. Returns frames let go."""
        self._mode = mode
        if mode is OutputMode.HOLD:
            return 0
        let_go = self.release(self._closed_epoch) + len(self._open)
        self._leaving.extend(self._open)
        self._open = []
        return let_go

    def next_leaving(self) -> Frame | None:
        """The frame to write now. It stays ours until `mark_left`."""
        return self._leaving[0].frame if self._leaving else None

    def mark_left(self, *, written: bool = True) -> None:
        """The frame of `next_leaving` was written, or could not be and is lost."""
        require(bool(self._leaving), "no frame was leaving")
        size = len(self._leaving.popleft().frame.data)
        self._held_frames -= 1
        self._held_bytes -= size
        if not written:
            self._lost_frames += 1
            return
        self._left_frames += 1
        self._left_bytes += size

    def discard(self) -> int:
        """Fence: throw away everything that has not left, and hold from now on. Returns how many frames went."""
        discarded = self._held_frames
        self._open = []
        self._closed.clear()
        self._leaving.clear()
        self._held_frames = 0
        self._held_bytes = 0
        self._discarded_frames += discarded
        self._mode = OutputMode.HOLD
        return discarded

    def count_lost(self, frames: int = 1) -> None:
        """Frames of the guest that never got here whole."""
        self._lost_frames += frames

    def counters(self) -> OutputCounters:
        return OutputCounters(
            mode=self._mode,
            held_frames=self._held_frames,
            held_bytes=self._held_bytes,
            oldest_held_ns=self._oldest_ns(),
            left_frames=self._left_frames,
            left_bytes=self._left_bytes,
            lost_frames=self._lost_frames,
            discarded_frames=self._discarded_frames,
        )

    def _oldest_ns(self) -> int | None:
        if self._leaving:
            return self._leaving[0].at_ns
        if self._closed:
            return self._closed[0].frames[0].at_ns
        return self._open[0].at_ns if self._open else None

    def _cost(self) -> int:
        return self._held_bytes + self._held_frames * FRAME_OVERHEAD_BYTES


@frozen
class Replay:
    """Frames after a checkpoint, in order. `missing` of them are not in the log: what they said must be repeated."""

    frames: tuple[Frame, ...] = field(default=())
    missing: int = 0


class InputLog:
    """The guest's numbered input frames (from 1) that no committed checkpoint contains yet. Bounded: oldest go first."""

    def __init__(self, *, bytes_max: int = INPUT_LOG_BYTES_MAX) -> None:
        require(bytes_max > 0, "the log needs room")
        self._bytes_max = bytes_max
        #: Ascending numbers above `_trimmed_seq`.
        self._frames: deque[tuple[int, Frame]] = deque()
        self._cost = 0
        #: Newest number ever seen or trimmed.
        self._newest_seq = 0
        self._trimmed_seq = 0
        self._evicted_frames = 0

    @property
    def newest_seq(self) -> int:
        return self._newest_seq

    @property
    def evicted_frames(self) -> int:
        """Frames pushed out by newer ones since the start."""
        return self._evicted_frames

    @property
    def missing_frames(self) -> int:
        """Frames after the last trim that came before the newest and are not here; 0 is the promise of a whole replay."""
        return self._newest_seq - self._trimmed_seq - len(self._frames)

    def __len__(self) -> int:
        return len(self._frames)

    def append(self, first_seq: int, frames: Sequence[Frame]) -> None:
        """Frames numbered from `first_seq`. Numbers seen before are ignored, skipped ones are missing from now on."""
        require(first_seq >= 1, f"input frame number {first_seq}")
        for seq, frame in enumerate(frames, first_seq):
            if seq <= self._newest_seq:
                continue
            self._newest_seq = seq
            self._frames.append((seq, frame))
            self._cost += _cost_of(frame)
        while self._cost > self._bytes_max:
            self._drop_oldest()
            self._evicted_frames += 1

    def trim(self, upto_seq: int) -> None:
        """A committed checkpoint contains the frames up to `upto_seq`, whether they have come here or not."""
        if upto_seq <= self._trimmed_seq:
            return
        while self._frames and self._frames[0][0] <= upto_seq:
            self._drop_oldest()
        self._trimmed_seq = upto_seq
        self._newest_seq = max(self._newest_seq, upto_seq)

    def after(self, seq: int) -> Replay:
        """What to give to a guest that starts from a checkpoint containing the frames up to `seq`."""
        frames = tuple(frame for number, frame in self._frames if number > seq)
        return Replay(frames, max(self._newest_seq - seq, 0) - len(frames))

    def clear(self) -> None:
        """A new synchronisation: numbers start anew."""
        self._frames.clear()
        self._cost = 0
        self._newest_seq = 0
        self._trimmed_seq = 0

    def _drop_oldest(self) -> None:
        self._cost -= _cost_of(self._frames.popleft()[1])


def _cost_of(frame: Frame) -> int:
    return len(frame.data) + FRAME_OVERHEAD_BYTES
