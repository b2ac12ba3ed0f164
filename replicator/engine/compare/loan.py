"""What a faster way of the frames needs of a comparison, and what it gives back.

While all frames are of steady flows, whoever carries them asks the native core itself (`native/fast_path.h`), and tells
the comparison afterwards what has become of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from replicator.engine.compare.steady import SteadyFlows
from replicator.engine.output import Frame
from replicator.units import Epoch


class SaidFrame(NamedTuple):
    """By the guest, in the epoch of the loan."""

    frame_id: int
    frame: Frame
    at_ns: int


class CompareNumbers(NamedTuple):
    """They go on from one to the other."""

    #: Of the newest frame of the primary.
    newest_id: int
    #: Of the comparison's calls.
    turn: int
    newest_input: int
    #: Inputs that are confirmed.
    inputs_upto: int
    #: The longest wait of late, of `Patience`.
    longest_wait_ns: int


class CompareLoan(NamedTuple):
    steady: SteadyFlows
    #: In which both guests run.
    epoch: Epoch
    numbers: CompareNumbers
    #: The least and the most that is too long for a flow to wait.
    patience_ns: tuple[int, int]
    #: Flows that are not steady wait for the other side, and for a confirmation.
    others_waiting: bool
    others_unconfirmed: bool
    #: How much more may be held, each frame counted with its overhead.
    room_bytes: int
    #: What is held, by its numbers.
    held: Sequence[SaidFrame]


class CompareBack(NamedTuple):
    numbers: CompareNumbers
    #: Said since then, and still held; in order.
    held: Sequence[SaidFrame]
    #: Of those held before, which are not any more.
    gone: Sequence[int]
    #: What both have said: left, and could not be written.
    left_frames: int
    left_bytes: int
    unwritten_frames: int
    #: Frames that never got here whole.
    lost_frames: int
    #: How often equal bytes were passed, and by how much the kept ones grew.
    equal_count: int
    kept_change: int
    #: Frames that may leave now, in order; they may be older than the loan.
    released: Sequence[int]
