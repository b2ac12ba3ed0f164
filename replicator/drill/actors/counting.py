"""What a client of the counting guest may see, checked over what it saw. Pure: no I/O, no clock.

The client sends requests of ever higher numbers, each once; the guest answers each that reaches it with a counter that
grows by one, unless the network brought it that request before. A request may be lost on its way, and so may a reply.
So, in the order of the replies:

- the counter of a newer request is higher; if it is not, the guest went back behind what it had said (lost);
- it is higher by no more than requests were sent in between; if it is, one was executed that nobody sent (repeated);
- the reply to a request that came once more says no lower counter, and the guest never starts afresh.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Answer:
    """One reply. `at_ns` is CLOCK_MONOTONIC of the client's machine."""

    sequence: int
    counter: int
    boots: int
    at_ns: int


@dataclass(frozen=True, slots=True)
class Count:
    lost: int = 0
    repeated: int = 0
    restarts: int = 0


def check_answers(answers: Sequence[Answer]) -> Count:
    """Judge all replies in the order in which they came."""
    lost = repeated = restarts = 0
    newest: Answer | None = None
    for answer in answers:
        if newest is None or answer.boots != newest.boots:
            restarts += newest is not None
            newest = answer
        elif answer.sequence <= newest.sequence:
            lost += max(0, newest.counter - answer.counter)
        else:
            executed, sent = answer.counter - newest.counter, answer.sequence - newest.sequence
            lost += max(0, 1 - executed)
            repeated += max(0, executed - sent)
            newest = answer
    return Count(lost, repeated, restarts)


def longest_gap(answers: Sequence[Answer], began_ns: int, ended_ns: int) -> tuple[int, int]:
    """(from, to) of the longest time without a reply, from the beginning to the end of the load."""
    moments = [began_ns, *(answer.at_ns for answer in answers), ended_ns]
    return max(pairwise(moments), key=lambda pair: pair[1] - pair[0])
