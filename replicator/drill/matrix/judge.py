"""From what was seen of one cell to its verdict. Pure: no I/O, no clock.

A missing observation fails a cell: what was not seen is not proven. All moments are CLOCK_MONOTONIC nanoseconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from replicator.demo.promises import Report
from replicator.drill.matrix.faults import Nature, Outcome
from replicator.units import NS_PER_MS


@dataclass(frozen=True, slots=True)
class Observed:
    """Of one cell. `primary` and `other` are the sides' names at its beginning."""

    primary: str
    other: str
    #: The daemon stood in the phase when the fault was made.
    hit: bool = False
    fault_ns: int = 0
    #: First word of a daemon that something is wrong, and what it was.
    noticed_ns: int | None = None
    noticed: str = ""
    #: The other side ran the guest.
    running_ns: int | None = None
    #: The fault was undone, and protection was back.
    mended_ns: int | None = None
    protected_ns: int | None = None
    #: Who spoke as the guest, one after the other, from the beginning of the cell to its end.
    speakers: tuple[str, ...] = ()
    #: Frames of the guest that the ear on the switch could not keep.
    unheard: int = 0
    #: Who has the guest in the end.
    runs_at: str = ""
    report: Report | None = None
    #: What did not happen in time, in words.
    missed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """Times are milliseconds; None: there was none, or it was not seen."""

    passed: bool
    reasons: tuple[str, ...] = ()
    detection_ms: float | None = None
    take_over_ms: float | None = None
    #: From the end of the fault to protection.
    heal_ms: float | None = None
    gap_ms: float | None = None
    lost: int = 0
    repeated: int = 0
    runs_at: str = ""


def judge(nature: Nature, seen: Observed) -> Verdict:
    """The verdict, with every reason against the cell."""
    reasons = tuple(_find_faults(nature, seen))
    report = seen.report
    return Verdict(
        not reasons,
        reasons,
        _span(seen.fault_ns, seen.noticed_ns),
        _span(seen.fault_ns, seen.running_ns),
        _span(seen.mended_ns, seen.protected_ns),
        None if report is None else report.longest_gap_ms,
        0 if report is None else report.increments_lost,
        0 if report is None else report.increments_repeated,
        seen.runs_at,
    )


def _find_faults(nature: Nature, seen: Observed) -> Iterator[str]:
    yield from seen.missed
    if not seen.hit:
        yield "the phase was not reached"
        return
    yield from _judge_pair(nature, seen)
    yield from _judge_speakers(nature, seen)
    yield from _judge_client(nature, seen)


def _judge_pair(nature: Nature, seen: Observed) -> Iterator[str]:
    take_over = _span(seen.fault_ns, seen.running_ns)
    if nature.outcome is Outcome.TAKE_OVER:
        if take_over is None:
            yield "the other side did not take over"
        elif take_over > nature.bounds_ms[0]:
            yield f"the take-over took {take_over:.0f} ms, {nature.bounds_ms[0]} are allowed"
    elif take_over is not None:
        yield "the other side took over, though the primary was to keep the guest"
    if nature.outcome is not Outcome.QUIET and seen.noticed_ns is None:
        yield "no daemon noticed anything"
    if seen.protected_ns is None:
        yield "the pair was not protected again"
    wanted = seen.other if nature.outcome is Outcome.TAKE_OVER else seen.primary
    if seen.runs_at != wanted:
        yield f"the guest is at {seen.runs_at or 'no side'}, {wanted} should have it"


def _judge_speakers(nature: Nature, seen: Observed) -> Iterator[str]:
    wanted = (seen.primary, seen.other) if nature.outcome is Outcome.TAKE_OVER else (seen.primary,)
    if seen.speakers != wanted:
        yield f"{' then '.join(seen.speakers) or 'nobody'} spoke as the guest, not {' then '.join(wanted)}"
    if seen.unheard:
        yield f"{seen.unheard} frames of the guest were not heard"


def _judge_client(nature: Nature, seen: Observed) -> Iterator[str]:
    report = seen.report
    if report is None:
        yield "the client gave no report"
        return
    yield from report.broken
    if not report.increments_acked:
        yield "the client was never answered"
    if report.longest_gap_ms > nature.bounds_ms[1]:
        yield f"the client's gap was {report.longest_gap_ms:.0f} ms, {nature.bounds_ms[1]} are allowed"


def _span(from_ns: int | None, to_ns: int | None) -> float | None:
    if from_ns is None or to_ns is None:
        return None
    return round((to_ns - from_ns) / NS_PER_MS, 1)
