"""What the comparison hears.

An epoch is the number of the execution that a frame was said in; `Committed` closes it. Frames of an older epoch are no
longer of interest, those of a newer one wait for theirs. Numbers of inputs and shifts only grow, over all epochs, so an
old one changes nothing."""

from __future__ import annotations

from dataclasses import dataclass

from replicator.units import Epoch


@dataclass(frozen=True, slots=True)
class PrimarySaid:
    """A frame of the primary's guest, which is held under this number (never used twice)."""

    epoch: Epoch
    frame_id: int
    nic: int
    frame: bytes


@dataclass(frozen=True, slots=True)
class SecondarySaid:
    """A frame of the secondary's guest. It never leaves."""

    epoch: Epoch
    nic: int
    frame: bytes


@dataclass(frozen=True, slots=True)
class InputArrived:
    """A frame for both guests, before either has it; numbered from 1 without gaps."""

    seq: int
    nic: int
    frame: bytes


@dataclass(frozen=True, slots=True)
class InputsLogged:
    """The secondary's relay keeps all inputs up to this one: its guest has them now or after a take-over."""

    upto_seq: int


@dataclass(frozen=True, slots=True)
class ShiftsKnown:
    """The secondary's side has learnt all shifts up to this number."""

    upto: int


@dataclass(frozen=True, slots=True)
class Committed:
    """The checkpoint that closes `epoch` is committed and loaded: the guests are equal, and contain the inputs up to
    `input_seq`."""

    epoch: Epoch
    input_seq: int = 0


@dataclass(frozen=True, slots=True)
class TimePassed:
    """Due every `TICK_NS` while anything waits."""


CompareEvent = (
    PrimarySaid | SecondarySaid | InputArrived | InputsLogged | ShiftsKnown | Committed | TimePassed
)
