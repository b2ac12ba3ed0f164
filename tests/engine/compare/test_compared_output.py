"""ComparedOutput while it compares: who lets a frame leave, and how a comparison begins and ends."""

from __future__ import annotations

from typing import Any

from compare_frames import Ends, tcp_frame, udp_frame
from compare_stand import Talker
from hypothesis import given
from hypothesis import strategies as st

from replicator.compare import load_comparer
from replicator.engine.compare.compared_output import ComparedOutput, ShiftTold
from replicator.engine.compare.effects import AskCheckpoint, Reason
from replicator.engine.compare.events import (
    InputsArrived,
    InputsLogged,
    SecondarySaid,
    ShiftsKnown,
    TimePassed,
)
from replicator.engine.compare.machine import CompareSettings
from replicator.engine.output import FRAME_OVERHEAD_BYTES, Frame, OutputMode, Verdict
from replicator.units import NS_PER_S, Epoch

ENDS = Ends()


def make(**options: Any) -> ComparedOutput:
    options = {"mode": OutputMode.HOLD} | options
    return ComparedOutput(load_comparer().guarded(lambda: 0), **options)


def comparing(epoch: int = 1, **options: Any) -> ComparedOutput:
    output = make(**options)
    output.mark_barrier(Epoch(epoch))
    output.compare(Epoch(epoch), 0)
    return output


def said(number: int, ends: Ends = ENDS) -> bytes:
    return udp_frame(ends, number.to_bytes(4, "big"))


def number_of(frame: bytes) -> int:
    return int.from_bytes(frame[42:46], "big")


def hold(output: ComparedOutput, number: int, ends: Ends = ENDS) -> Verdict:
    return output.hold(Frame(0, said(number, ends)), 0)


def second(output: ComparedOutput, number: int, epoch: int = 2, ends: Ends = ENDS) -> None:
    output.hear(SecondarySaid(Epoch(epoch), 0, said(number, ends)), 0)


def leave(output: ComparedOutput) -> list[int]:
    out = []
    while (one := output.next_leaving()) is not None:
        output.mark_left()
        out.append(number_of(one.data))
    return out


def test_a_frame_leaves_when_the_secondary_has_said_the_same() -> None:
    output = comparing()
    assert hold(output, 1) is Verdict.COMPARING
    assert leave(output) == []
    second(output, 1)
    assert leave(output) == [1]
    second(output, 2)
    assert hold(output, 2) is Verdict.LEAVING
    assert leave(output) == [2]
    assert (output.held_frames, output.held_bytes, output.counters().left_frames) == (0, 0, 2)


def test_a_difference_asks_for_a_checkpoint_and_holds_all_until_then() -> None:
    output = comparing()
    hold(output, 1)
    second(output, 2)
    (asked,) = output.take_wants()
    assert isinstance(asked, AskCheckpoint) and (asked.epoch, asked.reason) == (2, Reason.DIFFERS)
    second(output, 3)
    hold(output, 3)
    assert leave(output) == []
    output.mark_barrier(Epoch(2))
    assert hold(output, 4) is Verdict.COMPARING
    assert output.release(Epoch(2)) == 2
    assert leave(output) == [1, 3]
    second(output, 4, epoch=3)
    assert leave(output) == [4]
    assert output.take_wants() == []


def test_what_was_said_in_an_older_epoch_is_not_compared_with_a_newer() -> None:
    output = comparing()
    output.mark_barrier(Epoch(2))
    hold(output, 1)
    second(output, 1, epoch=2)
    assert leave(output) == []
    output.release(Epoch(2))
    second(output, 1, epoch=2)
    assert leave(output) == []
    second(output, 1, epoch=3)
    assert leave(output) == [1]


def test_both_sides_words_of_before_the_comparison_are_compared() -> None:
    output = make()
    hold(output, 1)
    output.mark_barrier(Epoch(1))
    assert hold(output, 2) is Verdict.HELD
    second(output, 2)
    second(output, 3)
    assert leave(output) == []
    output.compare(Epoch(1), 0)
    assert leave(output) == [1, 2]
    assert hold(output, 3) is Verdict.LEAVING


def test_only_the_newest_epochs_early_words_are_kept_and_within_a_bound() -> None:
    output = make(bytes_max=40 * (FRAME_OVERHEAD_BYTES + 60))
    second(output, 1, epoch=2)
    for number in range(100):
        second(output, number, epoch=3)
    output.mark_barrier(Epoch(2))
    output.compare(Epoch(2), 0)
    verdicts = [hold(output, number) for number in range(20)]
    assert verdicts == [Verdict.LEAVING] * 10 + [Verdict.COMPARING] * 10


