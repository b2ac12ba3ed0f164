"""One TCP connection of both guests.

Compared are the contents of the two streams, and the events SYN, FIN and RST: a frame of the primary leaves when the
secondary has said all it contains, and after the frames before it. Sequence numbers, segment borders, windows and the
time of acknowledgements are each side's own.

An acknowledgement is a promise that the input is not lost: it leaves when the secondary's guest has acknowledged as
much, or the secondary's relay keeps the inputs that the primary's guest had when it said so.

A connection that both open after a checkpoint begins at different sequence numbers; the two SYNs tell by how much. The
SYN leaves when the secondary's side knows it. At a commit the secondary's guest becomes the primary's: same numbers.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import Final

from replicator.compare.api import Ages, Connection, Differs, OutputComparer, Same
from replicator.compare.guard import Guard
from replicator.engine.compare.effects import Reason
from replicator.engine.compare.flow import Confirmed, Finding
from replicator.engine.compare.numbers import MASK, is_at_or_after, latest
from replicator.engine.compare.packet import ACK, FIN, RST, SYN, Kind, Packet, TcpSegment
from replicator.engine.compare.shift import NO_SHIFT
from replicator.engine.compare.stream import Stream, Taken
from replicator.engine.compare.tcp_side import HeldFrame, Side, SteadySide, SteadyState, Syn
from replicator.errors import InvariantError
from replicator.limits import COMPARE_CALL_BYTES_MAX

_TAKEN_REASONS: Final = {Taken.FULL: Reason.BUFFER, Taken.CONTRADICTS: Reason.DIFFERS}
_OPENED_ANEW: Final = Finding(Reason.DIFFERS, "opened anew before its end was compared")
_OPENED_BY_ONE: Final = Finding(Reason.DIFFERS, "goes on where the other side opens it")


class TcpFlow:
    kind = Kind.TCP

    def __init__(self, key: bytes, connection: Connection, now_ns: int) -> None:
        #: Of its packets.
        self.key = key
        #: Its `from_start` is true only while all of it was compared or skipped.
        self._connection = replace(connection, from_start=False)
        self._comparer: OutputComparer | None = None
        self._primary = Side()
        self._secondary = Side()
        self._held: deque[HeldFrame] = deque()
        self._input_seq = 0
        self._peer_ended = False
        self._peer_reset = False
        self._ends_matched = False
        self._syns_matched = False
        self.since_ns = now_ns
        self.used_turn = 0
        self.shift = NO_SHIFT
        #: The secondary's side has not been told the shift.
        self.must_tell_shift = False
        #: Under which it was told.
        self._shift_number = 0
        #: As of the last `release`.
        self.awaits_confirmation = False

    @property
    def name(self) -> str:
        return str(self._connection)

    @property
    def is_waiting(self) -> bool:
        if self._held:
            return True
        mine, others = self._primary, self._secondary
        if mine.has_reset is not others.has_reset or (mine.syn is None) is not (others.syn is None):
            return True
        return _is_ahead(mine.stream) or _is_ahead(others.stream)

    @property
    def is_closed(self) -> bool:
        reset = self._primary.has_reset and self._secondary.has_reset
        return reset or self._peer_reset or (self._ends_matched and self._peer_ended)

    @property
    def may_be_forgotten(self) -> bool:
        return self.is_closed or self.shift == NO_SHIFT

    @property
    def kept_bytes(self) -> int:
        mine, others = self._primary.stream, self._secondary.stream
        return (mine.kept_bytes if mine else 0) + (others.kept_bytes if others else 0)

    @property
    def is_undecided(self) -> bool:
        mine, others = self._primary.stream, self._secondary.stream
        return bool(mine and others and mine.pending and others.pending)

    def say_primary(
        self, frame_id: int, packet: Packet, frame: bytes, newest_input: int, now_ns: int
    ) -> Finding | None:
        segment = _segment_of(packet)
        self._begin_wait(now_ns)
        finding = self._say(self._primary, self._secondary, segment, frame, now_ns)
        stream = self._primary.stream
        end = 0
        if stream is not None and not segment.flags & (SYN | RST):
            end = stream.place_of(segment.seq) + len(segment.payload) + bool(segment.flags & FIN)
        # Of a connection whose inputs were not followed, it may be any.
        self._held.append(
            HeldFrame(frame_id, end, segment.flags, segment.ack, self._input_seq or newest_input)
        )
        return finding

    def say_secondary(self, packet: Packet, frame: bytes, now_ns: int) -> Finding | None:
        self._begin_wait(now_ns)
        return self._say(self._secondary, self._primary, _segment_of(packet), frame, now_ns)

    def note_lost(self, packet: Packet) -> None:
        segment = _segment_of(packet)
        if self._primary.stream and not segment.flags & (SYN | RST):
            self._primary.stream.note(segment.seq, len(segment.payload) + bool(segment.flags & FIN))

    def note_input(self, packet: Packet, seq: int) -> None:
        self._input_seq = seq
        flags = _segment_of(packet).flags
        self._peer_ended = self._peer_ended or bool(flags & FIN)
        self._peer_reset = self._peer_reset or bool(flags & RST)

    def told_shift(self, number: int) -> None:
        """The SYN may leave when the secondary's side knows the shift of this number."""
        self.must_tell_shift = False
        self._shift_number = number

    def compare(self, guard: Guard, now_ns: int) -> Finding | None:
        mine, others = self._primary.stream, self._secondary.stream
        if mine is None or others is None:
            return None
        while size := min(len(mine.pending), len(others.pending), COMPARE_CALL_BYTES_MAX):
            if guard.passes_equal and mine.pending[:size] == others.pending[:size]:
                guard.note_equal()
                mine.advance(size, now_ns)
                others.advance(size, now_ns)
                self.since_ns = now_ns
                continue
            judgement = guard.judge(
                self._get_comparer(guard),
                self._connection,
                bytes(mine.pending[:size]),
                bytes(others.pending[:size]),
                Ages(now_ns - mine.since_ns, now_ns - others.since_ns),
            )
            verdict = judgement.verdict
            if isinstance(verdict, Same):
                mine.advance(verdict.size, now_ns)
                others.advance(verdict.size, now_ns)
                self.since_ns = now_ns
            elif isinstance(verdict, Differs):
                if judgement.is_fault:
                    self._lose_place()
                return Finding(Reason.COMPARER if judgement.is_fault else Reason.DIFFERS, verdict.reason)
            elif size == COMPARE_CALL_BYTES_MAX:
                return Finding(Reason.BUFFER, f"the comparer waits with {size} bytes before it")
            else:
                return None
        return self._compare_ends(mine, others, now_ns)

    def release(self, confirmed: Confirmed, now_ns: int) -> list[int]:
        out: list[int] = []
        held = self._held
        self.awaits_confirmation = False
        while held and self._may_leave(held[0], confirmed):
            out.append(held.popleft().frame_id)
        if out:
            self.since_ns = now_ns
        return out

    def commit(self, guard: Guard) -> None:
        self._held.clear()
        self._forget_shift()
        side = self._primary
        if side.stream is not None:
            self._skip_rest(guard, side.stream)
            self._ends_matched = self._ends_matched or side.stream.fin is not None
            side.stream, other_stream = Stream(side.stream.next_seq), Stream(side.stream.next_seq)
            self._secondary = replace(side, stream=other_stream)
        else:
            self._secondary = replace(side)

    def steady_state(self) -> SteadyState | None:
        """None while anything is under way but bytes that one side has not said yet, and acknowledgements."""
        mine, others = self._primary.stream, self._secondary.stream
        if mine is None or others is None or self._has_events() or not mine.is_level_with(others):
            return None
        ahead = int(bool(others.pending))
        return SteadyState(
            (_steady_side(mine, self._primary), _steady_side(others, self._secondary)),
            mine.position,
            ahead,
            bytes((mine, others)[ahead].pending),
            self._held,
            self.since_ns,
            self._input_seq,
        )

    def go_on_from(self, state: SteadyState) -> None:
        """What has become of a `steady_state` meanwhile."""
        for index, (side, steady) in enumerate(
            zip((self._primary, self._secondary), state.sides, strict=True)
        ):
            if side.stream is None:
                raise InvariantError(f"{self.name} was never steady")
            pending = state.pending if index == state.ahead else b""
            side.stream.go_on_from(steady.seq, state.position, steady.end, pending, steady.since_ns)
            side.ack = steady.ack
        self._held = deque(state.held)
        self.since_ns = state.since_ns
        self._input_seq = state.input_seq

    @property
    def is_lossy(self) -> bool:
        """Something that the primary said could not be kept."""
        return self._primary.stream is not None and self._primary.stream.is_lossy

    def commit_lent(self) -> None:
        """`commit` of a flow whose steady state is elsewhere, and whose primary is neither ahead nor lossy."""
        self._forget_shift()
        self._secondary.syn = self._primary.syn
        if self._secondary.stream is not None:
            self._secondary.stream.is_lossy = False

    def _forget_shift(self) -> None:
        """Both go on with the same numbers."""
        self.shift, self._shift_number, self.must_tell_shift = NO_SHIFT, 0, False
        self._syns_matched = self._primary.syn is not None

    def _has_events(self) -> bool:
        """Of opening, ending and resetting."""
        mine, others = self._primary, self._secondary
        return (
            mine.has_reset
            or others.has_reset
            or (mine.syn is None) is not (others.syn is None)
            or self.must_tell_shift
            or any(held.flags & (SYN | RST) for held in self._held)
        )

    def _say(self, side: Side, other: Side, segment: TcpSegment, frame: bytes, now_ns: int) -> Finding | None:
        if segment.flags & SYN:
            finding = self._say_syn(side, segment, frame, now_ns)
        elif segment.flags & RST:
            side.has_reset = True
            finding = None
        else:
            finding = self._say_bytes(side, other, segment, now_ns)
        if segment.flags & ACK:
            side.ack = latest(side.ack, segment.ack)
        return finding

    def _say_syn(self, side: Side, segment: TcpSegment, frame: bytes, now_ns: int) -> Finding | None:
        if side.syn is None or side.syn.seq != segment.seq:
            if side.stream is not None:
                if self.is_waiting:
                    return _OPENED_ANEW
                self._forget()
            answers = segment.ack if segment.flags & ACK else None
            side.syn = Syn(segment.seq, answers, segment.options(frame))
            side.stream = Stream((segment.seq + 1) & MASK)
            # A refusal before it is none of this connection.
            side.has_reset = False
            if side is self._primary:
                self._comparer = None
                self._connection = replace(self._connection, from_start=True)
        if segment.payload and side.stream is not None:
            side.stream.take((segment.seq + 1) & MASK, segment.payload, now_ns)
        return self._match_syns()

    def _match_syns(self) -> Finding | None:
        mine, others = self._primary.syn, self._secondary.syn
        if self._syns_matched or mine is None or others is None:
            return None
        if not mine.same_as(others):
            return Finding(Reason.DIFFERS, "opened with other options")
        self.shift = mine.shift_to(others)
        if mine.options.is_signed and self.shift.seq:
            return Finding(Reason.DIFFERS, "signed segments cannot be shifted")
        self._syns_matched = True
        self.must_tell_shift = self.shift != NO_SHIFT
        return None

    def _say_bytes(self, side: Side, other: Side, segment: TcpSegment, now_ns: int) -> Finding | None:
        if side.stream is None:
            if other.syn is not None:
                return _OPENED_BY_ONE
            # It was there before: both count alike, and begin at what is seen first.
            side.stream, other.stream = Stream(segment.seq), Stream(segment.seq)
        fin = bool(segment.flags & FIN)
        taken = side.stream.take(segment.seq, segment.payload, now_ns, fin=fin)
        if taken is Taken.OK:
            return None
        return Finding(
            _TAKEN_REASONS[taken], f"{'primary' if side is self._primary else 'secondary'} {taken.value}"
        )

    def _compare_ends(self, mine: Stream, others: Stream, now_ns: int) -> Finding | None:
        mine_ends, others_end = mine.fin == mine.position, others.fin == others.position
        if mine_ends and others_end:
            # FIN has a place of its own.
            mine.advance(1, now_ns)
            others.advance(1, now_ns)
            self._ends_matched = True
        elif (mine_ends and others.pending) or (others_end and mine.pending):
            return Finding(Reason.DIFFERS, "one side ends where the other goes on")
        return None

    def _may_leave(self, held: HeldFrame, confirmed: Confirmed) -> bool:
        stream = self._primary.stream
        if stream is not None and held.end > stream.position:
            return False
        if held.flags & SYN and not self._syns_matched:
            return False
        if held.flags & RST and not self._secondary.has_reset:
            return False
        self.awaits_confirmation = not (
            self._is_shift_known(held, confirmed) and self._is_safe(held, confirmed)
        )
        return not self.awaits_confirmation

    def _is_shift_known(self, held: HeldFrame, confirmed: Confirmed) -> bool:
        """A connection opens only when the secondary's side can go on with it."""
        if not held.flags & SYN:
            return True
        return not self.must_tell_shift and confirmed.shifts_upto >= self._shift_number

    def _is_safe(self, held: HeldFrame, confirmed: Confirmed) -> bool:
        """What the frame acknowledges is not lost with this side."""
        if not held.flags & ACK or held.input_seq <= confirmed.inputs_upto:
            return True
        return self._secondary.ack is not None and is_at_or_after(self._secondary.ack, held.ack)

    def _begin_wait(self, now_ns: int) -> None:
        if not self.is_waiting:
            self.since_ns = now_ns

    def _get_comparer(self, guard: Guard) -> OutputComparer | None:
        if self._comparer is None:
            self._comparer = guard.make()
        return self._comparer

    def _skip_rest(self, guard: Guard, stream: Stream) -> None:
        """The comparer's place after what leaves with the checkpoint."""
        if stream.is_lossy or stream.has_islands:
            self._lose_place()
        elif stream.pending:
            comparer = self._get_comparer(guard)
            if comparer is None or not guard.skip(comparer, self._connection, bytes(stream.pending)):
                self._lose_place()

    def _lose_place(self) -> None:
        self._comparer = None
        self._connection = replace(self._connection, from_start=False)

    def _forget(self) -> None:
        """The connection of these addresses that comes now is another one."""
        self._primary.forget()
        self._secondary.forget()
        self._peer_ended = self._peer_reset = self._ends_matched = self._syns_matched = False
        self.shift, self._shift_number, self.must_tell_shift = NO_SHIFT, 0, False


def _segment_of(packet: Packet) -> TcpSegment:
    if packet.tcp is None:
        raise InvariantError(f"a {packet.kind.value} packet in a TCP flow")
    return packet.tcp


def _steady_side(stream: Stream, side: Side) -> SteadySide:
    return SteadySide(stream.seq, stream.end, stream.since_ns, side.ack)


def _is_ahead(stream: Stream | None) -> bool:
    """It has said what the other has not."""
    if stream is None:
        return False
    if stream.pending or stream.has_islands:
        return True
    return stream.fin is not None and stream.fin >= stream.position
