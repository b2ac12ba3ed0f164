"""Output commit by comparison: a frame leaves when the secondary's guest has said the same, or with its checkpoint.

It takes the place of `OutputMachine`, and does what that does while nothing is compared: in HOLD mode frames wait for
the commit of their epoch, in PASS mode they leave at once. `compare` begins comparing, in HOLD mode; from then on each
held frame is known to a `CompareMachine` by number, and leaves when that says so. `stop_comparing` ends it: what is held
then, and what comes later, waits for its commit.

Rules kept: 1. A frame leaves because its epoch was committed, because the secondary's guest has said the same in the
same epoch, or in PASS mode; for no other reason. 2. It leaves once. 3. Frames of one flow leave in the order they came;
without comparison all do. 4. What is held is bounded; what does not fit is lost and counted.

An epoch's number here is that of the last barrier and one more. What the secondary's guest says may come before
`compare` does, for the two guests run equal before anybody hears of it: it is kept, within a bound, and compared then.
What finds no room is only missed: its flow waits until the comparison's patience ends.

One comparison machine lives from `compare` to `stop_comparing`. Numbers of shifts go on from one to the next, so a
confirmation that was meant for an older one says nothing to a newer. This file knows no channel: effects that concern
others are kept until `take_wants`."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Final, NamedTuple

from replicator.compare.guard import Guard
from replicator.engine.compare.counters import CompareStatus, KindCounters
from replicator.engine.compare.effects import AskCheckpoint, CompareEffect, Drop, Release, TellShift
from replicator.engine.compare.events import (
    Committed,
    CompareEvent,
    InputsArrived,
    InputsLogged,
    PrimarySaid,
    SecondarySaid,
    ShiftsKnown,
    TimePassed,
)
from replicator.engine.compare.loan import CompareBack, CompareLoan, SaidFrame
from replicator.engine.compare.machine import CompareMachine, CompareSettings
from replicator.engine.compare.packet import Kind
from replicator.engine.output import FRAME_OVERHEAD_BYTES, Frame, OutputCounters, OutputMode, Verdict
from replicator.errors import InvariantError, require
from replicator.frozen import frozen
from replicator.limits import HOLD_BYTES_MAX
from replicator.units import Epoch

#: Barriers that are remembered until they are released; older ones count with the next.
_BARRIERS_MAX: Final = 1024
#: Of the bound, what the secondary may say before anything is compared.
_EARLY_SHARE: Final = 4
#: Held frames that are lent; with more, other things are slower than the way of a frame.
_LENT_FRAMES_MAX: Final = 512


@frozen
class ShiftTold:
    """`TellShift` with the epoch that it is for, and a number that no other comparison has used."""

    epoch: Epoch
    told: TellShift


CompareWant = AskCheckpoint | ShiftTold


class _Held(NamedTuple):
    epoch: Epoch
    frame: Frame
    at_ns: int


class _Barrier(NamedTuple):
    epoch: Epoch
    input_seq: int


class ComparedOutput:
    """One guest's outgoing frames, all NICs together. `bytes_max` bounds what is held, and the comparison with it."""

    def __init__(
        self,
        guard: Guard,
        *,
        mode: OutputMode = OutputMode.PASS,
        bytes_max: int = HOLD_BYTES_MAX,
        settings: CompareSettings | None = None,
    ) -> None:
        require(bytes_max > 0, "the hold needs room")
        self._guard = guard
        self._mode = mode
        self._bytes_max = bytes_max
        # The machine asks for a checkpoint at its bound, and loses frames at twice that.
        settings = settings or CompareSettings()
        self._settings = replace(settings, bytes_max=min(settings.bytes_max, max(bytes_max // 2, 1)))
        self._machine: CompareMachine | None = None
        self._wants: list[CompareWant] = []
        self._now_ns = 0
        #: By number, in the order they came: epochs ascend.
        self._held: dict[int, _Held] = {}
        self._leaving: deque[_Held] = deque()
        self._newest_id = 0
        self._barriers: deque[_Barrier] = deque(maxlen=_BARRIERS_MAX)
        self._closed_epoch = Epoch(0)
        self._released_epoch = Epoch(0)
        self._early: deque[SecondarySaid] = deque()
        self._early_cost = 0
        self._newest_input = 0
        self._inputs_logged = 0
        self._shifts_told = self._shifts_known = 0
        #: Shifts that machines before the present one have told.
        self._shifts_before = 0
        self._held_frames = self._held_bytes = 0
        self._left_frames = self._left_bytes = 0
        self._lost_frames = self._discarded_frames = 0
        #: What machines before the present one have counted.
        self._past: dict[Kind, KindCounters] = {}

    # What `OutputMachine` has too.

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
    def oldest_held_ns(self) -> int | None:
        """When the oldest frame came that has not left; what was compared may overtake what was not."""
        first = [self._leaving[0].at_ns] if self._leaving else []
        first += [held.at_ns for held in islice(self._held.values(), 1)]
        return min(first, default=None)

    @property
    def full(self) -> bool:
        """The open epoch should be closed early: it holds frames, and half of the bound is used."""
        return 2 * self._cost() >= self._bytes_max and self._newest_held_epoch() > self._closed_epoch

    def hold(self, frame: Frame, now_ns: int) -> Verdict:
        """Take the guest's next frame."""
        self._now_ns = now_ns
        if self._cost() + len(frame.data) + FRAME_OVERHEAD_BYTES > self._bytes_max:
            self._lost_frames += 1
            return Verdict.LOST
        held = _Held(self._open_epoch(), frame, now_ns)
        self._held_frames += 1
        self._held_bytes += len(frame.data)
        if self._mode is OutputMode.PASS:
            self._leaving.append(held)
            return Verdict.LEAVING
        self._newest_id += 1
        number = self._newest_id
        self._held[number] = held
        if self._machine is None:
            return Verdict.HELD
        lost_before = self._lost_frames
        self._play(PrimarySaid(held.epoch, number, frame.nic, frame.data))
        if number in self._held:
            return Verdict.COMPARING
        return Verdict.LEAVING if self._lost_frames == lost_before else Verdict.LOST

    def inject(self, frames: Sequence[Frame], now_ns: int) -> None:
        """Frames of ours that leave in any mode, after what is leaving already."""
        for frame in frames:
            self._held_frames += 1
            self._held_bytes += len(frame.data)
            self._leaving.append(_Held(self._released_epoch, frame, now_ns))

    def mark_barrier(self, epoch: Epoch) -> tuple[int, int]:
        """Close the open epoch as `epoch`; later frames belong to the next one. Returns what of it is held: (frames,
        bytes)."""
        require(epoch > self._closed_epoch, f"barrier of epoch {epoch} after that of {self._closed_epoch}")
        sizes = []
        for held in reversed(self._held.values()):
            if held.epoch <= self._closed_epoch:
                break
            sizes.append(len(held.frame.data))
        self._barriers.append(_Barrier(epoch, 0))
        self._closed_epoch = epoch
        return len(sizes), sum(sizes)

    def release(self, epoch: Epoch) -> int:
        """The epochs up to `epoch` are committed: their frames may leave. Returns how many frames this lets go."""
        require(epoch <= self._closed_epoch, f"epoch {epoch} released, newest closed is {self._closed_epoch}")
        barrier = self._pass_barriers(epoch)
        if barrier is None:
            return 0
        before = len(self._leaving)
        if self._machine is not None:
            self._play(Committed(barrier.epoch, barrier.input_seq))
        self._let_go(barrier.epoch)
        self._released_epoch = barrier.epoch
        self._inputs_logged = max(self._inputs_logged, barrier.input_seq)
        return len(self._leaving) - before

    def set_mode(self, mode: OutputMode) -> int:
        """Change the mode, which ends a comparison; PASS lets everything held leave, HOLD begins with the next frame.
        Returns frames let go."""
        self.stop_comparing()
        self._mode = mode
        if mode is OutputMode.HOLD:
            return 0
        self._barriers.clear()
        self._released_epoch = self._closed_epoch
        return self._let_go(self._open_epoch())

    def next_leaving(self) -> Frame | None:
        """The frame to write now. It stays ours until `mark_left`."""
        return self._leaving[0].frame if self._leaving else None

    def mark_left(self, *, written: bool = True) -> None:
        """The frame of `next_leaving` was written, or could not be and is lost."""
        require(bool(self._leaving), "no frame was leaving")
        size = len(self._leaving.popleft().frame.data)
        self._forget(size)
        if not written:
            self._lost_frames += 1
            return
        self._left_frames += 1
        self._left_bytes += size

    def discard(self) -> int:
        """Fence: throw away everything that has not left, hold and compare nothing from now on. Returns how many
        frames went."""
        self.stop_comparing()
        discarded = self._held_frames
        self._held.clear()
        self._leaving.clear()
        self._held_frames = self._held_bytes = 0
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
            oldest_held_ns=self.oldest_held_ns,
            left_frames=self._left_frames,
            left_bytes=self._left_bytes,
            lost_frames=self._lost_frames,
            discarded_frames=self._discarded_frames,
        )

    # Comparing.

    @property
    def is_comparing(self) -> bool:
        return self._machine is not None

    @property
    def waiting_frames(self) -> int:
        """Held and not allowed to leave."""
        return len(self._held)

    @property
    def is_waiting(self) -> bool:
        """`pass_time` is due every `TICK_NS`."""
        return self._machine is not None and self._machine.is_waiting

    def note_time(self, now_ns: int) -> None:
        """For what follows without a time of its own. Never goes back."""
        self._now_ns = now_ns

    def note_inputs(self, epoch: Epoch, input_seq: int) -> None:
        """The newest barrier's checkpoint contains the inputs up to `input_seq`."""
        require(bool(self._barriers) and self._barriers[-1].epoch == epoch, f"epoch {epoch} was not closed")
        self._barriers[-1] = _Barrier(epoch, input_seq)

    def restart_inputs(self) -> None:
        """The next input is number 1, for another secondary."""
        self.forget_secondary()
        self._barriers = deque((_Barrier(one.epoch, 0) for one in self._barriers), maxlen=_BARRIERS_MAX)
        self._newest_input = 0

    def forget_secondary(self) -> None:
        """What it said and confirmed may be another one's. Nothing is compared until `compare`."""
        self.stop_comparing()
        self._inputs_logged = 0
        self._early.clear()
        self._early_cost = 0

    def compare(self, epoch: Epoch, now_ns: int) -> None:
        """Epoch `epoch` is committed, and the secondary's guest runs from it like the primary's: compare what both say
        since. In HOLD mode only; while something is compared already, the same as `release`."""
        require(self._mode is OutputMode.HOLD, "only what is held can be compared")
        self._now_ns = now_ns
        self.release(epoch)
        if self._machine is not None:
            return
        # A later commit may have come first; what is said names its epoch.
        first = Epoch(max(epoch, self._released_epoch) + 1)
        self._machine = CompareMachine(self._guard, epoch=first, settings=self._settings)
        self._shifts_before = self._shifts_told
        # It did not see the inputs before, and what was said may answer any of them.
        self._play(InputsArrived(self._newest_input + 1, ()))
        self._play(InputsLogged(self._inputs_logged))
        for number, held in list(self._held.items()):
            self._play(PrimarySaid(held.epoch, number, held.frame.nic, held.frame.data))
        early, self._early, self._early_cost = self._early, deque(), 0
        for said in early:
            self._play(said)

    def stop_comparing(self) -> None:
        """What is held, and what comes, waits for its commit. May be repeated."""
        if self._machine is None:
            return
        self._past = self._merge(self._machine.status())
        self._machine = None

    def hear(
        self, event: SecondarySaid | InputsArrived | InputsLogged | ShiftsKnown | TimePassed, now_ns: int
    ) -> None:
        """Of the secondary's side, the network or the clock."""
        self._now_ns = now_ns
        match event:
            case SecondarySaid() if self._machine is None:
                self._keep_early(event)
                return
            case InputsArrived():
                self._newest_input = max(self._newest_input, event.upto_seq)
            case InputsLogged():
                # Told with each word of the secondary, and the machine would look at all that waits.
                if event.upto_seq <= self._inputs_logged:
                    return
                self._inputs_logged = event.upto_seq
            case ShiftsKnown():
                if event.upto > self._shifts_told:
                    return
                event = ShiftsKnown(max(event.upto - self._shifts_before, 0))
        self._play(event)

    @property
    def has_wants(self) -> bool:
        return bool(self._wants)

    def take_wants(self) -> list[CompareWant]:
        """What others have to do, in order."""
        wants, self._wants = self._wants, []
        return wants

    def compare_status(self) -> CompareStatus | None:
        """None while nothing is compared; counters are of all comparisons."""
        if self._machine is None:
            return None
        status = self._machine.status()
        return replace(status, kinds=self._merge(status))

    # A faster way.

    def lend(self) -> CompareLoan | None:
        """For others to carry the frames of steady flows until `take_back`. None while there is more to do than that."""
        if self._machine is None or self._leaving or self._wants or self._machine.epoch != self._open_epoch():
            return None
        loan = self._machine.lend(self._newest_id)
        # Before half of it is used nobody has to be told.
        room = (self._bytes_max + 1) // 2 - self._cost()
        if loan is None or room <= 0 or len(self._held) > _LENT_FRAMES_MAX:
            return None
        held = [SaidFrame(number, one.frame, one.at_ns) for number, one in self._held.items()]
        return loan._replace(room_bytes=min(loan.room_bytes, room), held=held)

    def take_back(self, back: CompareBack, now_ns: int) -> None:
        """What has become of a loan."""
        machine = self._machine
        if machine is None:
            raise InvariantError("nothing is compared that could have been lent")
        self._now_ns = now_ns
        self._newest_id = back.numbers.newest_id
        self._newest_input = max(self._newest_input, back.numbers.newest_input)
        self._inputs_logged = max(self._inputs_logged, back.numbers.inputs_upto)
        for frame_id in back.gone:
            self._forget(len(self._held.pop(frame_id).frame.data))
        for frame_id, frame, at_ns in back.held:
            self._held[frame_id] = _Held(machine.epoch, frame, at_ns)
            self._held_frames += 1
            self._held_bytes += len(frame.data)
        self._left_frames += back.left_frames
        self._left_bytes += back.left_bytes
        self._lost_frames += back.unwritten_frames + back.lost_frames
        for effect in machine.take_back(back, now_ns):
            self._carry_out(effect, machine.epoch)

    # The machine's effects.

    def _play(self, event: CompareEvent) -> None:
        if self._machine is None:
            return
        for effect in self._machine.handle(event, self._now_ns):
            self._carry_out(effect, self._machine.epoch)

    def _carry_out(self, effect: CompareEffect, epoch: Epoch) -> None:
        match effect:
            case Release(numbers):
                self._leaving.extend(map(self._held.pop, numbers))
            case Drop(numbers):
                for number in numbers:
                    self._forget(len(self._held.pop(number).frame.data))
                self._lost_frames += len(numbers)
            case TellShift():
                self._shifts_told = self._shifts_before + effect.number
                self._wants.append(ShiftTold(epoch, replace(effect, number=self._shifts_told)))
            case AskCheckpoint():
                self._wants.append(effect)

    def _keep_early(self, event: SecondarySaid) -> None:
        """Only the newest epoch's can still be compared."""
        if event.epoch <= self._released_epoch or self._mode is OutputMode.PASS:
            return
        if self._early and event.epoch > self._early[-1].epoch:
            self._early.clear()
            self._early_cost = 0
        cost = len(event.frame) + FRAME_OVERHEAD_BYTES
        if self._early_cost + cost <= self._bytes_max // _EARLY_SHARE:
            self._early.append(event)
            self._early_cost += cost

    def _merge(self, status: CompareStatus) -> dict[Kind, KindCounters]:
        return {kind: _add(counters, self._past.get(kind)) for kind, counters in status.kinds.items()}

    # Epochs and sizes.

    def _open_epoch(self) -> Epoch:
        return Epoch(self._closed_epoch + 1)

    def _newest_held_epoch(self) -> int:
        return next((held.epoch for held in reversed(self._held.values())), Epoch(0))

    def _pass_barriers(self, epoch: Epoch) -> _Barrier | None:
        """The newest barrier up to `epoch`, which is forgotten with those before it."""
        newest = None
        while self._barriers and self._barriers[0].epoch <= epoch:
            newest = self._barriers.popleft()
        return newest

    def _let_go(self, epoch: Epoch) -> int:
        numbers = []
        for number, held in self._held.items():
            if held.epoch > epoch:
                break
            numbers.append(number)
        self._leaving.extend(map(self._held.pop, numbers))
        return len(numbers)

    def _forget(self, size: int) -> None:
        self._held_frames -= 1
        self._held_bytes -= size

    def _cost(self) -> int:
        return self._held_bytes + self._held_frames * FRAME_OVERHEAD_BYTES


def _add(one: KindCounters, other: KindCounters | None) -> KindCounters:
    if other is None:
        return one
    asked = dict(other.asked)
    for reason, count in one.asked.items():
        asked[reason] = asked.get(reason, 0) + count
    return KindCounters(
        one.matched + other.matched, one.committed + other.committed, one.lost + other.lost, asked
    )