def test_a_pause_that_came_to_nothing_uses_up_a_number() -> None:
    output = comparing()
    hold(output, 1)
    output.mark_barrier(Epoch(5))
    hold(output, 2)
    assert output.release(Epoch(4)) == 0
    assert leave(output) == []
    assert output.release(Epoch(5)) == 1
    second(output, 2, epoch=6)
    assert leave(output) == [1, 2]


def test_without_comparison_everything_waits_for_its_commit() -> None:
    output = comparing()
    hold(output, 1)
    output.stop_comparing()
    second(output, 1)
    assert hold(output, 2) is Verdict.HELD
    assert (leave(output), output.is_comparing, output.waiting_frames) == ([], False, 2)
    output.mark_barrier(Epoch(2))
    output.release(Epoch(2))
    assert leave(output) == [1, 2]


def test_modes_end_a_comparison() -> None:
    output = comparing()
    hold(output, 1)
    assert output.set_mode(OutputMode.PASS) == 1
    assert (leave(output), output.is_comparing) == ([1], False)
    output.set_mode(OutputMode.HOLD)
    output.mark_barrier(Epoch(2))
    output.compare(Epoch(2), 0)
    hold(output, 2)
    assert output.discard() == 1
    assert not output.is_comparing
    second(output, 2, epoch=3)
    assert leave(output) == []


def test_a_comparison_that_begins_again_knows_nothing_of_the_former() -> None:
    output = comparing()
    hold(output, 1)
    output.stop_comparing()
    output.mark_barrier(Epoch(2))
    output.compare(Epoch(2), 0)
    assert leave(output) == [1]
    second(output, 1, epoch=2)
    hold(output, 1)
    assert leave(output) == []
    second(output, 1, epoch=3)
    assert leave(output) == [1]
    status = output.compare_status()
    assert status is not None and status.held_frames == 0


def test_counters_of_all_comparisons_are_added_up() -> None:
    output = comparing()
    for epoch in (2, 3):
        hold(output, 1)
        second(output, 1, epoch=epoch)
        output.stop_comparing()
        assert output.compare_status() is None
        output.mark_barrier(Epoch(epoch))
        output.compare(Epoch(epoch), 0)
    status = output.compare_status()
    assert status is not None
    assert sum(counters.matched for counters in status.kinds.values()) == 2


def test_a_shift_is_told_with_its_epoch_and_confirmed_by_its_number_only() -> None:
    output = comparing()
    mine, others = Talker(isn=1000, ts=5), Talker(isn=9000, ts=700)
    numbers = []
    for epoch in (2, 3):
        output.hold(Frame(0, mine.syn_ack()), 0)
        output.hear(SecondarySaid(Epoch(epoch), 0, others.syn_ack()), 0)
        (told,) = output.take_wants()
        assert isinstance(told, ShiftTold)
        assert told.epoch == epoch and told.told.shift.seq == 8000
        numbers.append(told.told.number)
        assert output.next_leaving() is None
        output.hear(ShiftsKnown(told.told.number - 1), 0)
        output.hear(ShiftsKnown(told.told.number + 1), 0)
        assert output.next_leaving() is None, "a number that was never told confirms nothing"
        if epoch == 2:
            output.stop_comparing()
            output.mark_barrier(Epoch(2))
            output.compare(Epoch(2), 0)
            output.mark_left()
    assert numbers == [1, 2]
    output.hear(ShiftsKnown(2), 0)
    assert output.next_leaving() is not None


def test_inputs_of_before_the_comparison_must_be_logged_too() -> None:
    output = make()
    client = Talker()
    output.hear(InputsArrived(7, (Frame(0, tcp_frame(ENDS.flipped(), 7001, ack=1001, data=b"ask")),)), 0)
    output.mark_barrier(Epoch(1))
    output.compare(Epoch(1), 0)
    output.hold(Frame(0, client.says(0)), 0)
    assert output.next_leaving() is None
    output.hear(InputsLogged(6), 0)
    assert output.next_leaving() is None
    output.hear(InputsLogged(7), 0)
    assert output.next_leaving() is not None


def test_what_one_secondary_confirmed_another_has_not() -> None:
    output = comparing()
    output.hear(InputsArrived(3, (Frame(0, b""),)), 0)
    output.hear(InputsLogged(3), 0)
    output.forget_secondary()
    output.mark_barrier(Epoch(2))
    output.compare(Epoch(2), 0)
    output.hold(Frame(0, Talker().says(0)), 0)
    assert output.next_leaving() is None
    output.hear(InputsLogged(3), 0)
    assert output.next_leaving() is not None


