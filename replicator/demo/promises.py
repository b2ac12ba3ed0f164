"""What the client was promised, checked over what it recorded. Pure: no I/O, no clock.

The client asks for one increment at a time on one connection, so the replies it gets must be first+0, +1, +2, ...:

- a reply that is not greater than the one before: the guest went back behind acknowledged increments (lost);
- a reply that skips numbers: an increment was executed that nobody asked for (repeated);
- the counter read in the end lies below the last reply (lost), or above it by more than what was still unanswered
  (repeated).

An acknowledged SET must be readable in the end with its very value. The connection must be the one opened at first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from typing import Any

from replicator.errors import ConfigError
from replicator.units import NS_PER_MS


@dataclass(frozen=True, slots=True)
class Acked:
    """One acknowledged increment. Times are CLOCK_MONOTONIC of the client's machine."""

    value: int
    sent_ns: int
    acked_ns: int


@dataclass(frozen=True, slots=True)
class Recording:
    """All a client saw."""

    increments: Sequence[Acked]
    #: When the load began and when it was stopped.
    began_ns: int
    ended_ns: int
    #: Increments sent that never got a reply (0 or 1).
    unanswered: int
    #: The counter as read in the end; None when it could not be read at all.
    counter_at_end: int | None
    sets_acked: int
    #: Acknowledged SETs whose value could not be read back; None when nothing could be read at all.
    sets_missing: int | None
    #: Why a connection ended or counts as dead; one entry a connection.
    breaks: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """The client's final word. Every count is over the whole run."""

    increments_acked: int
    first_value: int
    last_value: int
    increments_lost: int
    increments_repeated: int
    #: Replies were first, first+1, first+2, ... without exception.
    consecutive: bool
    longest_gap_ms: float
    #: The gap lies between these moments (CLOCK_MONOTONIC).
    longest_gap_from_ns: int
    longest_gap_to_ns: int
    connection_survived: bool
    sets_acked: int
    sets_missing: int
    #: Everything that broke a promise, in words; empty when all were kept.
    broken: tuple[str, ...]

    @property
    def kept(self) -> bool:
        """True when no promise was broken."""
        return not self.broken

    def to_map(self) -> dict[str, Any]:
        """As JSON wants it."""
        return {**asdict(self), "broken": list(self.broken)}


def load_report(values: Mapping[str, Any]) -> Report:
    """The report in a client's JSON line; raise ConfigError when it is none."""
    names = {field.name for field in fields(Report)}
    if not names <= values.keys():
        raise ConfigError(f"not a client report: {json.dumps(dict(values))[:200]}")
    return Report(**{**{name: values[name] for name in names}, "broken": tuple(values["broken"])})


def count_steps(values: Sequence[int]) -> tuple[int, int]:
    """(lost, repeated) increments that a row of replies betrays."""
    lost = repeated = 0
    for before, after in pairwise(values):
        if after <= before:
            lost += before + 1 - after
        else:
            repeated += after - before - 1
    return lost, repeated


def compare_end(recording: Recording) -> tuple[int, int]:
    """(lost, repeated) increments that the counter's final value betrays."""
    if recording.counter_at_end is None or not recording.increments:
        return 0, 0
    beyond = recording.counter_at_end - recording.increments[-1].value
    return max(0, -beyond), max(0, beyond - recording.unanswered)


def longest_gap(recording: Recording) -> tuple[int, int]:
    """(from, to) of the longest time without a reply, the start and the end of the load included."""
    moments = [
        recording.began_ns,
        *(acked.acked_ns for acked in recording.increments),
        recording.ended_ns,
    ]
    return max(pairwise(moments), key=lambda pair: pair[1] - pair[0])


def describe_breaks(recording: Recording, lost: int, repeated: int) -> tuple[str, ...]:
    """Every broken promise in words."""
    words = [f"connection broken: {reason}" for reason in recording.breaks]
    if not recording.increments:
        words.append("no increment was acknowledged")
    elif recording.increments[0].value != 1:
        words.append(
            f"the first increment of a new counter was answered with {recording.increments[0].value}"
        )
    if lost:
        words.append(f"{lost} acknowledged increments lost")
    if repeated:
        words.append(f"{repeated} increments executed twice")
    if recording.counter_at_end is None:
        words.append("the counter could not be read in the end")
    if recording.sets_missing is None:
        words.append("the acknowledged SETs could not be read in the end")
    elif recording.sets_missing:
        words.append(f"{recording.sets_missing} acknowledged SETs are not readable")
    return tuple(words)


def check_promises(recording: Recording) -> Report:
    """Judge a recording."""
    values = [acked.value for acked in recording.increments]
    steps_lost, steps_repeated = count_steps(values)
    end_lost, end_repeated = compare_end(recording)
    lost, repeated = steps_lost + end_lost, steps_repeated + end_repeated
    gap_from, gap_to = longest_gap(recording)
    return Report(
        increments_acked=len(values),
        first_value=values[0] if values else 0,
        last_value=values[-1] if values else 0,
        increments_lost=lost,
        increments_repeated=repeated,
        consecutive=bool(values) and not steps_lost and not steps_repeated,
        longest_gap_ms=round((gap_to - gap_from) / NS_PER_MS, 3),
        longest_gap_from_ns=gap_from,
        longest_gap_to_ns=gap_to,
        connection_survived=not recording.breaks,
        sets_acked=recording.sets_acked,
        sets_missing=recording.sets_acked if recording.sets_missing is None else recording.sets_missing,
        broken=describe_breaks(recording, lost, repeated),
    )
