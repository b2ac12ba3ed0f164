"""The fast path of a COLO relay: `native/fast_path.h` for those who lend to it.

A relay's core gives what the path needs as a `PathLoan`, and takes a `PathBack`. While it runs, nobody else may touch
what was lent: it runs under the relay's lock, and returns when the wake descriptor says that somebody waits for that."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from replicator._native import ffi, lib
from replicator.deadline import SharedDeadline
from replicator.engine.compare.loan import CompareBack, CompareLoan, CompareNumbers, SaidFrame
from replicator.engine.compare.machine import TICK_NS
from replicator.engine.output import Frame
from replicator.memory.check import check
from replicator.output.native_shifts import NativeShiftTable
from replicator.wire.lent_line import LentLine, LineBack

#: As a time: there is none.
NEVER: Final = (1 << 63) - 1


class PathEnd(enum.Enum):
    """Why it came back."""

    #: The time has come.
    TIME = "time"
    #: Somebody wants the lock; the wake descriptor is still to be read.
    WOKEN = "woken"
    #: Some descriptor has what is to be served otherwise.
    OTHER = "other"
    #: `item` is a frame of the guest, or of the network, that is still to be heard.
    GUEST = "guest"
    NETWORK = "network"
    #: `item` is an output-batch whose first `rows_done` frames were heard.
    ROWS = "rows"


@dataclass(frozen=True, slots=True)
class PrimaryPart:
    """What only a primary lends."""

    compare: CompareLoan
    deadline: SharedDeadline
    #: When something that waits for the other side must be looked at.
    tick_ns: int


@dataclass(frozen=True, slots=True)
class SecondaryPart:
    shifts: NativeShiftTable
    epoch: int
    newest_seq: int
    #: How long a confirmation of inputs may wait, and when the next is due.
    confirm_ns: int
    confirm_at_ns: int | None


class WaitingInput(NamedTuple):
    """`data` is what the guest gets."""

    nic: int
    data: bytes


@dataclass(frozen=True, slots=True)
class PathLoan:
    """Times are of CLOCK_BOOTTIME."""

    line: LentLine
    #: Inputs that wait for the guest, in the order of each NIC.
    waiting: Sequence[WaitingInput]
    part: PrimaryPart | SecondaryPart
    #: When to come back, and how long after the first input.
    until_ns: int
    after_input_ns: int


class PathInput(NamedTuple):
    """For the guest, in this session's numbers."""

    seq: int
    frame: Frame
    #: As the guest gets it.
    given: bytes
    at_ns: int
    #: The guest has it; otherwise it waits.
    is_given: bool


@dataclass(frozen=True, slots=True)
class PathBack:
    end: PathEnd
    line: LineBack
    #: Errno of the connection to the other relay, 0 while it stands.
    line_error: int
    #: How many of the waiting inputs each NIC's guest was given, the first ones.
    given: Sequence[int]
    inputs: Sequence[PathInput]
    #: Of a secondary: what its guest said, and when. Of a primary, what has not left.
    outputs: Sequence[SaidFrame]
    lost_frames: int
    #: Of a primary.
    compare: CompareBack
    #: Of a secondary.
    confirm_at_ns: int | None
    nic: int
    item: bytes
    rows_done: int

    @property
    def is_idle(self) -> bool:
        """It has carried nothing."""
        return not self.inputs and not self.outputs and not self.compare.left_frames


class PathPoll(NamedTuple):
    """Descriptors: of the epoll that has all others, of who interrupts, and of the channel."""

    poll_fd: int
    wake_fd: int
    channel_fd: int


