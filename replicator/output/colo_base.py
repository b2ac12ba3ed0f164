"""What the service may ask of the relays of a COLO pair. Both are OutputPorts (`output.base`), and more.

Both sides are given one end of a channel (`output.frame_channel`) for each session of theirs, and again whenever one
broke. Over TCP, `link.frame_channel` makes them: the secondary listens (after `detach()`, if on the same port as
before), the primary dials, and both know the 16 bytes that were drawn for this channel alone.

The primary (`ColoRelay`):

1. `restart_inputs()` for a new session, `attach(channel)`; `on_channel_open` says that inputs flow to the secondary.
   Inputs before that are not there: compare only after a checkpoint whose `hold_input` came later.
2. Each checkpoint as any other: `hold_input`, `quiesce_input`, stop, `drain_and_mark(epoch)`, run, `resume_input`. In
   COLO the guest may run at once: what it says in the new epoch is compared as soon as the commit is known.
3. When the secondary has committed and loaded it: `compare(epoch)`, which releases it and begins to compare, or goes
   on with that. While comparing, `release(epoch)` is the same. False: there is no channel, everything waits for
   commits. What the secondary's guest said before this call is kept and compared.
4. `on_ask_checkpoint(asked)`: nothing more leaves before the checkpoint that closes epoch `asked.epoch` is committed.
5. `stop_comparing()`: everything waits for its commit, as in Remus. So it is after `on_channel_broken(reason)`,
   `set_mode(HOLD)`, `restart_inputs`, `attach` and `detach`. `set_mode(PASS)` lets all leave, as ever.

The secondary (`SecondaryRelay`), whose guest is paused when it begins and whose inputs are held:

1. `start()`, `attach(channel)`: inputs are logged. `restart_inputs()` before that for a new session: the log is empty
   then, and the guest suspended.
2. For each checkpoint, while the guest runs: `suspend()` (holds inputs, reads what the guest said); stop the guest.
   Inputs that it did not take by then are given again.
3. When it is equal to the primary's at `epoch`: `loaded(epoch, input_seq)` with the `input_seq` of the epoch's end, while
   the guest stands still. What it said before and was not read is thrown away; its next words are of `epoch + 1`.
   Returns how many inputs after the checkpoint are missing: unless 0, the channel is broken by it, for the two guests
   cannot be equal. A guest in another process must be at its path by now.
4. Let it run, then `resume_input()`: it gets the inputs after the checkpoint. Then tell the primary, which calls
   `compare`. A checkpoint that came to nothing: no `loaded`, let it run, `resume_input()`.
5. `take_over(taps, deadline=..., mode=...)`: the guest's words go to the TAPs from now on, under the deadline; the
   channel is closed. Legal at any instant after a `loaded`, while the guest runs or stands still; if it was suspended,
   let it run and call `resume_input()` afterwards. What it said lately and nobody acknowledged is said again. Then
   `announce` as after any take-over.

Until the take-over nothing can leave here: the relay has no network. `drain_and_mark`, `release`, `set_mode`, `replay`
and `announce` are for afterwards, when the relay is a `ColoRelay` that may `attach` a channel to a secondary of its own.
Connections from before keep their numbers for the world until they close: the relay shifts them.

The secondary's guest is the only one that has said what was released since the last checkpoint: while the primary is
comparing, a replica of that checkpoint must not be promoted instead of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from replicator.engine.compare.counters import CompareStatus
from replicator.engine.compare.effects import AskCheckpoint
from replicator.engine.output import OutputMode
from replicator.output.base import Deadline, OutputPort
from replicator.output.frame_channel import FrameChannel
from replicator.output.relay import TapDevice
from replicator.units import Epoch


def _ignore() -> None:
    """For those who only look at the stats."""


def _ignore_asked(_asked: AskCheckpoint) -> None:
    """For those who make checkpoints anyway."""


def _ignore_reason(_reason: str) -> None:
    """For those who notice otherwise."""


@dataclass(frozen=True, slots=True)
class ColoCallbacks:
    """Called as `RelayCallbacks` are."""

    #: The other relay is there; once a channel.
    on_channel_open: Callable[[], None] = _ignore
    #: The channel is closed and nothing is compared any more; once a channel, but not after `detach`.
    on_channel_broken: Callable[[str], None] = _ignore_reason
    #: The primary's: epoch, reason, connection and detail; once an epoch.
    on_ask_checkpoint: Callable[[AskCheckpoint], None] = _ignore_asked


class ComparingPort(Protocol):
    """What a primary's relay has beside OutputPort. See the module for the order of the calls."""

    def attach(self, channel: FrameChannel) -> None: ...

    def detach(self) -> None: ...

    def compare(self, epoch: Epoch) -> bool: ...

    def stop_comparing(self) -> None: ...

    def compare_status(self) -> CompareStatus | None:
        """None while nothing is compared."""
        ...


class SecondaryPort(OutputPort, ComparingPort, Protocol):
    """The secondary's relay."""

    def suspend(self) -> None: ...

    def loaded(self, epoch: Epoch, input_seq: int) -> int: ...

    def take_over(self, taps: Sequence[TapDevice], *, deadline: Deadline, mode: OutputMode = ...) -> None: ...
