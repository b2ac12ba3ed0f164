"""What the service may ask of the way a guest's frames take, real or in memory.

The order of one checkpoint, which the caller keeps:

1. `hold_input()` while the guest runs: inputs wait from now on, and what the guest has sent is read.
2. `quiesce_input(timeout_s)` while the guest runs: waits until the guest has taken the inputs given to it. Those it
   did not take in time count as after the checkpoint.
3. Stop the guest.
4. `drain_and_mark(epoch)`: reads the guest's socket empty and closes the epoch. Its `input_seq` goes into the epoch's
   end record. From the first epoch of a synchronisation on, `set_mode(HOLD)` follows here, before the guest runs.
5. Save, copy, let the guest run again.
6. `resume_input()`: inputs flow again, beginning with those whose fate the stop left open.
7. `release(epoch)` when the secondary has committed it.

On take-over: `replay(frames)` before `start()`, then `start()`, let the guest run, `announce(frames)`.

Each call may come from any thread, is short (but `quiesce_input` and `stop` wait as they say) and is finished when it
returns, except that `release`, `set_mode(PASS)` and `announce` let frames leave soon after they return. Callbacks run
in a thread of the relay and may not block it; they may call the relay, but not `stop` it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from replicator.deadline import SharedDeadline
from replicator.engine.output import Frame, OutputCounters, OutputMode
from replicator.frozen import frozen
from replicator.output.announce import NicAddresses
from replicator.units import Epoch


class Deadline(Protocol):
    """Until when this side may speak (CLOCK_BOOTTIME). One int, replaced as a whole by whoever keeps the lease. Real
    ones are `SharedDeadline`s, which the native relay needs."""

    @property
    def deadline_ns(self) -> int: ...


class _Unlimited:
    """The deadline of a guest without arbiter."""

    @property
    def deadline_ns(self) -> int:
        return (1 << 63) - 1


UNLIMITED: Deadline = _Unlimited()


@frozen
class BarrierMark:
    """A closed epoch."""

    epoch: Epoch
    #: Last input frame that the checkpoint certainly contains; 0 for none.
    input_seq: int
    #: What the epoch holds back.
    held_frames: int
    held_bytes: int


@frozen
class InputCounters:
    #: Frames taken from the network and numbered since the last `restart_inputs`.
    newest_seq: int
    #: Frames given to the guest, repetitions included.
    given_frames: int
    #: Accepted, not given yet.
    waiting_frames: int
    waiting_bytes: int
    #: Found no room while the guest was not taking any, or could not be given at all.
    dropped_frames: int
    #: Given once more after a stop that left open whether the guest had them.
    repeated_frames: int


@frozen
class RelayStats:
    output: OutputCounters
    input: InputCounters
    #: Age of the oldest held frame when the snapshot was taken; 0 when nothing is held.
    oldest_held_age_ns: int
    #: A frame could leave, but the deadline has passed.
    muted: bool
    #: Every NIC has its guest at the other end.
    connected: bool


def _ignore_input(_first_seq: int, _frames: Sequence[Frame]) -> None:
    """For those who mirror nothing."""


def _ignore() -> None:
    """For those who only look at the stats."""


def _ignore_error(_error: Exception) -> None:
    """For those who notice by the next call, which raises."""


@frozen
class RelayCallbacks:
    #: Numbered frames on their way to the guest, in order: `on_input(first_seq, frames)`. Without gaps, unless it is
    #: called so late that more wait for it than a secondary's log can hold.
    on_input: Callable[[int, Sequence[Frame]], None] = _ignore_input
    #: The open epoch should be closed early; once an epoch.
    on_hold_full: Callable[[], None] = _ignore
    #: A frame is held, the first one since the last barrier: once an epoch.
    on_output_waiting: Callable[[], None] = _ignore
    #: A frame had to stay because the deadline has passed; once until `on_unmuted`.
    on_muted: Callable[[], None] = _ignore
    #: The deadline lies ahead again; what had to stay leaves now.
    on_unmuted: Callable[[], None] = _ignore
    #: The relay ended by itself. It holds what it held, and nothing leaves any more.
    on_failed: Callable[[Exception], None] = _ignore_error


class OutputPort(Protocol):
    """See the module for the order of the calls."""

    def start(self) -> None: ...

    def stop(self) -> None:
        """End; what is held is gone. May be repeated."""
        ...

    def hold_input(self) -> None: ...

    def quiesce_input(self, timeout_s: float) -> int:
        """Returns how many frames the guest has been given and has not taken. Needs `hold_input` before."""
        ...

    def drain_and_mark(self, epoch: Epoch) -> BarrierMark:
        """Needs `hold_input` before, and a guest that stands still."""
        ...

    def resume_input(self) -> None: ...

    def release(self, epoch: Epoch) -> int:
        """Frames of epochs up to `epoch` may leave; returns how many. Repeating it does nothing."""
        ...

    def set_mode(self, mode: OutputMode) -> int:
        """HOLD from the next frame on, or PASS: all that is held leaves too. Returns how many frames that lets go."""
        ...

    def discard_output(self) -> int:
        """Fence: nothing held leaves any more, and the mode is HOLD. Returns how many frames were thrown away."""
        ...

    def set_deadline(self, deadline: SharedDeadline) -> None: ...

    def restart_inputs(self) -> None:
        """A new session with a secondary: the next input frame is number 1."""
        ...

    def replay(self, frames: Sequence[Frame]) -> None:
        """Give these to the guest before any other input. They are numbered like all inputs."""
        ...

    def announce(self, frames: Sequence[Frame]) -> None:
        """Frames of our own to the network, in any mode, under the same deadline."""
        ...

    def addresses(self) -> tuple[NicAddresses, ...]:
        """What each NIC's output told about the guest's addresses."""
        ...

    def stats(self) -> RelayStats: ...

    def held_age_ns(self) -> int:
        """`stats().oldest_held_age_ns`, or up to 0.1 s more: for those who ask often, and disturb nobody by it."""
        ...
