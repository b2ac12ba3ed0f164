"""The teardown machine: every order in which parts can end, an operator stop and time pass."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playbook import kinds

from replicator.engine import teardown as td
from replicator.engine.effects import Effect
from replicator.engine.events import Event
from replicator.engine.teardown import AbortPart, End, Part, PartEnded
from replicator.errors import InvariantError, ReceiverError

STOPS_MAX = 2
ERRORS = {
    (part, end): ReceiverError(f"{part.value} {end.value}")
    for part in Part
    for end in (End.FAILED, End.REFUSED)
}
EARLY = "the receiver ended (exit 0) before it had the whole stream"
ENDS = {
    Part.READER: (End.WELL, End.FAILED, End.ABORTED),
    Part.CONVERTER: (End.WELL, End.FAILED, End.REFUSED, End.ABORTED),
    Part.CHILD: (End.WELL, End.FAILED),
}
READER, CONVERTER, CHILD = Part


def ended(part: Part, end: End = End.WELL) -> PartEnded:
    return PartEnded(part, end, ERRORS.get((part, end)))


class Trace:
    """One history, and what the machine asked for at each step of it."""

    def __init__(self, history: tuple[Event, ...] = ()) -> None:
        self.machine = td.TeardownMachine()
        self.history: tuple[Event, ...] = ()
        self.steps: list[list[Effect]] = []
        self.grace_runs = False
        for event in history:
            self.play(event)

    def play(self, event: Event) -> list[Effect]:
        effects = self.machine.handle(event)
        self.history += (event,)
        self.steps.append(effects)
        self.grace_runs = td.StartGrace() in effects or (self.grace_runs and event != td.GraceOver())
        return effects

    @property
    def effects(self) -> list[Effect]:
        return [effect for step in self.steps for effect in step]

    @property
    def in_use(self) -> set[Part]:
        return set(Part) - {event.part for event in self.history if isinstance(event, PartEnded)}

    @property
    def aborted(self) -> set[Part]:
        return {effect.part for effect in self.effects if isinstance(effect, AbortPart)}

    @property
    def outcome(self) -> td.Outcome | None:
        outcomes = [effect.outcome for effect in self.effects if isinstance(effect, td.Complete)]
        assert len(outcomes) <= 1, "it completes once"
        return outcomes[0] if outcomes else None

    def moves(self) -> Iterator[Event]:
        """All that can happen next."""
        for part in self.in_use:
            for end in ENDS[part]:
                if end is not End.ABORTED or part in self.aborted:
                    yield ended(part, end)
        if self.history.count(td.StopOrdered("stop")) < STOPS_MAX:
            yield td.StopOrdered("stop")
        if self.grace_runs:
            yield td.GraceOver()


def explore(history: tuple[Event, ...] = ()) -> Iterator[Trace]:
    """Every history, from the empty one on, and of each also its beginnings."""
    trace = Trace(history)
    yield trace
    if trace.outcome is None:
        for event in trace.moves():
            yield from explore((*history, event))


@pytest.fixture(scope="module")
def traces() -> list[Trace]:
    return list(explore())


def judge(history: tuple[Event, ...]) -> td.Outcome:
    """The promise in plain words: the first event that decides, without any of the machine's bookkeeping."""
    ends: dict[Part, End] = {}
    refusal: td.Failed | None = None
    for event in history:
        if isinstance(event, td.StopOrdered):
            if CHILD not in ends:
                return refusal or td.Stopped(event.reason)
        elif isinstance(event, td.GraceOver):
            if refusal and CHILD not in ends:
                return refusal
        elif isinstance(event, PartEnded):
            ends[event.part] = event.end
            early = ends.get(CHILD) is End.WELL and ends.get(CONVERTER, End.WELL) is not End.WELL
            if early:
                return td.Failed(ReceiverError(EARLY))
            nobody_reads_on = event.part is READER and (CONVERTER in ends or CHILD in ends)
            if event.end is End.FAILED and not nobody_reads_on:
                return td.Failed(ERRORS[event.part, event.end])
            if event.end is End.REFUSED:
                refusal = td.Failed(ERRORS[event.part, event.end])
    return td.Delivered()


