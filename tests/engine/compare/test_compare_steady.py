"""The machine that lends steady flows to the native core against the one that keeps them all: whatever is said, the
same leaves, is asked for and is counted, event by event."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from compare_frames import FIN, RST, SYN, Ends, arp_frame, tcp_frame, udp_frame
from compare_stand import FIRST, MS, Talker
from hypothesis import given, settings
from hypothesis import strategies as st

from replicator.compare import load_comparer
from replicator.engine.compare.effects import CompareEffect, Release
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
from replicator.engine.compare.machine import CompareMachine, CompareSettings
from replicator.engine.output import Frame
from replicator.errors import InvariantError
from replicator.limits import COMPARE_SIDE_BYTES_MAX
from replicator.units import Epoch

#: What a connection says from its first byte on; the other one differs in one byte of eight.
CONTENTS = bytes(range(256)) * 8, bytes(at % 256 if at % 8 else 255 - at % 256 for at in range(2048))
CONNECTIONS = 3
#: From what was said so far.
AWAY = st.one_of(st.integers(-40, 0), st.integers(-2, 2))
ISNS = {"primary": 1000, "secondary": 0xFFFFFFF0}


class Steps:
    """Events from drawn steps. What is meant to go on follows what was said before, most of the time."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.epoch = FIRST
        self._said: dict[tuple[str, int], int] = {}
        self._isns = dict(ISNS)
        self._frames = self._inputs = 0

    def event(self, step: tuple) -> CompareEvent:
        match step:
            case ("input", connection, place, flags):
                self._inputs += 1
                ends = Ends(target_port=40_000 + connection).flipped()
                frame = tcp_frame(ends, place, ack=5, data=b"x", flags=flags)
                return InputsArrived(self._inputs, (Frame(0, frame),))
            case ("log", back):
                return InputsLogged(max(self._inputs - back, 0))
            case ("know", upto):
                return ShiftsKnown(upto)
            case ("wait", ms):
                self.now_ns += ms * MS
                return TimePassed()
            case ("commit", ahead):
                event = Committed(Epoch(self.epoch + ahead), self._inputs)
                self.epoch = Epoch(self.epoch + 1 + ahead)
                if ahead >= 0:
                    self._make_equal()
                return event
            case (side, "frame", frame, ahead):
                return self._say(side, frame, ahead)
            case (side, "next", connection, size, ack, ahead):
                place = self._said.get((side, connection), 0)
                self._said[side, connection] = place + size
                return self._say_bytes(side, connection, place, CONTENTS[0][place : place + size], ack, ahead)
            case (side, "ack", connection, away, ack):
                place = self._said.get((side, connection), 0) + away
                return self._say_bytes(side, connection, place, b"", ack, 0)
            case (side, "again", connection, away, size, which, fin):
                place = max(self._said.get((side, connection), 0) + away, 0)
                data = CONTENTS[which if side == "secondary" else 0][place : place + size]
                return self._say_bytes(side, connection, place, data, 1, 0, fin=fin)
            case (side, "syn", connection):
                self._said.pop((side, connection), None)
                self._isns[side] = ISNS[side]
                return self._say(side, self._talker(side, connection).syn_ack(), 0)
            case (side, "reset", connection):
                return self._say(side, self._talker(side, connection).resets(), 0)
        raise AssertionError(step)

    def _make_equal(self) -> None:
        """The secondary's guest is the primary's now."""
        self._isns["secondary"] = self._isns["primary"]
        for connection in range(CONNECTIONS):
            self._said["secondary", connection] = self._said.get(("primary", connection), 0)

    def _say_bytes(
        self, side: str, connection: int, place: int, data: bytes, ack: int, ahead: int, *, fin: bool = False
    ) -> CompareEvent:
        talker = self._talker(side, connection)
        return self._say(side, talker.says(place, data, fin=fin, ack=7000 + ack), ahead)

    def _talker(self, side: str, connection: int) -> Talker:
        """One connection is opened by each side with numbers of its own; the others were there before."""
        isn = self._isns[side] if connection == 0 else 500
        return Talker(isn=isn, ends=Ends(target_port=40_000 + connection), ts=5)

    def _say(self, side: str, frame: bytes, ahead: int) -> CompareEvent:
        epoch = Epoch(max(self.epoch + ahead, 1))
        if side == "secondary":
            return SecondarySaid(epoch, 0, frame)
        self._frames += 1
        return PrimarySaid(epoch, self._frames, 0, frame)


def flatten(steps: list[tuple]) -> Iterator[tuple]:
    """What both say, and the confirmation of what their SYNs tell."""
    for step in steps:
        match step:
            case ("syns", connection):
                yield from (("primary", "syn", connection), ("secondary", "syn", connection), ("know", 100))
            case ("both", connection, size):
                yield "primary", "next", connection, size, 1, 0
                yield "secondary", "next", connection, size, 1, 0
            case _:
                yield step


