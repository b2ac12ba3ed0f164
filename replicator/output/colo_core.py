"""The primary's side of a COLO pair: a relay's core whose output is compared, with a channel to the secondary's relay.

Inputs go into the channel before the guest here gets them, and later, gathered, to whoever keeps the replica's log.
What comes out of it is the secondary's word, and goes to `ComparedOutput`. A channel that breaks ends the comparison at
once: what is held waits for its commit, so nothing can leave for which the secondary's word is missing. No sockets here
and no threads, as in `output.core`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

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
from replicator.errors import ReplicatorError, TransportError, WireError
from replicator.output.base import BarrierMark, Deadline, RelayCallbacks
from replicator.output.colo_base import ColoCallbacks
from replicator.output.core import TURN_FRAMES_MAX, NicPort, RelayCore, boottime_ns
from replicator.output.frame_channel import FrameChannel
from replicator.output.inputs import CostTable
from replicator.output.late_copies import LATE_NS, LateCopies
from replicator.units import Epoch
from replicator.wire import frames as wire

#: Messages of the channel in one turn.
TURN_MESSAGES_MAX: Final = 64
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
