"""The moments of one death of a primary's host, as metrics. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from replicator.errors import GuestError
from replicator.units import NS_PER_MS


@dataclass(frozen=True, slots=True)
class Death:
    """Moments in nanoseconds of one clock. `replies_ns`: all that the client heard, in order."""

    killed_ns: int
    granted_ns: int
    running_ns: int
    replies_ns: tuple[int, ...]
    #: Answers to a steady beat of ICMP echo requests.
    echoes_ns: tuple[int, ...]


def describe_death(death: Death) -> dict[str, float]:
    """GuestError when the client heard nothing on a side of the death."""
    answers = [at_ns for at_ns in death.replies_ns if at_ns >= death.running_ns]
    echoes = [at_ns for at_ns in death.echoes_ns if at_ns >= death.running_ns]
    gaps = [
        after - before
        for before, after in pairwise(death.replies_ns)
        if after >= death.killed_ns and before <= death.running_ns
    ]
    if not answers or not echoes or not gaps:
        raise GuestError("the client was not answered before and after the death")
    return {
        "death to granted": (death.granted_ns - death.killed_ns) / NS_PER_MS,
        "granted to running": (death.running_ns - death.granted_ns) / NS_PER_MS,
        "death to running": (death.running_ns - death.killed_ns) / NS_PER_MS,
        "death to first echo": (echoes[0] - death.killed_ns) / NS_PER_MS,
        "death to first answer": (answers[0] - death.killed_ns) / NS_PER_MS,
        "client gap": max(gaps) / NS_PER_MS,
    }
