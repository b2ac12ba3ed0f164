"""What the comparison hears.

An epoch is the number of the execution that a frame was said in; `Committed` closes it. Frames of an older epoch are no
longer of interest, those of a newer one wait for theirs. Numbers of inputs and shifts only grow, over all epochs, so an
old one changes nothing."""

from __future__ import annotations

from collections.abc import Sequence

from replicator.engine.output import Frame
from replicator.frozen import frozen
from replicator.units import Epoch


@frozen
class PrimarySaid:
    """A frame of the primary's guest, which is held under this number (never used twice)."""

    epoch: Epoch
    frame_id: int
    nic: int
    frame: bytes


@frozen
class SecondarySaid:
    """A frame of the secondary's guest. It never leaves."""

    epoch: Epoch
    nic: int
    frame: bytes


@frozen
class InputsArrived:
    """Frames for both guests, before either has them; numbered from 1 without gaps."""

    first_seq: int
    frames: Sequence[Frame]

    @property
    def upto_seq(self) -> int:
        return self.first_seq + len(self.frames) - 1


@frozen
class InputsLogged:
    """The secondary's relay keeps all inputs up to this one: its guest has them now or after a take-over."""

    upto_seq: int


@frozen
class ShiftsKnown:
    """The secondary's side has learnt all shifts up to this number."""

    upto: int


@frozen
class Committed:
    """The checkpoint that closes `epoch` is committed and loaded: the guests are equal, and contain the inputs up to
    `input_seq`."""

    epoch: Epoch
    input_seq: int = 0


@frozen
class TimePassed:
    """Due every `TICK_NS` while anything waits."""


CompareEvent = (
    PrimarySaid | SecondarySaid | InputsArrived | InputsLogged | ShiftsKnown | Committed | TimePassed
)