def test_a_commit_confirms_the_inputs_that_it_contains() -> None:
    output = comparing()
    output.hear(InputsArrived(3, (Frame(0, b""),)), 0)
    output.mark_barrier(Epoch(2))
    output.note_inputs(Epoch(2), 3)
    output.release(Epoch(2))
    output.hold(Frame(0, Talker().says(0)), 0)
    assert output.next_leaving() is not None


def test_silence_of_one_side_asks_in_time() -> None:
    output = comparing()
    hold(output, 1)
    assert output.is_waiting
    output.hear(TimePassed(), 10 * NS_PER_S)
    (asked,) = output.take_wants()
    assert isinstance(asked, AskCheckpoint) and asked.reason is Reason.TIMEOUT
    assert not output.is_waiting


def test_what_finds_no_room_is_lost_and_counted() -> None:
    cost = FRAME_OVERHEAD_BYTES + len(said(0))
    output = comparing(bytes_max=8 * cost, settings=CompareSettings(bytes_max=2 * cost))
    verdicts = [hold(output, number) for number in range(12)]
    lost = verdicts.count(Verdict.LOST)
    assert lost > 0 and verdicts[0] is Verdict.COMPARING
    assert output.counters().lost_frames == lost
    assert output.held_frames == 12 - lost
    assert any(isinstance(want, AskCheckpoint) for want in output.take_wants())
    output.mark_barrier(Epoch(2))
    output.release(Epoch(2))
    assert len(leave(output)) == 12 - lost
    assert (output.held_frames, output.held_bytes) == (0, 0)


OTHER = Ends(target_port=40001)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["primary", "secondary", "both"]), st.integers(0, 1)),
        st.tuples(st.sampled_from(["differ", "barrier", "commit", "stop", "compare", "leave"]), st.just(0)),
    ),
    max_size=60,
)


class History:
    """Two guests by hand, and what each frame of the primary left by."""

    def __init__(self) -> None:
        self.output = comparing()
        self.closed = self.committed = 1
        #: Of the secondary's present execution.
        self.epoch = 2
        self.counts = {"primary": [0, 0], "secondary": [0, 0]}
        self.of_epoch: dict[tuple[int, int], int] = {}
        self.told: set[tuple[int, int, int]] = set()
        self.left: list[tuple[int, int]] = []

    def play(self, step: str, flow: int) -> None:
        if step in ("primary", "both"):
            number = self.next("primary", flow)
            self.of_epoch[flow, number] = self.closed + 1
            hold(self.output, number, (ENDS, OTHER)[flow])
        if step in ("secondary", "both"):
            self.tell(flow, self.next("secondary", flow))
        elif step == "differ":
            self.tell(0, self.next("secondary", 0) + (1 << 20))
        elif step == "barrier":
            self.closed += 1
            self.output.mark_barrier(Epoch(self.closed))
        elif step == "commit":
            self.equal()
            self.output.release(Epoch(self.closed))
        elif step == "compare":
            self.equal()
            self.output.compare(Epoch(self.closed), 0)
        elif step == "stop":
            self.output.stop_comparing()
        elif step == "leave":
            self.leave()

    def next(self, side: str, flow: int) -> int:
        self.counts[side][flow] += 1
        return self.counts[side][flow]

    def tell(self, flow: int, number: int) -> None:
        self.told.add((self.epoch, flow, number))
        second(self.output, number, self.epoch, (ENDS, OTHER)[flow])

    def equal(self) -> None:
        """The secondary's guest has said what the primary's had, up to the barrier."""
        self.committed = self.closed
        if self.epoch <= self.closed:
            self.epoch = self.closed + 1
            for flow in (0, 1):
                before = [n for (f, n), epoch in self.of_epoch.items() if f == flow and epoch <= self.closed]
                self.counts["secondary"][flow] = max(before, default=0)

    def leave(self) -> None:
        while (one := self.output.next_leaving()) is not None:
            self.output.mark_left()
            flow = int(one.data[36:38] == OTHER.target_port.to_bytes(2, "big"))
            number = number_of(one.data)
            epoch = self.of_epoch[flow, number]
            assert epoch <= self.committed or (epoch, flow, number) in self.told, "nobody let it leave"
            self.left.append((flow, number))


@given(STEPS)
def test_whatever_happens_a_frame_leaves_once_in_order_and_by_right(steps: list[tuple[str, int]]) -> None:
    history = History()
    for step, flow in steps:
        history.play(step, flow)
        history.output.take_wants()
        history.leave()
    history.play("barrier", 0)
    history.play("commit", 0)
    history.leave()
    for flow in (0, 1):
        numbers = [number for one, number in history.left if one == flow]
        assert numbers == list(range(1, history.counts["primary"][flow] + 1))
    assert (history.output.held_frames, history.output.held_bytes) == (0, 0)
