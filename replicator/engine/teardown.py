"""Ends the three parts of a feeding together: the READER of the input, the CONVERTER of its bytes, and the CHILD that
takes what the converter makes on its standard input.

    part       end      what follows
    READER     WELL     nothing: the converter goes on with what was read
               FAILED   an error
    CONVERTER  WELL     the reader is aborted, the child sees the end of its input and is waited for
               FAILED   an error
               REFUSED  the child closed its input. Its own end explains that better and is awaited for one grace
                        period; if it lives on, this is the error
    CHILD      WELL     fine after the converter; before it, reader and converter are aborted, and only a converter
                        that turns out to have finished makes a success of it
               FAILED   an error
    any        ABORTED  nothing

An error, or an order to stop, aborts every part in use. A child that does not end within the grace period is killed,
and at once when the stop is ordered a second time.

Rules: 1. The first error stands; what an aborted part reports is no error of its own. 2. A descriptor is closed when
its only user has ended, never before. 3. A child is told to end before its input is closed: a cut stream must not
look like a whole one. 4. Each part is aborted once at most. 5. It completes once, when no part is in use.
This file does not know what reads, converts or runs, nor how long the grace period is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from replicator.engine.effects import Effect
from replicator.engine.events import Event
from replicator.errors import InvariantError, ReceiverError, require


class Part(Enum):
    READER = "reader"
    CONVERTER = "converter"
    CHILD = "child"


class End(Enum):
    WELL = "well"
    FAILED = "failed"
    #: Of the converter only: nobody reads what it writes any more.
    REFUSED = "refused"
    #: Not of the child, whose end is always its own.
    ABORTED = "aborted"


@dataclass(frozen=True, slots=True)
class PartEnded(Event):
    """The part is out of use and touches no descriptor any more. `error` says why it FAILED or was REFUSED."""

    part: Part
    end: End
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class StopOrdered(Event):
    reason: str


@dataclass(frozen=True, slots=True)
class GraceOver(Event):
    """The grace period that was started last has passed."""


@dataclass(frozen=True, slots=True)
class AbortPart(Effect):
    """Tell the part to end; of the child, ask it politely."""

    part: Part


@dataclass(frozen=True, slots=True)
class KillChild(Effect):
    pass


@dataclass(frozen=True, slots=True)
class StartGrace(Effect):
    """Starting it again moves it."""


@dataclass(frozen=True, slots=True)
class CloseSource(Effect):
    """Close the descriptor that the reader read from."""


@dataclass(frozen=True, slots=True)
class CloseSink(Effect):
    """Close the descriptor that the converter wrote to: the child sees the end of its input."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """The child had the whole stream and ended well."""


@dataclass(frozen=True, slots=True)
class Failed:
    error: Exception


@dataclass(frozen=True, slots=True)
class Stopped:
    reason: str


Outcome = Delivered | Failed | Stopped


@dataclass(frozen=True, slots=True)
class Complete(Effect):
    outcome: Outcome


#: What a part alone used.
_CLOSINGS: dict[Part, list[Effect]] = {
    Part.READER: [CloseSource()],
    Part.CONVERTER: [CloseSink()],
    Part.CHILD: [],
}


class TeardownMachine:
    """`handle(event)` returns the effects of one event. All parts are in use from the start."""

    def __init__(self) -> None:
        #: How the parts ended that are no longer in use.
        self._ends: dict[Part, End] = {}
        self._aborted: set[Part] = set()
        #: What it comes to if nothing else happens. Final once decided.
        self._outcome: Outcome = Delivered()
        self._decided = False
        self._grace_runs = False
        self._stop_ordered = False
        self._killed = False
        self._completed = False
        self._handlers: dict[type[Event], Callable[[Any], list[Effect]]] = {
            PartEnded: self._on_part_ended,
            StopOrdered: self._on_stop_ordered,
            GraceOver: self._on_grace_over,
        }
        self._part_handlers: dict[tuple[Part, End], Callable[[PartEnded], list[Effect]]] = {
            (Part.READER, End.WELL): self._on_read_all,
            (Part.READER, End.FAILED): self._on_failed,
            (Part.READER, End.ABORTED): self._on_aborted,
            (Part.CONVERTER, End.WELL): self._on_converted_all,
            (Part.CONVERTER, End.FAILED): self._on_failed,
            (Part.CONVERTER, End.REFUSED): self._on_refused,
            (Part.CONVERTER, End.ABORTED): self._on_aborted,
            (Part.CHILD, End.WELL): self._on_child_well,
            (Part.CHILD, End.FAILED): self._on_failed,
        }

    def handle(self, event: Event) -> list[Effect]:
        require(not self._completed, f"{event} after the completion")
        effects = self._handlers[type(event)](event)
        return [*effects, *self._complete_if_over()]

    def _complete_if_over(self) -> list[Effect]:
        if len(self._ends) < len(Part):
            return []
        self._completed = True
        return [Complete(self._outcome)]

    # Ends.

    def _on_part_ended(self, event: PartEnded) -> list[Effect]:
        part, end = event.part, event.end
        require(part not in self._ends, f"a second end of the {part.value}")
        require((part, end) in self._part_handlers, f"the {part.value} cannot end {end.value}")
        require(end is not End.ABORTED or part in self._aborted, f"nobody aborted the {part.value}")
        self._ends[part] = end
        return [*self._part_handlers[part, end](event), *_CLOSINGS[part]]

    def _on_read_all(self, _: PartEnded) -> list[Effect]:
        return []

    def _on_converted_all(self, _: PartEnded) -> list[Effect]:
        return self._abort(Part.READER)

    def _on_child_well(self, _: PartEnded) -> list[Effect]:
        if Part.CONVERTER not in self._ends:
            return self._abort(Part.READER, Part.CONVERTER)
        return [] if self._ends[Part.CONVERTER] is End.WELL else self._end_all(_ended_early())

    def _on_failed(self, event: PartEnded) -> list[Effect]:
        return self._on_aborted(event) if event.part in self._aborted else self._end_all(_failed(event))

    def _on_refused(self, event: PartEnded) -> list[Effect]:
        if event.part in self._aborted:
            return self._on_aborted(event)
        self._outcome = _failed(event)
        return [*self._abort(Part.READER), self._start_grace()]

    def _on_aborted(self, event: PartEnded) -> list[Effect]:
        """It was told to end and had not finished."""
        child_was_first = event.part is Part.CONVERTER and self._ends.get(Part.CHILD) is End.WELL
        return self._end_all(_ended_early()) if child_was_first else []

    # Orders and time.

    def _on_stop_ordered(self, event: StopOrdered) -> list[Effect]:
        if Part.CHILD in self._ends:
            # What is still in use was aborted by the child's end.
            return []
        if self._stop_ordered:
            return self._kill()
        self._stop_ordered = True
        return self._end_all(self._outcome if isinstance(self._outcome, Failed) else Stopped(event.reason))

    def _on_grace_over(self, _: GraceOver) -> list[Effect]:
        require(self._grace_runs, "the end of a grace period that was not started")
        self._grace_runs = False
        if Part.CHILD in self._ends:
            return []
        # A child that was not told to end yet is one that refused its input and gave no better reason.
        return self._kill() if Part.CHILD in self._aborted else self._end_all(self._outcome)

    # Means.

    def _end_all(self, outcome: Outcome) -> list[Effect]:
        if not self._decided:
            self._outcome, self._decided = outcome, True
        return self._abort(*Part)

    def _abort(self, *parts: Part) -> list[Effect]:
        told = [part for part in parts if part not in self._ends and part not in self._aborted]
        self._aborted.update(told)
        effects: list[Effect] = [AbortPart(part) for part in told]
        return [*effects, self._start_grace()] if Part.CHILD in told else effects

    def _start_grace(self) -> Effect:
        self._grace_runs = True
        return StartGrace()

    def _kill(self) -> list[Effect]:
        if self._killed:
            return []
        self._killed = True
        return [KillChild()]


def _failed(event: PartEnded) -> Failed:
    error = event.error
    if error is None:
        raise InvariantError(f"the {event.part.value} ended {event.end.value} without saying why")
    return Failed(error)


def _ended_early() -> Failed:
    return Failed(ReceiverError("the receiver ended (exit 0) before it had the whole stream"))
