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

from dataclasses import dataclass
from typing import Final, NamedTuple

from replicator.compare.guard import Guard
from replicator.engine.compare.counters import CompareStatus, KindCounters
from replicator.engine.compare.effects import AskCheckpoint, CompareEffect, Drop, Reason, Release, TellShift
from replicator.engine.compare.events import (
    Committed,
    CompareEvent,
    InputArrived,
    InputsLogged,
    PrimarySaid,
    SecondarySaid,
    ShiftsKnown,
    TimePassed,
)
from replicator.engine.compare.flow import Confirmed, Finding, Flow
from replicator.engine.compare.packet import Kind, Packet, parse_frame
from replicator.engine.compare.patience import PATIENCE_MAX_NS, PATIENCE_MIN_NS, Patience
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


class _Held(NamedTuple):
    epoch: Epoch
    kind: Kind
    size: int
    at_ns: int


class CompareMachine:
    """The comparison for one guest, all NICs together. `epoch` is the one that begins."""

    def __init__(self, guard: Guard, *, epoch: Epoch, settings: CompareSettings = CompareSettings()) -> None:
        self._guard = guard
        self._settings = settings
        #: The epoch that is compared.
        self._epoch = epoch
        self._has_asked = False
        self._flows = FlowTable(connections_max=settings.connections_max)
        #: Flows in which something waits, and those of them that a confirmation would let go on; dicts for their order.
        self._waiting: dict[int, Flow] = {}
        self._unconfirmed: dict[int, Flow] = {}
        self._patience = Patience(min_ns=settings.patience_min_ns, max_ns=settings.patience_max_ns)
        self._confirmed = Confirmed()
        self._newest_input = 0
        self._shifts_told = 0
        #: Frames of the primary that have not left, in their order.
        self._held: dict[int, _Held] = {}
        self._held_bytes = 0
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
        return bool(self._waiting) and not self._has_asked

    def handle(self, event: CompareEvent, now_ns: int) -> list[CompareEffect]:
        """Take the next event. `now_ns` never goes back."""
        out: list[CompareEffect] = []
        match event:
            case PrimarySaid():
                self._primary_said(event, now_ns, out)
            case SecondarySaid():
                self._secondary_said(event, now_ns, out)
            case InputArrived():
                self._input_arrived(event)
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

    def status(self) -> CompareStatus:
        return CompareStatus(
            kinds={kind: _copy(counters) for kind, counters in self._counters.items()},
            connections=len(self._flows),
            waiting_connections=len(self._waiting),
            held_frames=len(self._held),
            held_bytes=self._held_bytes,
            kept_bytes=self._kept_bytes,
            ignored_frames=self._ignored_frames,
            patience_ns=self._patience.bound_ns,
            comparer=self._guard.status(),
        )

    def _primary_said(self, event: PrimarySaid, now_ns: int, out: list[CompareEffect]) -> None:
        require(event.frame_id not in self._held, f"frame {event.frame_id} was said twice")
        packet = parse_frame(event.frame, event.nic, from_guest=True)
        if event.epoch < self._epoch:
            # The checkpoint that closed its epoch contains it.
            self._counters[packet.kind].committed += 1
            out.append(Release((event.frame_id,)))
            return
        cost = len(event.frame) + FRAME_OVERHEAD_BYTES
        if self._cost() + cost > 2 * self._settings.bytes_max:
            self._lose(event, packet, out)
            return
        self._held[event.frame_id] = _Held(event.epoch, packet.kind, len(event.frame), now_ns)
        self._held_bytes += len(event.frame)
        if event.epoch > self._epoch:
            self._keep_early(event)
        else:
            self._compare_primary(event, packet, now_ns, out)

    def _compare_primary(
        self, event: PrimarySaid, packet: Packet, now_ns: int, out: list[CompareEffect]
    ) -> None:
        flow = self._flows.use(packet, now_ns)
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
        packet = parse_frame(event.frame, event.nic, from_guest=True)
        flow = self._flows.use(packet, now_ns)
        if flow is None:
            self._ask(_NO_ROOM, "", packet.kind, out)
            return
        before = flow.kept_bytes
        finding = flow.say_secondary(packet, event.frame, now_ns)
        self._go_on(flow, finding, before, now_ns, out)

    def _input_arrived(self, event: InputArrived) -> None:
        self._newest_input = max(self._newest_input, event.seq)
        packet = parse_frame(event.frame, event.nic, from_guest=False)
        if packet.kind is Kind.TCP and (flow := self._flows.find(packet)):
            flow.note_input(packet, event.seq)

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
                finding = Finding(Reason.BUFFER, f"more than {self._settings.bytes_max} bytes wait")
            if finding is not None:
                self._ask(finding, flow.name, flow.kind, out)
        self._note_waiting(flow)

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
            self._unconfirmed[id(flow)] = flow
        elif self._unconfirmed:
            self._unconfirmed.pop(id(flow), None)
        if not frame_ids:
            return
        for frame_id in frame_ids:
            self._patience.observe(now_ns - self._forget(frame_id).at_ns)
        self._counters[flow.kind].matched += len(frame_ids)
        out.append(Release(tuple(frame_ids)))

    def _release_confirmed(self, now_ns: int, out: list[CompareEffect]) -> None:
        """Something was confirmed."""
        if self._has_asked:
            return
        for flow in tuple(self._unconfirmed.values()):
            self._release(flow, now_ns, out)
            self._note_waiting(flow)

    def _time_passed(self, now_ns: int, out: list[CompareEffect]) -> None:
        """Ask again what waits, then see whether it has waited for too long."""
        bound_ns = self._patience.bound_ns
        for flow in tuple(self._waiting.values()):
            if self._has_asked:
                return
            if flow.is_undecided:
                self._go_on(flow, None, flow.kept_bytes, now_ns, out)
            if not self._has_asked and flow.is_waiting and now_ns - flow.since_ns > bound_ns:
                detail = f"one side was alone for {(now_ns - flow.since_ns) // NS_PER_MS} ms"
                self._ask(Finding(Reason.TIMEOUT, detail), flow.name, flow.kind, out)

    def _committed(self, event: Committed, now_ns: int, out: list[CompareEffect]) -> None:
        if event.epoch < self._epoch:
            return
        self._confirmed.inputs_upto = max(self._confirmed.inputs_upto, event.input_seq)
        leaving = tuple(frame_id for frame_id, held in self._held.items() if held.epoch <= event.epoch)
        for frame_id in leaving:
            self._counters[self._forget(frame_id).kind].committed += 1
        if leaving:
            out.append(Release(leaving))
        for flow in self._flows:
            flow.commit(self._guard)
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
            self._waiting[id(flow)] = flow
        else:
            self._waiting.pop(id(flow), None)

    def _forget(self, frame_id: int) -> _Held:
        held = self._held.pop(frame_id)
        self._held_bytes -= held.size
        return held

    def _cost(self) -> int:
        return self._held_bytes + len(self._held) * FRAME_OVERHEAD_BYTES + self._kept_bytes


_NO_ROOM: Final = Finding(Reason.BUFFER, "too many connections")
_EARLY_LOST: Final = Finding(Reason.BUFFER, "too much was said before the epoch began here")


def _copy(counters: KindCounters) -> KindCounters:
    return KindCounters(counters.matched, counters.committed, counters.lost, dict(counters.asked))
