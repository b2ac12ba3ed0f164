"""COLO's comparison: what the primary's guest says leaves when the secondary's has said the same.

    comparing   each frame of either side goes to its flow; what both have said leaves, a difference asks
    asked       nothing leaves and nothing is compared; what the primary says is held, the secondary's is ignored
    committed   all of the epoch that the primary said leaves, in order; both guests are equal; comparing

Rules: 1. A frame of the primary leaves once: when its flow allows it, or with the commit of its epoch. 2. After a
checkpoint was asked for, nothing leaves before the commit: what follows a difference may build on it. 3. Nothing is
unbounded: at each bound a checkpoint is asked for, which empties everything; what comes beyond twice the bound
before that is lost like on any network, and counted. 4. One checkpoint is asked for in an epoch.

This file does not know who carries frames, inputs or checkpoints, and keeps no frame: who holds them knows them by
number. Frames of different flows may overtake one another; those of one flow keep their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from replicator.compare.guard import Guard
from replicator.engine.compare.counters import CompareStatus, KindCounters
from replicator.engine.compare.effects import AskCheckpoint, CompareEffect, Drop, Reason, Release, TellShift
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
from replicator.engine.compare.flow import Confirmed, Finding, Flow
from replicator.engine.compare.flow_queue import FlowQueue
from replicator.engine.compare.held_frames import HeldFrames
from replicator.engine.compare.loan import CompareBack, CompareLoan, CompareNumbers
from replicator.engine.compare.packet import Kind, Packet, parse_frame
from replicator.engine.compare.patience import PATIENCE_MAX_NS, PATIENCE_MIN_NS, Patience
from replicator.engine.compare.steady import EVER, SteadyFlows
from replicator.engine.compare.table import FlowTable
from replicator.engine.compare.tcp_flow import TcpFlow
from replicator.engine.output import FRAME_OVERHEAD_BYTES
from replicator.errors import require
from replicator.limits import COMPARE_BYTES_MAX, COMPARE_CONNECTIONS_MAX
from replicator.units import NS_PER_MS, Epoch

TICK_NS: Final = 10 * NS_PER_MS


@dataclass(frozen=True, slots=True)
class CompareSettings:
    patience_min_ns: int = PATIENCE_MIN_NS
    patience_max_ns: int = PATIENCE_MAX_NS
    connections_max: int = COMPARE_CONNECTIONS_MAX
    #: Of both sides together; a checkpoint is asked for there.
    bytes_max: int = COMPARE_BYTES_MAX
    #: Flows on which nothing but bytes and acknowledgements is under way are compared by the native core.
    lends_steady: bool = True


class CompareMachine:
    """The comparison for one guest, all NICs together. `epoch` is the one that begins."""

    def __init__(self, guard: Guard, *, epoch: Epoch, settings: CompareSettings = CompareSettings()) -> None:
        self._guard = guard
        self._settings = settings
        #: The epoch that is compared.
        self._epoch = epoch
        self._has_asked = False
        #: Flows in which something waits, and those of them that a confirmation would let go on.
        self._waiting = FlowQueue()
        self._unconfirmed = FlowQueue()
        self._steady: SteadyFlows | None = None
        if settings.lends_steady and guard.passes_equal:
            self._steady = SteadyFlows(settings.connections_max, self._waiting, self._unconfirmed)
        self._flows = FlowTable(connections_max=settings.connections_max, steady=self._steady)
        #: Grows with all that a flow hears.
        self._turn = 0
        self._patience = Patience(min_ns=settings.patience_min_ns, max_ns=settings.patience_max_ns)
        self._confirmed = Confirmed()
        self._newest_input = 0
        self._shifts_told = 0
        self._held = HeldFrames()
        self._kept_bytes = 0
        #: Frames of epochs that have not begun here, and their cost.
        self._early: list[PrimarySaid | SecondarySaid] = []
        self._early_cost = 0
        self._early_lost = False
        self._counters = {kind: KindCounters() for kind in Kind}
        self._ignored_frames = 0

    @property
    def epoch(self) -> Epoch:
        return self._epoch

    @property
    def has_asked(self) -> bool:
        """A checkpoint was asked for and is not committed yet."""
        return self._has_asked

    @property
    def is_waiting(self) -> bool:
        """`TimePassed` is due every `TICK_NS`."""
        return self._waiting_count() > 0 and not self._has_asked

    def handle(self, event: CompareEvent, now_ns: int) -> list[CompareEffect]:
        """Take the next event. `now_ns` never goes back."""
        out: list[CompareEffect] = []
        match event:
            case PrimarySaid():
                self._primary_said(event, now_ns, out)
            case SecondarySaid():
                self._secondary_said(event, now_ns, out)
            case InputsArrived():
                self._newest_input = max(self._newest_input, event.upto_seq)
                for seq, frame in enumerate(event.frames, event.first_seq):
                    self._note_input(seq, frame.data, frame.nic)
            case InputsLogged():
                self._confirmed.inputs_upto = max(self._confirmed.inputs_upto, event.upto_seq)
                self._release_confirmed(now_ns, out)
            case ShiftsKnown():
                self._confirmed.shifts_upto = max(self._confirmed.shifts_upto, event.upto)
                self._release_confirmed(now_ns, out)
            case Committed():
                self._committed(event, now_ns, out)
            case TimePassed():
                self._time_passed(now_ns, out)
        return out

    def lend(self, newest_id: int) -> CompareLoan | None:
        """For others to ask the steady flows until `take_back`; `newest_id` is the newest frame's. None while there
        is more to it than those."""
        room = self._settings.bytes_max - self._cost()
        if self._steady is None or self._has_asked or room <= 0:
            return None
        return CompareLoan(
            self._steady,
            self._epoch,
            CompareNumbers(
                newest_id,
                self._turn,
                self._newest_input,
                self._confirmed.inputs_upto,
                self._patience.longest_ns,
            ),
            patience_ns=self._patience.limits_ns,
            others_waiting=len(self._waiting) > 0,
            others_unconfirmed=len(self._unconfirmed) > 0,
            room_bytes=room,
            held=(),
        )

    def take_back(self, back: CompareBack, now_ns: int) -> list[CompareEffect]:
        """What has become of a loan. Returns what follows from it."""
        out: list[CompareEffect] = []
        numbers = back.numbers
        self._turn = numbers.turn
        self._newest_input = max(self._newest_input, numbers.newest_input)
        self._confirmed.inputs_upto = max(self._confirmed.inputs_upto, numbers.inputs_upto)
        self._patience.go_on_from(numbers.longest_wait_ns)
        self._counters[Kind.TCP].matched += back.left_frames + back.unwritten_frames
        if back.equal_count:
            self._guard.note_equal(back.equal_count)
        self._kept_bytes += back.kept_change
        for frame_id in back.gone:
            self._held.remove(frame_id)
        for frame_id, frame, at_ns in back.held:
            self._held.add(PrimarySaid(self._epoch, frame_id, frame.nic, frame.data), Kind.TCP, at_ns)
        self._let_go(back.released, Kind.TCP, now_ns, out)
        if self._cost() > self._settings.bytes_max:
            self._ask(self._too_much(), "", Kind.TCP, out)
        return out

    def status(self) -> CompareStatus:
        return CompareStatus(
            kinds={kind: _copy(counters) for kind, counters in self._counters.items()},
            connections=len(self._flows),
            waiting_connections=self._waiting_count(),
            held_frames=len(self._held),
            held_bytes=self._held.bytes,
            kept_bytes=self._kept_bytes,
            ignored_frames=self._ignored_frames,
            patience_ns=self._patience.bound_ns,
            comparer=self._guard.status(),
        )

    def _primary_said(self, event: PrimarySaid, now_ns: int, out: list[CompareEffect]) -> None:
        require(event.frame_id not in self._held, "a frame was said twice")
        cost = len(event.frame) + FRAME_OVERHEAD_BYTES
        has_room = self._cost() + cost <= 2 * self._settings.bytes_max
        if has_room and event.epoch == self._epoch and self._is_steady_primary(event, now_ns, out):
            return
        packet = parse_frame(event.frame, event.nic, from_guest=True)
        if event.epoch < self._epoch:
            # The checkpoint that closed its epoch contains it.
            self._counters[packet.kind].committed += 1
            out.append(Release((event.frame_id,)))
        elif not has_room:
            self._lose(event, packet, out)
        else:
            self._held.add(event, packet.kind, now_ns)
            if event.epoch > self._epoch:
                self._keep_early(event)
            else:
                self._compare_primary(event, packet, now_ns, out)

    def _is_steady_primary(self, event: PrimarySaid, now_ns: int, out: list[CompareEffect]) -> bool:
        """Whether it was of a steady flow, and has been heard."""
        steady = self._steady
        if steady is None or self._has_asked:
            return False
        self._turn += 1
        inputs = self._newest_input, self._confirmed.inputs_upto
        if not steady.say_primary(event.frame, event.nic, event.frame_id, *inputs, self._turn, now_ns):
            return False
        self._held.add(event, Kind.TCP, now_ns)
        self._note_steady(steady, event, now_ns, out)
        return True

    def _is_steady_secondary(self, event: SecondarySaid, now_ns: int, out: list[CompareEffect]) -> bool:
        steady = self._steady
        if steady is None:
            return False
        self._turn += 1
        if not steady.say_secondary(event.frame, event.nic, self._confirmed.inputs_upto, self._turn, now_ns):
            return False
        self._note_steady(steady, event, now_ns, out)
        return True

    def _note_steady(
        self, steady: SteadyFlows, event: PrimarySaid | SecondarySaid, now_ns: int, out: list[CompareEffect]
    ) -> None:
        """What has come of it."""
        report = steady.report
        if report.equal_count:
            self._guard.note_equal(report.equal_count)
        self._kept_bytes += report.kept_change
        if report.released_count:
            self._let_go(steady.released, Kind.TCP, now_ns, out)
        if self._cost() > self._settings.bytes_max:
            flow = self._flows.find(parse_frame(event.frame, event.nic, from_guest=True))
            name = "" if flow is None else flow.name
            self._ask(self._too_much(), name, Kind.TCP, out)

    def _compare_primary(
        self, event: PrimarySaid, packet: Packet, now_ns: int, out: list[CompareEffect]
    ) -> None:
        self._turn += 1
        flow = self._flows.use(packet, self._turn, now_ns)
        if flow is None:
            self._ask(_NO_ROOM, "", packet.kind, out)
            return
        before = flow.kept_bytes
        finding = flow.say_primary(event.frame_id, packet, event.frame, self._newest_input, now_ns)
        self._go_on(flow, finding, before, now_ns, out)

    def _secondary_said(self, event: SecondarySaid, now_ns: int, out: list[CompareEffect]) -> None:
        if event.epoch > self._epoch:
            self._keep_early(event)
            return
        if event.epoch < self._epoch or self._has_asked:
            self._ignored_frames += 1
            return
        if self._is_steady_secondary(event, now_ns, out):
            return
        packet = parse_frame(event.frame, event.nic, from_guest=True)
        self._turn += 1
        flow = self._flows.use(packet, self._turn, now_ns)
        if flow is None:
            self._ask(_NO_ROOM, "", packet.kind, out)
            return
        before = flow.kept_bytes
        finding = flow.say_secondary(packet, event.frame, now_ns)
        self._go_on(flow, finding, before, now_ns, out)

    def _note_input(self, seq: int, frame: bytes, nic: int) -> None:
        if self._steady is not None and self._steady.note_input(frame, nic, seq):
            return
        packet = parse_frame(frame, nic, from_guest=False)
        if packet.kind is Kind.TCP and (flow := self._flows.find(packet)):
            flow.note_input(packet, seq)

    def _go_on(
        self, flow: Flow, finding: Finding | None, kept_before: int, now_ns: int, out: list[CompareEffect]
    ) -> None:
        """After a flow that kept `kept_before` bytes has heard something."""
        if not self._has_asked:
            finding = self._compare(flow, now_ns, out) or finding
            self._release(flow, now_ns, out)
        self._kept_bytes += flow.kept_bytes - kept_before
        if not self._has_asked:
            if finding is None and self._cost() > self._settings.bytes_max:
                finding = self._too_much()
            if finding is not None:
                self._ask(finding, flow.name, flow.kind, out)
        self._note_waiting(flow)
        if self._steady is not None and isinstance(flow, TcpFlow) and not self._has_asked:
            self._steady.lend(flow)

    def _too_much(self) -> Finding:
        return Finding(Reason.BUFFER, f"more than {self._settings.bytes_max} bytes wait")

    def _compare(self, flow: Flow, now_ns: int, out: list[CompareEffect]) -> Finding | None:
        finding = flow.compare(self._guard, now_ns)
        if isinstance(flow, TcpFlow) and flow.must_tell_shift:
            self._shifts_told += 1
            flow.told_shift(self._shifts_told)
            out.append(TellShift(self._shifts_told, flow.key, flow.shift))
        return finding

    def _release(self, flow: Flow, now_ns: int, out: list[CompareEffect]) -> None:
        """What the flow lets go."""
        frame_ids = flow.release(self._confirmed, now_ns)
        if flow.awaits_confirmation:
            self._unconfirmed.join(flow, self._turn)
        elif self._unconfirmed:
            self._unconfirmed.leave(flow)
        self._let_go(frame_ids, flow.kind, now_ns, out)

    def _let_go(self, frame_ids: Sequence[int], kind: Kind, now_ns: int, out: list[CompareEffect]) -> None:
        """These have been the same on both sides."""
        if not frame_ids:
            return
        for frame_id in frame_ids:
            self._patience.observe(now_ns - self._held.remove(frame_id).at_ns)
        self._counters[kind].matched += len(frame_ids)
        out.append(Release(tuple(frame_ids)))

    def _release_confirmed(self, now_ns: int, out: list[CompareEffect]) -> None:
        """Something was confirmed: those that wait for it, in order, whoever has them."""
        if self._has_asked:
            return
        if self._unconfirmed:
            for flow, turn in self._unconfirmed.in_order():
                self._release_steady(turn, now_ns, out)
                self._release(flow, now_ns, out)
                self._note_waiting(flow)
        self._release_steady(EVER, now_ns, out)

    def _release_steady(self, before_turn: int, now_ns: int, out: list[CompareEffect]) -> None:
        if self._steady is not None and self._steady.unconfirmed:
            self._steady.confirm(self._confirmed.inputs_upto, before_turn, now_ns)
            self._let_go(self._steady.released, Kind.TCP, now_ns, out)

    def _time_passed(self, now_ns: int, out: list[CompareEffect]) -> None:
        """Ask again what waits, then see whether it has waited for too long."""
        bound_ns = self._patience.bound_ns
        if self._steady is not None and not self._has_asked:
            self._steady.take_back_late(now_ns, bound_ns)
        for flow, _ in self._waiting.in_order():
            if self._has_asked:
                return
            if flow.is_undecided:
                self._turn += 1
                self._go_on(flow, None, flow.kept_bytes, now_ns, out)
            if not self._has_asked and flow.is_waiting and now_ns - flow.since_ns > bound_ns:
                detail = f"one side was alone for {(now_ns - flow.since_ns) // NS_PER_MS} ms"
                self._ask(Finding(Reason.TIMEOUT, detail), flow.name, flow.kind, out)

    def _committed(self, event: Committed, now_ns: int, out: list[CompareEffect]) -> None:
        if event.epoch < self._epoch:
            return
        self._confirmed.inputs_upto = max(self._confirmed.inputs_upto, event.input_seq)
        leaving = self._held.upto(event.epoch)
        for frame_id in leaving:
            self._counters[self._held.remove(frame_id).kind].committed += 1
        if leaving:
            out.append(Release(leaving))
        self._flows.commit(self._guard)
        self._waiting.clear()
        self._unconfirmed.clear()
        self._kept_bytes = 0
        self._epoch = Epoch(event.epoch + 1)
        self._has_asked = False
        self._hear_early(now_ns, out)

    def _hear_early(self, now_ns: int, out: list[CompareEffect]) -> None:
        """What was said in the new epoch before this machine knew of it."""
        early, self._early = self._early, []
        self._early_cost = 0
        lost, self._early_lost = self._early_lost, False
        for event in early:
            if event.epoch > self._epoch:
                self._keep_early(event)
            elif isinstance(event, SecondarySaid):
                self._secondary_said(event, now_ns, out)
            elif event.frame_id in self._held:
                packet = parse_frame(event.frame, event.nic, from_guest=True)
                self._compare_primary(event, packet, now_ns, out)
        if lost:
            self._ask(_EARLY_LOST, "", Kind.OTHER, out)

    def _keep_early(self, event: PrimarySaid | SecondarySaid) -> None:
        """Bounded; of what does not fit, the epoch must be closed by a checkpoint."""
        cost = len(event.frame) + FRAME_OVERHEAD_BYTES
        if self._early_cost + cost > self._settings.bytes_max:
            self._early_lost = True
            return
        self._early.append(event)
        self._early_cost += cost

    def _ask(self, finding: Finding, name: str, kind: Kind, out: list[CompareEffect]) -> None:
        if self._has_asked:
            return
        self._has_asked = True
        asked = self._counters[kind].asked
        asked[finding.reason] = asked.get(finding.reason, 0) + 1
        out.append(AskCheckpoint(self._epoch, finding.reason, name, finding.detail))

    def _lose(self, event: PrimarySaid, packet: Packet, out: list[CompareEffect]) -> None:
        self._counters[packet.kind].lost += 1
        if event.epoch == self._epoch and (flow := self._flows.find(packet)):
            flow.note_lost(packet)
        out.append(Drop((event.frame_id,)))

    def _note_waiting(self, flow: Flow) -> None:
        if flow.is_waiting:
            self._waiting.join(flow, self._turn)
        else:
            self._waiting.leave(flow)

    def _waiting_count(self) -> int:
        return len(self._waiting) + (self._steady.waiting if self._steady is not None else 0)

    def _cost(self) -> int:
        return self._held.cost + self._kept_bytes


_NO_ROOM: Final = Finding(Reason.BUFFER, "too many connections")
_EARLY_LOST: Final = Finding(Reason.BUFFER, "too much was said before the epoch began here")


def _copy(counters: KindCounters) -> KindCounters:
    return KindCounters(counters.matched, counters.committed, counters.lost, dict(counters.asked))
