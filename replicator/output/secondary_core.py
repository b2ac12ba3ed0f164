"""The secondary's side of a COLO pair: a guest that hears all that the primary's hears, and says it to the primary alone.

    standing by     inputs come through the channel, are logged, confirmed, and given to the guest while it runs;
                    what it says goes into the channel, under the epoch of its execution
    taken over      a `ColoCore` like any other: inputs from the network, output to it

An execution begins with `loaded`; what the guest said in an older one is never told under the new one's number. Before
the first there is none, and what the guest says is nobody's.

Inputs are confirmed only while none is missing since the checkpoint, for what is confirmed may be acknowledged to the
world. When one is missing, or finds no room, the channel breaks: the next checkpoint makes it good. No sockets here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from replicator.engine.compare.compared_output import ComparedOutput
from replicator.engine.compare.recent import RecentFrames
from replicator.engine.compare.shift import Shift
from replicator.engine.output import Frame, InputLog, OutputMode
from replicator.errors import RemoteWireError, TransportError, require
from replicator.limits import FRAME_BYTES_MAX, INPUT_LOG_BYTES_MAX
from replicator.output.base import BarrierMark, Deadline, RelayCallbacks
from replicator.output.border import BorderPort
from replicator.output.colo_base import ColoCallbacks
from replicator.output.colo_core import ColoCore
from replicator.output.core import TURN_FRAMES_MAX, NicPort, boottime_ns
from replicator.output.fast_path import PathBack, PrimaryPart, SecondaryPart
from replicator.output.frame_channel import FrameChannel
from replicator.output.inputs import CostTable, Numbered
from replicator.output.native_shifts import NativeShiftTable
from replicator.units import NS_PER_MS, Epoch
from replicator.wire import frames as wire

#: How long a confirmation of inputs may wait for words of the guest to travel with. Most inputs are answered, and a
#: guest's answer takes a few ms where it shares its processor with another.
CONFIRM_NS: Final = 5 * NS_PER_MS
#: Newest inputs in which acknowledgements are looked for at a take-over.
_ACKS_FRAMES_MAX: Final = 4096


class _Mute:
    """The deadline of a side that has no right to speak."""

    deadline_ns = 0


class SecondaryCore(ColoCore):
    """See the module. `ports` are the guest's NICs in order; their network side is used after the take-over only."""

    def __init__(
        self,
        ports: Sequence[NicPort],
        costs: CostTable,
        callbacks: RelayCallbacks,
        colo: ColoCallbacks,
        output: ComparedOutput,
        *,
        log_bytes_max: int = INPUT_LOG_BYTES_MAX,
        clock: Callable[[], int] = boottime_ns,
    ) -> None:
        self._table = NativeShiftTable()
        self._border = tuple(BorderPort(port, nic, self._table) for nic, port in enumerate(ports))
        super().__init__(self._border, costs, _Mute(), callbacks, colo, output, clock=clock)
        self._standing_by = True
        self._log = InputLog(bytes_max=log_bytes_max)
        self._recent = RecentFrames()
        #: Of the guest's present execution; None before the first.
        self._epoch: Epoch | None = None
        #: No input is missing since that began, nor before this channel.
        self._is_whole = False
        #: When what came since the last confirmation is confirmed at the latest; None when nothing did.
        self._confirm_at_ns: int | None = None
        #: A shift of this epoch found no room: none is confirmed any more.
        self._shift_refused = False
        #: Newest input that the guest was given, or waits for it; later ones are in the log.
        self._accepted_seq = 0
        self._input_held = True
        for inputs in self.inputs:
            inputs.hold()

    @property
    def standing_by(self) -> bool:
        return self._standing_by

    @property
    def look_in_ns(self) -> int | None:
        return super().look_in_ns if self._confirm_at_ns is None else CONFIRM_NS

    def pass_time(self) -> None:
        super().pass_time()
        if self._confirm_at_ns is not None and self._clock() >= self._confirm_at_ns:
            self._confirm_inputs()

    # Standing by.

    def attach(self, channel: FrameChannel) -> None:
        super().attach(channel)
        self._is_whole = False
        self._confirm_at_ns = None

    def restart_inputs(self) -> None:
        """Inputs count from 1 again. Before the take-over the log begins anew, and so does the guest, which is suspended."""
        super().restart_inputs()
        if self._standing_by:
            self.hold_input()
            self._log.clear()
            self._accepted_seq = 0
            self._epoch = None
            self._is_whole = False

    def loaded(self, epoch: Epoch, input_seq: int) -> int:
        """The guest stands still, and is what the primary's was at the end of `epoch`, with the inputs up to
        `input_seq`. Returns how many inputs after that are missing."""
        require(self._standing_by, "a guest that has taken over is nobody's copy")
        require(self._input_held, "suspend the guest before it is loaded")
        for nic in range(len(self.ports)):
            self.throw_away_output(nic)
        self._table.commit()
        self._recent.clear()
        self._epoch = Epoch(epoch + 1)
        self._shift_refused = False
        self._log.trim(input_seq)
        for inputs in self.inputs:
            inputs.restart()
        self._accepted_seq = input_seq
        missing = self._log.after(input_seq).missing
        self._is_whole = not missing
        if missing and self.channel is not None:
            self._break(TransportError(f"{missing} inputs after epoch {epoch} are missing"))
        self._confirm_inputs()
        return missing

    def throw_away_output(self, nic: int) -> None:
        """Of an execution that is over; the guest stands still, so there is an end of it."""
        while self.ports[nic].recv_guest() is not None:
            pass

    def resume_input(self) -> None:
        if self._standing_by:
            self._note_stops()
            self._catch_up()
        super().resume_input()

    def take_over(self, deadline: Deadline, mode: OutputMode) -> None:
        """From now on this guest speaks to the world."""
        require(self._standing_by, "a guest takes over once")
        require(self._epoch is not None, "there is no guest yet that could take over")
        self.drain_guest()
        self.detach()
        unheard = self._recent.unheard(self._newest_inputs(), self._table.recent_of, self._clock())
        if self._input_held:
            self._note_stops()
            self._catch_up()
        self._table.take_over()
        for port in self._border:
            port.open()
        self._standing_by = False
        self._confirm_at_ns = None
        self._newest_seq = self._base_seq = self._log.newest_seq
        self._log.clear()
        self._recent.clear()
        self.set_deadline(deadline)
        self.set_mode(mode)
        self.machine.inject(unheard, self._clock())

    def read_guest(self, nic: int, frames_max: int = TURN_FRAMES_MAX) -> bool:
        if not self._standing_by:
            return super().read_guest(nic, frames_max)
        port = self.ports[nic]
        said: list[bytes] = []
        more = True
        for _ in range(frames_max):
            data = port.recv_guest()
            if data is None:
                more = False
                break
            if 0 < len(data) <= FRAME_BYTES_MAX:
                said.append(data)
            else:
                self.machine.count_lost()
        if said and self._epoch is not None:
            self._tell(nic, said, self._epoch)
        return more

    # What is for afterwards.

    def drain_and_mark(self, epoch: Epoch) -> BarrierMark:
        self._check_taken_over()
        return super().drain_and_mark(epoch)

    def release(self, epoch: Epoch) -> int:
        self._check_taken_over()
        return super().release(epoch)

    def set_mode(self, mode: OutputMode) -> int:
        self._check_taken_over()
        return super().set_mode(mode)

    def replay(self, frames: Sequence[Frame]) -> None:
        self._check_taken_over()
        super().replay(frames)

    def announce(self, frames: Sequence[Frame]) -> None:
        self._check_taken_over()
        super().announce(frames)

    def _check_taken_over(self) -> None:
        require(not self._standing_by, "a secondary's relay has nothing to say to the world")

    def _lasting_shifts(self) -> Sequence[wire.LastingShifts]:
        rows = [(key, shift.seq, shift.ts) for key, shift in self._table.export()]
        starts = range(0, max(len(rows), 1), wire.SHIFTS_MAX)
        return [wire.LastingShifts(at == 0, tuple(rows[at : at + wire.SHIFTS_MAX])) for at in starts]

    # The fast path.

    def _lend_part(self) -> PrimaryPart | SecondaryPart | None:
        if not self._standing_by:
            # It does not shift.
            return None if len(self._table) else super()._lend_part()
        newest = self._log.newest_seq
        if self._epoch is None or not self._is_whole or self._accepted_seq != newest:
            return None
        return SecondaryPart(self._table, self._epoch, newest, CONFIRM_NS, self._confirm_at_ns)

    def _take_back_part(self, back: PathBack) -> None:
        if not self._standing_by:
            super()._take_back_part(back)
            return
        if back.inputs:
            self._log.append(back.inputs[0].seq, [one.frame for one in back.inputs])
            for one in back.inputs:
                self._note_input(Numbered(one.seq, one.given), one)
            self._accepted_seq = back.inputs[-1].seq
        for _, frame, at_ns in back.outputs:
            self._books[frame.nic].learn_output(frame.data)
            self._recent.note(frame, at_ns)
        self.machine.count_lost(back.lost_frames)
        self._confirm_at_ns = back.confirm_at_ns

    # Messages.

    def _hear(self, message: wire.FrameMessage) -> None:
        match message:
            case wire.OpenFrames():
                self._notices.append(self._colo.on_channel_open)
            case wire.InputBatch(first_seq, frames):
                self._hear_inputs(first_seq, [Frame(nic, data) for nic, data in frames])
            case wire.ShiftTold():
                self._hear_shift(message)
            case wire.LastingShifts(begins, shifts):
                self._hear_lasting(begins, [(key, Shift(seq, ts)) for key, seq, ts in shifts])
            case _:
                super()._hear(message)

    def _hear_inputs(self, first_seq: int, frames: Sequence[Frame]) -> None:
        newest = self._log.newest_seq
        # The checkpoint that was loaded may contain some that come only now.
        if self._is_whole and first_seq > newest + 1:
            raise RemoteWireError(f"input {first_seq} came after {newest}", record="input-batch")
        for frame in frames:
            if frame.nic >= len(self.ports):
                raise RemoteWireError(f"a frame for NIC {frame.nic}", record="input-batch")
        self._log.append(first_seq, frames)
        if self._epoch is not None and not self._input_held:
            self._check_room(frames)
            skipped = max(newest + 1 - first_seq, 0)
            self._accept(first_seq + skipped, frames[skipped:])
            for inputs in self.inputs:
                inputs.deliver()
        if self._is_whole and self._confirm_at_ns is None:
            self._confirm_at_ns = self._clock() + CONFIRM_NS

    def _check_room(self, frames: Sequence[Frame]) -> None:
        for frame in frames:
            if not self.inputs[frame.nic].has_room(len(frame.data)):
                raise TransportError("the secondary's guest takes no inputs")

    def _accept(self, first_seq: int, frames: Sequence[Frame]) -> None:
        """Shifted by what is known now: a frame that needs a shift comes after it."""
        for seq, frame in enumerate(frames, first_seq):
            self.inputs[frame.nic].accept(Numbered(seq, self._table.to_guest(frame.data, frame.nic)))
            self._accepted_seq = seq

    def _catch_up(self) -> None:
        """What came while the inputs were held. Of missing ones only the place matters, and that nobody needs."""
        self._accept(self._accepted_seq + 1, self._log.after(self._accepted_seq).frames)
        self._accepted_seq = max(self._accepted_seq, self._log.newest_seq)

    def _hear_shift(self, told: wire.ShiftTold) -> None:
        if told.epoch != self._epoch:
            # Of connections that a checkpoint has made equal since.
            return
        if not self._table.learn(told.key, Shift(told.seq, told.ts)):
            self._shift_refused = True
        if not self._shift_refused:
            self._send(wire.ShiftsKnown(told.shift))

    def _hear_lasting(self, begins: bool, shifts: Sequence[tuple[bytes, Shift]]) -> None:
        if begins:
            self._table.forget_lasting()
        if not self._table.adopt(shifts):
            raise TransportError("too many connections are shifted to take over all of them")

    def _confirm_inputs(self) -> None:
        self._confirm_at_ns = None
        if self._is_whole:
            self._send(wire.InputsLogged(self._log.newest_seq))

    # The guest.

    def _tell(self, nic: int, said: Sequence[bytes], epoch: Epoch) -> None:
        logged = self._log.newest_seq if self._is_whole else 0
        self._confirm_at_ns = None
        for batch in wire.batches([(nic, data) for data in said]):
            self._send(wire.OutputBatch(epoch, logged, batch))
        now_ns, book = self._clock(), self._books[nic]
        for data in said:
            book.learn_output(data)
            self._table.from_guest(data, nic)
            self._recent.note(Frame(nic, data), now_ns)

    def _note_stops(self) -> None:
        """What the guest had not taken when it was suspended is given again: a stop may have cost it."""
        for inputs in self.inputs:
            inputs.note_stop()

    def _newest_inputs(self) -> Sequence[Frame]:
        return self._log.after(max(self._log.newest_seq - _ACKS_FRAMES_MAX, 0)).frames
