"""What becomes of an error in a stream: who reads decides whether it ends the reading.

A *fault* is what a receiver must forgive but a correct sender never writes: reserved fields and padding that
are not zero, records in an unusual order, records without a meaning. A *bad record* is one whose body no
receiver takes, though its length is one that its type may have. All else ends every reading.
"""

from __future__ import annotations

from typing import Protocol

from replicator.errors import BadRecord, WireError


class Judge(Protocol):
    """Told of each error that need not end the reading; raises it to end the reading all the same."""

    #: Whether faults are looked for at all.
    strict: bool

    def fault(self, error: WireError) -> None:
        """A fault; called only of a strict judge."""

    def bad_record(self, error: BadRecord) -> None:
        """A bad record; it is passed over when this returns."""


class Tolerant:
    """Reads as a receiver does."""

    strict = False

    def fault(self, error: WireError) -> None:
        """Never called."""

    def bad_record(self, error: BadRecord) -> None:
        raise error


class Strict:
    """Takes only what a correct sender writes."""

    strict = True

    def fault(self, error: WireError) -> None:
        raise error

    def bad_record(self, error: BadRecord) -> None:
        raise error