def same(one: td.Outcome | None, other: td.Outcome) -> bool:
    """Errors made by the machine compare by their words."""
    if isinstance(one, td.Failed) and isinstance(other, td.Failed):
        return str(one.error) == str(other.error)
    return one == other


def test_all_orders_are_looked_at(traces: list[Trace]) -> None:
    whole = [trace for trace in traces if trace.outcome is not None]
    assert len(whole) > 3_000
    assert {type(trace.outcome) for trace in whole} == {td.Delivered, td.Failed, td.Stopped}


def test_it_completes_once_exactly_when_the_last_part_has_ended(traces: list[Trace]) -> None:
    for trace in traces:
        assert (trace.outcome is not None) == (not trace.in_use), trace.history
        if trace.outcome is not None:
            assert kinds(trace.effects)[-1] is td.Complete, "and nothing is asked for afterwards"


def test_the_first_error_is_the_outcome(traces: list[Trace]) -> None:
    for trace in traces:
        if trace.outcome is not None:
            assert same(trace.outcome, judge(trace.history)), trace.history


def test_a_descriptor_is_closed_once_and_only_by_the_end_of_its_user(traces: list[Trace]) -> None:
    for trace in traces:
        closings = [
            (event, effect)
            for event, step in zip(trace.history, trace.steps)
            for effect in step
            if isinstance(effect, td.CloseSource | td.CloseSink)
        ]
        expected = {READER: td.CloseSource(), CONVERTER: td.CloseSink()}
        users = [event for event in trace.history if isinstance(event, PartEnded) and event.part in expected]
        assert closings == [(event, expected[event.part]) for event in users], trace.history


def test_a_part_is_aborted_once_at_most_and_only_in_use(traces: list[Trace]) -> None:
    for trace in traces:
        gone: set[Part] = set()
        for event, step in zip(trace.history, trace.steps):
            gone |= {event.part} if isinstance(event, PartEnded) else set()
            told = [effect.part for effect in step if isinstance(effect, AbortPart)]
            assert not gone & set(told), trace.history
        aborts = [effect for effect in trace.effects if isinstance(effect, AbortPart)]
        assert len(aborts) == len(set(aborts)), trace.history
        assert kinds(trace.effects).count(td.KillChild) <= 1, trace.history


def test_the_reader_is_never_aborted_while_the_converter_goes_on(traces: list[Trace]) -> None:
    for trace in traces:
        if READER in trace.aborted:
            assert CONVERTER in trace.aborted or CONVERTER not in trace.in_use, trace.history


def in_trouble(trace: Trace) -> bool:
    """Something went wrong, may turn out to be wrong, or nobody is left to feed."""
    refused = ended(CONVERTER, End.REFUSED) in trace.history
    return refused or CHILD not in trace.in_use or judge(trace.history) != td.Delivered()


def test_nothing_is_waited_for_without_end_once_there_is_trouble(traces: list[Trace]) -> None:
    """What is in use was told to end. Of a child that may still take its time: until a grace period ends."""
    for trace in filter(in_trouble, traces):
        assert trace.in_use - {CHILD} <= trace.aborted, trace.history
        killed = td.KillChild() in trace.effects
        assert CHILD not in trace.in_use or killed or trace.grace_runs, trace.history


def test_a_child_is_told_to_end_before_it_sees_the_end_of_a_cut_stream(traces: list[Trace]) -> None:
    cuts = (ended(CONVERTER, End.FAILED), ended(CONVERTER, End.ABORTED))
    for trace in traces:
        if CHILD in trace.in_use and trace.history and trace.history[-1] in cuts:
            before_closing = trace.effects[: trace.effects.index(td.CloseSink())]
            assert AbortPart(CHILD) in before_closing, trace.history


def test_no_event_is_taken_after_the_completion(traces: list[Trace]) -> None:
    late = [*(ended(part) for part in Part), td.StopOrdered("late"), td.GraceOver()]
    for trace in traces:
        if trace.outcome is not None:
            for event in late:
                with pytest.raises(InvariantError):
                    trace.machine.handle(event)


