"""The primary's side of a COLO pair: a relay's core whose output is compared, with a channel to the secondary's relay.

Inputs go into the channel before the guest here gets them, and later, gathered, to whoever keeps the replica's log.
What comes out of it is the secondary's word, and goes to `ComparedOutput`. A channel that breaks ends the comparison at
once: what is held waits for its commit, so nothing can leave for which the secondary's word is missing. No sockets here
and no threads, as in `output.core`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Final

from replicator.deadline import SharedDeadline
from replicator.engine.compare.compared_output import ComparedOutput, ShiftTold
from replicator.engine.compare.counters import CompareStatus
from replicator.engine.compare.events import (
    InputsArrived,
    InputsLogged,
    SecondarySaid,
    ShiftsKnown,
    TimePassed,
)
from replicator.engine.compare.machine import TICK_NS
from replicator.engine.output import Frame, OutputMode
from replicator.errors import InvariantError, ReplicatorError, TransportError, WireError
from replicator.output.base import BarrierMark, Deadline, RelayCallbacks
from replicator.output.colo_base import ColoCallbacks
from replicator.output.core import TURN_FRAMES_MAX, NicPort, RelayCore, boottime_ns
from replicator.output.fast_path import (
    PathBack,
    PathEnd,
    PathInput,
    PathLoan,
    PrimaryPart,
    SecondaryPart,
    WaitingInput,
)
from replicator.output.frame_channel import FrameChannel
from replicator.output.inputs import CostTable, Numbered
from replicator.output.late_copies import LATE_NS, LateCopies
from replicator.units import Epoch
from replicator.wire import frames as wire
from replicator.wire.lent_line import LentLine

#: Messages of the channel in one turn.
TURN_MESSAGES_MAX: Final = 64
#: Of the inputs that wait, what is lent to the fast path; with more, the guest is slower than any path.
_LENT_FRAMES_MAX: Final = 256
_LENT_BYTES_MAX: Final = 1 << 20
_BROKEN_BY: Final = (TransportError, WireError)


class ColoCore(RelayCore):
    """`output` is this relay's alone."""

    def __init__(
        self,
        ports: Sequence[NicPort],
        costs: CostTable,
        deadline: Deadline,
        callbacks: RelayCallbacks,
        colo: ColoCallbacks,
        output: ComparedOutput,
        *,
        clock: Callable[[], int] = boottime_ns,
    ) -> None:
        super().__init__(ports, costs, deadline, callbacks, clock=clock, machine=output)
        self._compared = output
        self._colo = colo
        self._channel: FrameChannel | None = None
        #: Called with a channel before it is closed.
        self.before_close: Callable[[FrameChannel], None] = lambda _: None
        self._tick_at_ns = 0
        #: Inputs that went into the channel, for the replica's log.
        self._copies = LateCopies()

    @property
    def channel(self) -> FrameChannel | None:
        return self._channel

    @property
    def is_comparing(self) -> bool:
        return self._compared.is_comparing

    @property
    def look_in_ns(self) -> int | None:
        """In how long `pass_time` is due at the latest; None when nothing waits for it."""
        if self._compared.is_waiting:
            return TICK_NS
        return None if self._copies.due_ns is None else LATE_NS

    # The channel.

    def attach(self, channel: FrameChannel) -> None:
        """Of this session with the secondary; takes the place of an older one."""
        self.detach()
        self._channel = channel

    def detach(self) -> None:
        """Close the channel, if there is one. Nothing is compared any more."""
        channel, self._channel = self._channel, None
        if channel is not None:
            self.before_close(channel)
            channel.close()
        self._send_copies()
        self._compared.forget_secondary()
        self._say_if_held()

    def serve_channel(self) -> bool:
        """Take what has come in. False when nothing more has."""
        return all(self._serve_next() for _ in range(TURN_MESSAGES_MAX))

    def pass_time(self) -> None:
        if self.look_in_ns is None:
            return
        now_ns = self._clock()
        if self._compared.is_waiting and now_ns >= self._tick_at_ns:
            self._tick_at_ns = now_ns + TICK_NS
            self._compared.hear(TimePassed(), now_ns)
            self._carry_wants()
        if self._copies.due_ns is not None and now_ns >= self._copies.due_ns:
            self._send_copies()

    # Comparing.

    def compare(self, epoch: Epoch) -> bool:
        """`epoch` is committed and the secondary's guest runs from it. False when there is no open channel, and what is
        held waits for commits."""
        self.release(epoch)
        if self._channel is None or not self._channel.is_open:
            return False
        for message in self._lasting_shifts():
            self._send(message)
        if self._channel is None:
            return False
        self._compared.compare(epoch, self._clock())
        self._carry_wants()
        return self.is_comparing

    def stop_comparing(self) -> None:
        self._compared.stop_comparing()
        self._say_if_held()

    def compare_status(self) -> CompareStatus | None:
        return self._compared.compare_status()

    # What every relay does, for a pair that compares.

    def read_guest(self, nic: int, frames_max: int = TURN_FRAMES_MAX) -> bool:
        more = super().read_guest(nic, frames_max)
        self._carry_wants()
        return more

    def drain_and_mark(self, epoch: Epoch) -> BarrierMark:
        mark = super().drain_and_mark(epoch)
        self._compared.note_inputs(epoch, mark.input_seq)
        return mark

    def release(self, epoch: Epoch) -> int:
        self._compared.note_time(self._clock())
        released = super().release(epoch)
        self._carry_wants()
        return released

    def set_mode(self, mode: OutputMode) -> int:
        let_go = super().set_mode(mode)
        self._say_if_held()
        return let_go

    def restart_inputs(self) -> None:
        """Of a new session, which needs a channel of its own."""
        # They are of the session before.
        self._copies.take()
        super().restart_inputs()
        self.detach()
        self._compared.restart_inputs()

    def _mirror(self, first_seq: int, frames: Sequence[Frame]) -> None:
        session_seq = first_seq - self._base_seq
        first = session_seq
        for batch in wire.batches(frames):
            self._send(wire.InputBatch(first, batch))
            first += len(batch)
        now_ns = self._clock()
        self._compared.hear(InputsArrived(session_seq, frames), now_ns)
        self._copies.add(first_seq, frames, now_ns)
        if self._copies.is_full or self._channel is None or not self._channel.is_open:
            self._send_copies()

    def _send_copies(self) -> None:
        first_seq, frames = self._copies.take()
        for start in range(0, len(frames), TURN_FRAMES_MAX):
            super()._mirror(first_seq + start, frames[start : start + TURN_FRAMES_MAX])

    def _lasting_shifts(self) -> Sequence[wire.LastingShifts]:
        """What the secondary needs to know of connections that are older than this primary: nothing."""
        return (wire.LastingShifts(True, ()),)

    # The fast path.

    def held_since_ns(self) -> int:
        """When the oldest frame came that is held; now, when none is."""
        oldest_ns = self._compared.oldest_held_ns
        return self._clock() if oldest_ns is None else oldest_ns

    def lend(self, until_ns: int) -> PathLoan | None:
        """For the fast path to carry what is ordinary, until then at the latest. None while there is more to do."""
        is_quiet = not self._muted and not self._notices and not self._input_held
        if not is_quiet or not self._may_lend() or (line := self._lend_line()) is None:
            return None
        waiting = [
            WaitingInput(nic, one.data) for nic, inputs in enumerate(self.inputs) for one in inputs.waiting()
        ]
        due_ns = until_ns if self._copies.due_ns is None else min(until_ns, self._copies.due_ns)
        part = self._lend_part()
        if isinstance(part, PrimaryPart) and part.compare.others_waiting:
            due_ns = min(due_ns, self._tick_at_ns)
        return None if part is None else PathLoan(line, waiting, part, due_ns, LATE_NS)

    def take_back(self, back: PathBack) -> None:
        """What has become of a loan, and what is left to do of it."""
        for inputs, count in zip(self.inputs, back.given, strict=True):
            inputs.take_given(count)
        self._take_back_part(back)
        if self._channel is not None:
            self._take_back_line(self._channel, back)
        match back.end:
            case PathEnd.GUEST:
                self._hear_guest(Frame(back.nic, back.item), self._clock())
            case PathEnd.NETWORK:
                self._hear_network(back.nic, [back.item])
            case PathEnd.ROWS:
                self._hear_rows(back)
            case _:
                pass
        self._carry_wants()

    def _may_lend(self) -> bool:
        return (
            all(port.connected for port in self.ports)
            and sum(inputs.waiting_frames for inputs in self.inputs) <= _LENT_FRAMES_MAX
            and sum(inputs.waiting_bytes for inputs in self.inputs) <= _LENT_BYTES_MAX
        )

    def _lend_line(self) -> LentLine | None:
        return None if self._channel is None else self._channel.lend()

    def _lend_part(self) -> PrimaryPart | SecondaryPart | None:
        if not isinstance(self._deadline, SharedDeadline) or (loan := self._compared.lend()) is None:
            return None
        if loan.numbers.newest_input != self._newest_seq - self._base_seq:
            return None
        return PrimaryPart(loan, self._deadline, self._tick_at_ns)

    def _take_back_part(self, back: PathBack) -> None:
        """Addresses are known: a flow is lent after its guest has spoken."""
        self._compared.take_back(back.compare, self._clock())
        if back.inputs:
            first_seq = self._newest_seq + 1
            for one in back.inputs:
                self._newest_seq += 1
                self._note_input(Numbered(self._newest_seq, one.given), one)
            self._copies.add(first_seq, [one.frame for one in back.inputs], back.inputs[0].at_ns)
            if self._copies.is_full:
                self._send_copies()

    def _note_input(self, numbered: Numbered, one: PathInput) -> None:
        inputs = self.inputs[one.frame.nic]
        if one.is_given:
            inputs.note_given(numbered)
        else:
            inputs.accept(numbered)

    def _take_back_line(self, channel: FrameChannel, back: PathBack) -> None:
        try:
            channel.take_back(back.line)
            if back.line_error:
                raise TransportError(f"the other relay is gone: {os.strerror(back.line_error)}")
        except _BROKEN_BY as error:
            self._break(error)

    def _hear_rows(self, back: PathBack) -> None:
        message = wire.decode(back.item).message
        if not isinstance(message, wire.OutputBatch):
            raise InvariantError("the fast path gave back another message than an output-batch")
        self._hear(wire.OutputBatch(message.epoch, message.inputs_upto, message.frames[back.rows_done :]))

    # Messages.

    def _serve_next(self) -> bool:
        if self._channel is None:
            return False
        try:
            message = self._channel.receive()
            if message is None:
                return False
            self._hear(message)
        except _BROKEN_BY as error:
            self._break(error)
            return False
        self._carry_wants()
        return True

    def _hear(self, message: wire.FrameMessage) -> None:
        match message:
            case wire.FramesOpen():
                self._notices.append(self._colo.on_channel_open)
            case wire.OutputBatch(epoch, upto, frames):
                now_ns = self._clock()
                if upto:
                    self._compared.hear(InputsLogged(upto), now_ns)
                for nic, data in frames:
                    self._compared.hear(SecondarySaid(Epoch(epoch), nic, data), now_ns)
            case wire.InputsLogged(upto):
                self._compared.hear(InputsLogged(upto), self._clock())
            case wire.ShiftsKnown(upto):
                self._compared.hear(ShiftsKnown(upto), self._clock())

    def _carry_wants(self) -> None:
        if not self._compared.has_wants:
            return
        for want in self._compared.take_wants():
            if isinstance(want, ShiftTold):
                told = want.told
                self._send(wire.ShiftTold(want.epoch, told.number, told.key, told.shift.seq, told.shift.ts))
            else:
                asked, on_ask = want, self._colo.on_ask_checkpoint
                self._notices.append(lambda asked=asked, on_ask=on_ask: on_ask(asked))  # type: ignore[misc]

    def _send(self, message: wire.FrameMessage) -> None:
        """Nothing before the channel is open: the secondary learns of the rest by a checkpoint."""
        if self._channel is None or not self._channel.is_open:
            return
        try:
            self._channel.send(message)
        except _BROKEN_BY as error:
            self._break(error)

    def _break(self, error: ReplicatorError) -> None:
        reason, on_broken = str(error), self._colo.on_channel_broken
        self.detach()
        self._notices.append(lambda: on_broken(reason))

    def _say_if_held(self) -> None:
        """What was to be compared waits for a commit now."""
        if not self.is_comparing and self._compared.waiting_frames:
            self._say_waiting()
