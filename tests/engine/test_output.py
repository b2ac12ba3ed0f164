"""OutputMachine, and ComparedOutput while it compares nothing: order, exactly once, nothing before its epoch's release,
bounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.compare import load_comparer
from replicator.engine.compare.compared_output import ComparedOutput
from replicator.engine.output import FRAME_OVERHEAD_BYTES, Frame, OutputMachine, OutputMode, Verdict
from replicator.errors import InvariantError
from replicator.units import Epoch

AnyOutput = OutputMachine | ComparedOutput
Kind = Callable[..., AnyOutput]


def compared(**options: Any) -> ComparedOutput:
    return ComparedOutput(load_comparer().guarded(lambda: 0), **options)


KINDS = pytest.mark.parametrize("kind", [OutputMachine, compared], ids=["plain", "compared"])


def frame(number: int, size: int = 60) -> Frame:
    return Frame(0, number.to_bytes(4, "big").ljust(size, b"."))


def number_of(one: Frame) -> int:
    return int.from_bytes(one.data[:4], "big")


def leave_all(machine: AnyOutput) -> list[int]:
    out = []
    while (one := machine.next_leaving()) is not None:
        machine.mark_left()
        out.append(number_of(one))
    return out


def holding(kind: Kind, **options: int) -> AnyOutput:
    return kind(mode=OutputMode.HOLD, **options)


@KINDS
def test_pass_mode_lets_a_frame_leave_at_once(kind: Kind) -> None:
    machine = kind()
    assert machine.hold(frame(1), 5) is Verdict.LEAVING
    assert leave_all(machine) == [1]
    assert machine.counters().left_frames == 1


@KINDS
def test_held_frames_leave_only_with_their_epoch(kind: Kind) -> None:
    machine = holding(kind)
    machine.hold(frame(1), 10)
    machine.hold(frame(2), 11)
    assert machine.mark_barrier(Epoch(1)) == (2, 120)
    machine.hold(frame(3), 12)
    assert leave_all(machine) == []
    assert machine.release(Epoch(1)) == 2
    assert leave_all(machine) == [1, 2]
    assert machine.counters().oldest_held_ns == 12
    assert machine.mark_barrier(Epoch(2)) == (1, 60)
    machine.release(Epoch(2))
    assert leave_all(machine) == [3]


@KINDS
def test_one_release_covers_all_older_epochs_in_order(kind: Kind) -> None:
    machine = holding(kind)
    for epoch in (1, 2, 3, 4):
        machine.hold(frame(epoch), 0)
        machine.mark_barrier(Epoch(epoch))
    assert machine.release(Epoch(3)) == 3
    assert machine.release(Epoch(3)) == 0
    assert machine.release(Epoch(2)) == 0
    assert leave_all(machine) == [1, 2, 3]


@KINDS
def test_a_release_without_its_barrier_is_our_bug(kind: Kind) -> None:
    machine = holding(kind)
    machine.hold(frame(1), 0)
    with pytest.raises(InvariantError):
        machine.release(Epoch(1))
    assert leave_all(machine) == []


@KINDS
def test_barriers_ascend(kind: Kind) -> None:
    machine = holding(kind)
    machine.mark_barrier(Epoch(3))
    with pytest.raises(InvariantError):
        machine.mark_barrier(Epoch(3))


@KINDS
def test_pass_after_hold_keeps_the_order(kind: Kind) -> None:
    machine = holding(kind)
    machine.hold(frame(1), 0)
    machine.mark_barrier(Epoch(1))
    machine.hold(frame(2), 0)
    assert machine.set_mode(OutputMode.PASS) == 2
    machine.hold(frame(3), 0)
    assert leave_all(machine) == [1, 2, 3]


@KINDS
def test_hold_after_pass_begins_with_the_next_frame(kind: Kind) -> None:
    machine = kind()
    machine.hold(frame(1), 0)
    machine.set_mode(OutputMode.HOLD)
    assert machine.hold(frame(2), 0) is Verdict.HELD
    assert leave_all(machine) == [1]


@KINDS
def test_an_unwritten_frame_stays_in_its_place_and_is_held(kind: Kind) -> None:
    machine = kind()
    machine.hold(frame(1), 7)
    machine.hold(frame(2), 8)
    assert machine.next_leaving() == machine.next_leaving() == frame(1)
    counters = machine.counters()
    assert (counters.held_frames, counters.held_bytes, counters.oldest_held_ns) == (2, 120, 7)


@KINDS
def test_discard_throws_everything_away_and_holds_from_then_on(kind: Kind) -> None:
    machine = holding(kind)
    for epoch in (1, 2):
        machine.hold(frame(epoch), 0)
        machine.mark_barrier(Epoch(epoch))
    machine.hold(frame(3), 0)
    machine.release(Epoch(1))
    assert machine.discard() == 3
    assert machine.hold(frame(4), 0) is Verdict.HELD
    assert machine.release(Epoch(2)) == 0
    assert leave_all(machine) == []
    counters = machine.counters()
    assert (counters.discarded_frames, counters.held_frames) == (3, 1)


@KINDS
def test_discard_ends_pass_mode(kind: Kind) -> None:
    machine = kind()
    machine.discard()
    assert machine.hold(frame(1), 0) is Verdict.HELD


@KINDS
def test_full_asks_for_an_early_end_and_what_overflows_is_lost(kind: Kind) -> None:
    cost = 60 + FRAME_OVERHEAD_BYTES
    machine = holding(kind, bytes_max=4 * cost)
    verdicts = []
    fulls = []
    for number in range(5):
        verdicts.append(machine.hold(frame(number), 0))
        fulls.append(machine.full)
    assert fulls == [False, True, True, True, True]
    assert verdicts == [Verdict.HELD] * 4 + [Verdict.LOST]
    assert machine.counters().lost_frames == 1
    machine.mark_barrier(Epoch(1))
    assert not machine.full, "an empty open epoch gains nothing by closing"
    machine.release(Epoch(1))
    assert leave_all(machine) == [0, 1, 2, 3]
    assert machine.hold(frame(9), 0) is Verdict.HELD


@KINDS
def test_small_frames_do_not_evade_the_bound(kind: Kind) -> None:
    machine = holding(kind, bytes_max=100 * FRAME_OVERHEAD_BYTES)
    verdicts = [machine.hold(Frame(0, b""), 0) for _ in range(101)]
    assert verdicts.count(Verdict.LOST) == 1


@KINDS
def test_a_frame_that_cannot_be_written_is_lost_not_left(kind: Kind) -> None:
    machine = kind()
    machine.hold(frame(1), 0)
    machine.mark_left(written=False)
    counters = machine.counters()
    assert (counters.lost_frames, counters.left_frames, counters.held_bytes) == (1, 0, 0)


@KINDS
def test_announcements_leave_in_hold_mode_after_what_leaves_already(kind: Kind) -> None:
    machine = holding(kind)
    machine.hold(frame(1), 0)
    machine.mark_barrier(Epoch(1))
    machine.hold(frame(2), 0)
    machine.release(Epoch(1))
    machine.inject([frame(100), frame(101)], 0)
    assert leave_all(machine) == [1, 100, 101]
    assert machine.held_frames == 1


operations = st.lists(
    st.one_of(
        st.tuples(st.just("hold"), st.integers(0, 200)),
        st.tuples(st.just("barrier"), st.integers(1, 3)),
        st.tuples(st.just("release"), st.integers(0, 5)),
        st.tuples(st.just("leave"), st.integers(0, 4)),
        st.tuples(st.just("mode"), st.sampled_from(list(OutputMode))),
        st.tuples(st.just("discard"), st.none()),
    ),
    max_size=80,
)


class Model:
    """The rules said another way: each frame carries the epoch it waits for, or None when it may leave."""

    def __init__(self, kind: Kind, bytes_max: int) -> None:
        self.machine = holding(kind, bytes_max=bytes_max)
        self.bytes_max = bytes_max
        self.count = 0
        self.closed = 0
        #: [number, epoch or None] of all frames inside, in order of arrival.
        self.inside: list[list[int | None]] = []
        self.passing = False
        self.left: list[int] = []
        self.lost = 0
        self.discarded = 0

    def hold(self, size: int) -> None:
        self.count += 1
        verdict = self.machine.hold(frame(self.count, 4 + size), self.count)
        if verdict is Verdict.LOST:
            self.lost += 1
            return
        self.inside.append([self.count, None if self.passing else self.closed + 1])

    def barrier(self, step: int) -> None:
        before = self.closed + 1
        self.closed += step
        for entry in self.inside:
            if entry[1] == before:
                entry[1] = self.closed
        self.machine.mark_barrier(Epoch(self.closed))

    def release(self, behind: int) -> None:
        upto = max(self.closed - behind, 0)
        self.machine.release(Epoch(upto))
        for entry in self.inside:
            if entry[1] is not None and entry[1] <= upto:
                entry[1] = None

    def mode(self, mode: OutputMode) -> None:
        self.machine.set_mode(mode)
        self.passing = mode is OutputMode.PASS
        if self.passing:
            for entry in self.inside:
                entry[1] = None

    def leave(self, count: int) -> None:
        for _ in range(count):
            one = self.machine.next_leaving()
            if one is None:
                assert not self.inside or self.inside[0][1] is not None
                return
            number, epoch = self.inside.pop(0)
            assert (number, None) == (number_of(one), epoch)
            self.machine.mark_left()
            self.left.append(number_of(one))

    def discard(self, _: None) -> None:
        self.discarded += len(self.inside)
        self.inside.clear()
        self.passing = False
        self.machine.discard()

    def check(self) -> None:
        counters = self.machine.counters()
        assert counters.held_frames == len(self.inside)
        assert counters.held_bytes + counters.held_frames * FRAME_OVERHEAD_BYTES <= self.bytes_max
        assert counters.oldest_held_ns == (self.inside[0][0] if self.inside else None)
        assert counters.lost_frames == self.lost
        assert counters.discarded_frames == self.discarded
        assert counters.left_frames == len(self.left)
        assert self.count == self.lost + self.discarded + len(self.left) + len(self.inside)


@KINDS
@given(operations, st.sampled_from([600, 2_000, 100_000]))
def test_any_history_keeps_the_rules(kind: Kind, history: list[tuple[str, object]], bytes_max: int) -> None:
    model = Model(kind, bytes_max)
    for name, argument in history:
        getattr(model, name)(argument)
        model.check()
    assert model.left == sorted(set(model.left))