class FastPath:
    """One relay's. NativeError when there is no memory for it."""

    def __init__(self, nics: int) -> None:
        slot = ffi.new("struct rp_fast_path **")
        check(lib.rp_fast_create(nics, slot), f"cannot make a path for {nics} NICs")
        self._path: Any = ffi.gc(slot[0], lib.rp_fast_destroy)
        self._loan: Any = ffi.new("struct rp_fast_loan *")
        self._numbers: Any = ffi.new("struct rp_fast_numbers *")

    def run(self, poll: PathPoll, sides: Sequence[tuple[int, int]], loan: PathLoan) -> PathBack:
        """Until something else is to be done. `sides` has the descriptors of each NIC's socket and TAP (or -1)."""
        for nic, (socket_fd, tap_fd) in enumerate(sides):
            check(lib.rp_fast_set_nic(self._path, nic, socket_fd, tap_fd), f"no NIC {nic}")
        rest = ffi.from_buffer("uint8_t[]", loan.line.rest)
        waiting = _carry([(0, 0, nic, data) for nic, data in loan.waiting])
        said = loan.part.compare.held if isinstance(loan.part, PrimaryPart) else ()
        held = _carry([(one.frame_id, one.at_ns, *one.frame) for one in said])
        self._write_loan(poll, loan, rest)
        self._loan.waiting, self._loan.waiting_count = waiting.rows, len(loan.waiting)
        self._loan.held, self._loan.held_count = held.rows, len(said)
        self._write_numbers(loan)
        found = lib.rp_fast_run(self._path, self._loan, self._numbers)
        given = [0] * len(sides)
        for one, row in zip(loan.waiting, waiting.rows, strict=True):
            given[one.nic] += row.is_done
        gone = [row.number for row in held.rows if row.is_done]
        return _read(found, given, gone)

    def _write_loan(self, poll: PathPoll, loan: PathLoan, rest: Any) -> None:
        to, part = self._loan, loan.part
        to.poll_fd, to.wake_fd, to.channel_fd = poll
        to.line_fd = loan.line.fd
        ffi.memmove(to.session, loan.line.session, len(loan.line.session))
        to.rest, to.rest_bytes = rest, len(rest)
        to.until_ns, to.after_input_ns = loan.until_ns, loan.after_input_ns
        if isinstance(part, PrimaryPart):
            to.steady, to.deadline = part.compare.steady.handle, part.deadline.cell
            to.others_unconfirmed = part.compare.others_unconfirmed
            to.room_bytes = part.compare.room_bytes
            to.tick_ns, to.tick_every_ns = part.tick_ns, TICK_NS
            to.patience_min_ns, to.patience_max_ns = part.compare.patience_ns
            to.shifts = ffi.NULL
        else:
            to.steady = to.deadline = ffi.NULL
            to.shifts = part.shifts.handle
            to.confirm_ns = part.confirm_ns

    def _write_numbers(self, loan: PathLoan) -> None:
        to, part = self._numbers, loan.part
        to.sent, to.taken = loan.line.sent, loan.line.taken
        if isinstance(part, PrimaryPart):
            numbers = part.compare.numbers
            to.epoch = part.compare.epoch
            to.newest_id, to.turn = numbers.newest_id, numbers.turn
            to.newest_seq, to.inputs_upto = numbers.newest_input, numbers.inputs_upto
            to.longest_wait_ns = numbers.longest_wait_ns
        else:
            to.epoch, to.newest_seq = part.epoch, part.newest_seq
            to.confirm_at_ns = part.confirm_at_ns or 0


class _Carried(NamedTuple):
    """`struct rp_fast_carried[]`, and what its rows point at."""

    rows: Any
    kept: Sequence[Any]


def _carry(frames: Sequence[tuple[int, int, int, bytes]]) -> _Carried:
    """Of (number, when, NIC, data) each."""
    rows = ffi.new("struct rp_fast_carried[]", len(frames))
    kept = [ffi.from_buffer("uint8_t[]", data) for _, _, _, data in frames]
    for row, data, (number, at_ns, nic, _) in zip(rows, kept, frames, strict=True):
        row.number, row.at_ns, row.nic, row.data, row.size = number, at_ns, nic, data, len(data)
    return _Carried(rows, kept)


_ENDS: Final = {
    lib.RP_FAST_TIME: PathEnd.TIME,
    lib.RP_FAST_WOKEN: PathEnd.WOKEN,
    lib.RP_FAST_GUEST: PathEnd.GUEST,
    lib.RP_FAST_NETWORK: PathEnd.NETWORK,
    lib.RP_FAST_ROWS: PathEnd.ROWS,
}


def _read(found: Any, given: Sequence[int], gone: Sequence[int]) -> PathBack:
    """Of a `struct rp_fast_outcome`."""
    numbers = found.numbers
    inputs: list[PathInput] = []
    outputs: list[SaidFrame] = []
    for one in found.entries[0 : found.entry_count]:
        if one.is_output and one.is_done:
            continue
        frame = Frame(one.nic, ffi.buffer(one.data, one.size)[:])
        if one.is_output:
            outputs.append(SaidFrame(one.number, frame, one.at_ns))
            continue
        shifted = frame.data if one.given == one.data else ffi.buffer(one.given, one.size)[:]
        inputs.append(PathInput(one.number, frame, shifted, one.at_ns, one.is_done))
    end = _ENDS.get(found.end, PathEnd.OTHER)
    return PathBack(
        end=end,
        line=LineBack(
            numbers.sent,
            numbers.taken,
            ffi.buffer(found.rest, found.rest_bytes)[:],
            ffi.buffer(found.unsent, found.unsent_bytes)[:],
        ),
        line_error=found.line_error,
        given=given,
        inputs=inputs,
        outputs=outputs,
        lost_frames=found.lost_frames,
        compare=_read_compare(found, outputs, gone),
        confirm_at_ns=numbers.confirm_at_ns or None,
        nic=found.item_nic,
        item=ffi.buffer(found.item, found.item_bytes)[:] if found.item_bytes else b"",
        rows_done=found.rows_done,
    )


def _read_compare(found: Any, held: Sequence[SaidFrame], gone: Sequence[int]) -> CompareBack:
    numbers = found.numbers
    return CompareBack(
        numbers=CompareNumbers(
            numbers.newest_id,
            numbers.turn,
            numbers.newest_seq,
            numbers.inputs_upto,
            numbers.longest_wait_ns,
        ),
        held=held,
        gone=gone,
        left_frames=found.left_frames,
        left_bytes=found.left_bytes,
        unwritten_frames=found.unwritten_frames,
        lost_frames=found.lost_frames,
        equal_count=found.equal_count,
        kept_change=found.kept_change,
        released=ffi.unpack(found.released, found.released_count) if found.released_count else (),
    )