# Scenes.


def test_a_stream_that_is_delivered() -> None:
    trace = Trace()
    assert trace.play(ended(READER)) == [td.CloseSource()]
    assert trace.play(ended(CONVERTER)) == [td.CloseSink()]
    assert trace.play(ended(CHILD)) == [td.Complete(td.Delivered())]


def test_a_stream_that_ends_before_its_input_does() -> None:
    trace = Trace()
    assert trace.play(ended(CONVERTER)) == [AbortPart(READER), td.CloseSink()]
    trace.play(ended(READER, End.ABORTED))
    assert trace.play(ended(CHILD)) == [td.Complete(td.Delivered())]


def test_an_error_ends_all_and_a_deaf_child_is_killed() -> None:
    trace = Trace()
    assert trace.play(ended(CONVERTER, End.FAILED)) == [
        AbortPart(READER), AbortPart(CHILD), td.StartGrace(), td.CloseSink(),
    ]  # fmt: skip
    assert trace.play(td.GraceOver()) == [td.KillChild()]
    trace.play(ended(READER, End.ABORTED))
    assert trace.play(ended(CHILD, End.FAILED))[-1] == td.Complete(td.Failed(ERRORS[CONVERTER, End.FAILED]))


def test_the_exit_of_a_child_explains_its_closed_input() -> None:
    trace = Trace((ended(CONVERTER, End.REFUSED), ended(READER, End.ABORTED), ended(CHILD, End.FAILED)))
    assert trace.outcome == td.Failed(ERRORS[CHILD, End.FAILED])


def test_a_child_that_closed_its_input_and_lives_on_is_told_to_end_after_the_grace() -> None:
    trace = Trace()
    assert trace.play(ended(CONVERTER, End.REFUSED)) == [AbortPart(READER), td.StartGrace(), td.CloseSink()]
    assert trace.play(td.GraceOver()) == [AbortPart(CHILD), td.StartGrace()]
    assert trace.play(td.GraceOver()) == [td.KillChild()]
    trace.play(ended(READER, End.ABORTED))
    assert trace.play(ended(CHILD, End.FAILED)) == [td.Complete(td.Failed(ERRORS[CONVERTER, End.REFUSED]))]


@pytest.mark.parametrize("end", [End.FAILED, End.REFUSED, End.ABORTED])
def test_a_child_that_ends_well_too_early_is_an_error(end: End) -> None:
    trace = Trace()
    assert trace.play(ended(CHILD)) == [AbortPart(READER), AbortPart(CONVERTER)]
    trace.play(ended(CONVERTER, end))
    trace.play(ended(READER, End.ABORTED))
    assert same(trace.outcome, td.Failed(ReceiverError(EARLY)))


def test_a_child_that_ends_well_in_a_race_with_the_converter_is_no_error() -> None:
    trace = Trace((ended(CHILD), ended(CONVERTER), ended(READER, End.ABORTED)))
    assert trace.outcome == td.Delivered()


def test_a_second_stop_does_not_wait_for_the_child() -> None:
    trace = Trace()
    stop = td.StopOrdered("ctrl-C")
    assert trace.play(stop) == [AbortPart(READER), AbortPart(CONVERTER), AbortPart(CHILD), td.StartGrace()]
    assert trace.play(stop) == [td.KillChild()]
    assert trace.play(td.GraceOver()) == []


@pytest.mark.parametrize(
    "history",
    [
        (ended(READER), ended(READER)),
        (ended(READER, End.ABORTED),),
        (ended(CHILD, End.ABORTED),),
        (ended(READER, End.REFUSED),),
        (PartEnded(CHILD, End.FAILED),),
        (td.GraceOver(),),
    ],
    ids=["twice", "not aborted", "child aborted", "reader refused", "no reason", "no grace"],
)
def test_what_no_runner_may_report(history: tuple[Event, ...]) -> None:
    with pytest.raises(InvariantError):
        Trace(history)