SIDES = st.sampled_from(["primary", "secondary"])
CONNECTION = st.integers(0, CONNECTIONS - 1)
NEXT = st.tuples(SIDES, st.just("next"), CONNECTION, st.integers(0, 60), st.integers(0, 5), st.just(0))
#: What goes on in a connection that stays steady, and around it.
QUIET = (
    NEXT,
    NEXT,
    st.tuples(st.just("both"), CONNECTION, st.integers(0, 60)),
    st.tuples(SIDES, st.just("ack"), CONNECTION, st.integers(-2, 2), st.integers(0, 5)),
    st.tuples(SIDES, st.just("again"), CONNECTION, AWAY, st.integers(0, 40), st.just(0), st.just(False)),
    st.tuples(st.just("input"), CONNECTION, st.integers(0, 9), st.just(0)),
    st.tuples(st.just("log"), st.integers(0, 3)),
    st.tuples(st.just("wait"), st.sampled_from([1, 11, 50, 400])),
    st.tuples(SIDES, st.just("frame"), st.sampled_from([arp_frame(), b""]), st.just(0)),
)
#: What most of the time ends it.
LOUD = (
    st.tuples(SIDES, st.just("next"), CONNECTION, st.integers(0, 60), st.just(1), st.sampled_from([-1, 1])),
    st.tuples(
        SIDES,
        st.just("again"),
        CONNECTION,
        AWAY,
        st.integers(0, 40),
        st.sampled_from([0, 0, 0, 1]),
        st.sampled_from([False, False, False, True]),
    ),
    st.tuples(SIDES, st.sampled_from(["syn", "reset"]), st.just(0)),
    st.tuples(st.just("syns"), st.just(0)),
    st.tuples(SIDES, st.just("frame"), st.just(udp_frame(Ends(), b"u")), st.sampled_from([-1, 0, 1])),
    st.integers(0, 9).map(lambda port: ("primary", "frame", tcp_frame(Ends(target_port=port), 9), 0)),
    st.tuples(st.just("input"), CONNECTION, st.integers(0, 9), st.sampled_from([FIN, RST, SYN])),
    st.tuples(st.just("know"), st.integers(0, 5)),
    st.tuples(st.just("commit"), st.sampled_from([0, 0, 0, -1, 1])),
)
STEPS = st.integers(0, 14).flatmap(lambda number: st.one_of(*(QUIET if number else LOUD)))


def joined(effects: Sequence[CompareEffect]) -> list[CompareEffect]:
    """Frames that leave one after the other are the same in one effect or in several."""
    out: list[CompareEffect] = []
    for effect in effects:
        if isinstance(effect, Release) and out and isinstance(out[-1], Release):
            effect = Release(out.pop().frame_ids + effect.frame_ids)  # type: ignore[union-attr]
        out.append(effect)
    return out


def machines(comparer: str = "tcp-stream", **options: int) -> tuple[CompareMachine, CompareMachine]:
    lending, keeping = (
        CompareMachine(
            load_comparer(comparer).guarded(lambda: 0),
            epoch=FIRST,
            settings=CompareSettings(lends_steady=lends, **options),
        )
        for lends in (True, False)
    )
    return lending, keeping


@settings(deadline=None, max_examples=250)
@given(
    st.lists(STEPS, min_size=25, max_size=80),
    st.sampled_from(["tcp-stream", "exact"]),
    st.sampled_from([2, 5, 4096]),
    st.sampled_from([900, 3000, 1 << 20]),
    st.sampled_from([60, 500]),
)
def test_both_ways_are_the_same(
    steps: list[tuple], comparer: str, connections_max: int, bytes_max: int, patience_ms: int
) -> None:
    both = machines(
        comparer, connections_max=connections_max, bytes_max=bytes_max, patience_min_ns=patience_ms * MS
    )
    events = Steps()
    asked = 0
    for step in flatten(steps):
        # A checkpoint that was asked for comes soon.
        asked = asked + 1 if both[0].has_asked else 0
        event = events.event(step if asked < 4 else ("commit", 0))
        lent, kept = (joined(machine.handle(event, events.now_ns)) for machine in both)
        assert lent == kept
        assert both[0].status() == both[1].status()
        assert both[0].is_waiting == both[1].is_waiting and both[0].has_asked == both[1].has_asked


def lent(machine: CompareMachine) -> int:
    assert machine._steady is not None
    return len(machine._steady._lent)


def test_a_connection_that_goes_on_is_lent() -> None:
    machine, _ = machines()
    steps = Steps()
    for number in range(20):
        for side in ("primary", "secondary"):
            machine.handle(steps.event((side, "next", 1, 30, 1, 0)), number)
            assert lent(machine) == 1
    assert machine.status().held_frames == machine.status().kept_bytes == 0


@pytest.mark.parametrize(
    "step",
    [
        ("secondary", "again", 1, 5, 5, 0, False),
        ("primary", "again", 1, 0, 0, 0, True),
        ("primary", "reset", 1),
        ("secondary", "again", 1, 1000, 5, 1, False),
    ],
    ids=["gap", "end", "reset", "far"],
)
def test_one_on_which_something_happens_is_taken_back(step: tuple) -> None:
    machine, _ = machines()
    steps = Steps()
    for side in ("primary", "secondary"):
        machine.handle(steps.event((side, "next", 1, 30, 1, 0)), 0)
    assert lent(machine) == 1
    machine.handle(steps.event(step), 1)
    assert lent(machine) == 0


def test_one_side_is_ahead_by_so_much_and_no_more() -> None:
    both = machines()
    steps = Steps()
    data = bytes(60_000)
    asked = False
    for side in ("primary", "secondary"):
        event = steps._say_bytes(side, 1, 0, b"x", 1, 0)
        for machine in both:
            machine.handle(event, 0)
    place = 1
    while not asked and place < 2 * COMPARE_SIDE_BYTES_MAX:
        event = steps._say_bytes("primary", 1, place, data, 1, 0)
        lends, keeps = (machine.handle(event, 0) for machine in both)
        assert lends == keeps
        place, asked = place + len(data), both[1].has_asked
    assert COMPARE_SIDE_BYTES_MAX < place <= COMPARE_SIDE_BYTES_MAX + len(data) + 1


def test_a_comparer_that_wants_to_be_asked_is_asked() -> None:
    machine, _ = machines("http")
    assert machine._steady is None


def test_a_frame_is_said_once() -> None:
    machine, _ = machines()
    event = Steps().event(("primary", "next", 1, 30, 1, 0))
    machine.handle(event, 0)
    with pytest.raises(InvariantError):
        machine.handle(event, 0)
