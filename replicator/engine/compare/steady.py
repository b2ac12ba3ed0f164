"""TCP flows in their steady state, kept and compared by the native core.

Nearly all frames of nearly all connections are equal bytes and acknowledgements. A `TcpFlow` on which nothing else is
under way lends its numbers and bytes to the core, which then takes each frame in one call. A frame that is anything
else is refused and changes nothing; the flow is taken back, as it has become, and hears the frame itself. So `TcpFlow`
is the rule, and this a faster way to the same result: the tests demand it event by event.

Only equal bytes are judged here: not for comparers that want to be asked about them (`Guard.passes_equal`). Turns are
those of the machine; they keep flows in one order, wherever they are."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any, Final

from replicator._native import ffi, lib
from replicator.engine.compare.flow_queue import FlowQueue
from replicator.engine.compare.tcp_flow import TcpFlow
from replicator.engine.compare.tcp_side import HeldFrame, SteadySide, SteadyState
from replicator.limits import COMPARE_SIDE_BYTES_MAX
from replicator.memory.check import check

#: After all turns.
EVER: Final = (1 << 64) - 1
_MASK_64: Final = (1 << 64) - 1


class SteadyFlows:
    """`waiting` and `unconfirmed` have the flows that are not here; one that comes or goes leaves or joins them."""

    def __init__(self, connections_max: int, waiting: FlowQueue, unconfirmed: FlowQueue) -> None:
        slot = ffi.new("struct rp_steady_flows **")
        # This process's own, like the order in a set.
        seed = hash(b"steady flows") & _MASK_64
        code = lib.rp_steady_create(connections_max, COMPARE_SIDE_BYTES_MAX, seed, slot)
        check(code, f"cannot make a table of {connections_max} flows")
        self._flows: Any = ffi.gc(slot[0], lib.rp_steady_destroy)
        #: Of the last call that had a frame or a confirmation; native/steady.h says what is in it.
        self.report: Any = lib.rp_steady_report(self._flows)
        self._state: Any = ffi.new("struct rp_steady_state *")
        self._waiting = waiting
        self._unconfirmed = unconfirmed
        #: By key.
        self._lent: dict[bytes, TcpFlow] = {}

    @property
    def handle(self) -> Any:
        """`struct rp_steady_flows *`, for native callers."""
        return self._flows

    @property
    def waiting(self) -> int:
        return int(self.report.waiting)

    @property
    def unconfirmed(self) -> int:
        return int(self.report.unconfirmed)

    @property
    def released(self) -> Sequence[int]:
        """Frames that leave by the last call that had a frame or a confirmation, in order."""
        count = self.report.released_count
        return ffi.unpack(self.report.released, count) if count else ()

    # Frames and confirmations.

    def say_primary(
        self,
        frame: bytes,
        nic: int,
        frame_id: int,
        newest_input: int,
        inputs_upto: int,
        turn: int,
        now_ns: int,
    ) -> bool:
        """False when the frame is for the flow itself, or for none that is here."""
        return bool(
            lib.rp_steady_say_primary(
                self._flows, frame, len(frame), nic, frame_id, newest_input, inputs_upto, turn, now_ns
            )
        )

    def say_secondary(self, frame: bytes, nic: int, inputs_upto: int, turn: int, now_ns: int) -> bool:
        """Likewise."""
        return bool(
            lib.rp_steady_say_secondary(self._flows, frame, len(frame), nic, inputs_upto, turn, now_ns)
        )

    def note_input(self, frame: bytes, nic: int, seq: int) -> bool:
        """Likewise."""
        return bool(lib.rp_steady_note_input(self._flows, frame, len(frame), nic, seq))

    def confirm(self, inputs_upto: int, before_turn: int, now_ns: int) -> None:
        """Release what waited for these inputs alone, since before this turn."""
        lib.rp_steady_confirm(self._flows, inputs_upto, before_turn, now_ns)

    # Flows.

    def lend(self, flow: TcpFlow) -> None:
        """If it is steady."""
        state = flow.steady_state()
        if state is None:
            return
        turns = self._waiting.leave(flow), self._unconfirmed.leave(flow)
        if self._put(flow, state, turns):
            self._lent[flow.key] = flow
        else:
            self._queue(flow, *turns)

    def take_back(self, key: bytes) -> None:
        """The flow of this key, if it is here."""
        flow = self._lent.pop(key, None)
        if flow is None:
            return
        lib.rp_steady_find(self._flows, key, len(key), self._state)
        found = self._state
        flow.go_on_from(self._read())
        flow.used_turn = found.used_turn
        flow.awaits_confirmation = bool(found.unconfirmed_turn)
        self._queue(flow, found.waiting_turn, found.unconfirmed_turn)
        lib.rp_steady_drop(self._flows, key, len(key))

    def take_back_all(self) -> None:
        for key in tuple(self._lent):
            self.take_back(key)

    def take_back_late(self, now_ns: int, bound_ns: int) -> None:
        """Those in which nothing has got on for longer than `bound_ns`."""
        while lib.rp_steady_find_late(self._flows, now_ns, bound_ns, self._state):
            self._take_back_found()

    def commit(self) -> Set[TcpFlow]:
        """Both guests are the primary's now. Returns the flows for which that is done; others are taken back first."""
        while lib.rp_steady_find_ahead(self._flows, self._state):
            self._take_back_found()
        for flow in [flow for flow in self._lent.values() if flow.is_lossy]:
            self.take_back(flow.key)
        lib.rp_steady_commit(self._flows)
        for flow in self._lent.values():
            flow.commit_lent()
        return set(self._lent.values())

    def _take_back_found(self) -> None:
        self.take_back(bytes(ffi.buffer(self._state.key, self._state.key_bytes)))

    def _queue(self, flow: TcpFlow, waiting_turn: int, unconfirmed_turn: int) -> None:
        if waiting_turn:
            self._waiting.join(flow, waiting_turn)
        if unconfirmed_turn:
            self._unconfirmed.join(flow, unconfirmed_turn)

    def _put(self, flow: TcpFlow, state: SteadyState, turns: tuple[int, int]) -> bool:
        pending = ffi.from_buffer("uint8_t[]", state.pending)
        held = ffi.new(
            "struct rp_steady_held[]",
            [(one.frame_id, one.input_seq, one.end, one.flags, one.ack) for one in state.held],
        )
        written = {
            "side": [
                (one.end, one.since_ns, one.seq, one.ack or 0, one.ack is not None) for one in state.sides
            ],
            "position": state.position,
            "since_ns": state.since_ns,
            "input_seq": state.input_seq,
            "used_turn": flow.used_turn,
            "waiting_turn": turns[0],
            "unconfirmed_turn": turns[1],
            "ahead": state.ahead,
            "pending_bytes": len(state.pending),
            "pending": pending,
            "held_count": len(held),
            "held": held,
            "key_bytes": len(flow.key),
            "key": flow.key,
        }
        return bool(lib.rp_steady_put(self._flows, ffi.new("struct rp_steady_state *", written)))

    def _read(self) -> SteadyState:
        found = self._state
        pending = ffi.buffer(found.pending, found.pending_bytes)[:] if found.pending_bytes else b""
        held = [
            HeldFrame(one.frame_id, one.end, one.flags, one.ack, one.input_seq)
            for one in (ffi.unpack(found.held, found.held_count) if found.held_count else ())
        ]
        return SteadyState(
            (_read_side(found.side[0]), _read_side(found.side[1])),
            found.position,
            found.ahead,
            pending,
            held,
            found.since_ns,
            found.input_seq,
        )


def _read_side(side: Any) -> SteadySide:
    return SteadySide(side.seq, side.end, side.since_ns, side.ack if side.has_acked else None)
