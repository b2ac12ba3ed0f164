"""What can go wrong, and the drawing of a plan of faults from a seed.

A fault here is a name, a place and a time; what it does to a pair says deeds.py.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """`host` in a fault is where it happens; for the network, the side that speaks."""

    CUT = "both ways of the replication network are cut"
    CUT_ONE_WAY = "one way of the replication network is cut"
    DROP = "messages are lost one by one"
    DELAY = "messages travel slowly"
    SLOW = "the replication network has little bandwidth"
    RESET = "connections break, and what was under way arrives late and twice"
    FLIP = "payloads are damaged on the way"
    KILL = "a daemon and its guest are killed between two steps"
    HOST_DEATH = "a host disappears without a word"
    BOTH_DEATHS = "both hosts disappear"
    GUEST_DEATH = "the guest's process ends"
    STANDBY_DEATH = "the process that waits for the guest ends"
    FREEZE = "a daemon is frozen between two steps and wakes up later; its guest goes on"
    FREEZE_HOST = "a daemon and its guest are frozen and wake up later"
    HANG = "an event loop hangs while its threads go on"
    ARBITER_CUT = "a host cannot reach the arbiter"
    ARBITER_DOWN = "the arbiter is gone for a while and starts again"
    ARBITER_ANSWERS = "the arbiter's answers are lost"
    ARBITER_SLOW = "requests wait before they are sent"
    DRIFT = "a clock runs at another speed"
    JUMP = "a host's boot clock jumps forward, as after a suspend"
    GUEST_ERROR = "the guest's commands fail now and then"
    PAUSE_HANGS = "a pause is carried out and never answered"
    DISK_FULL = "the replica's disk is full"
    DISK_DEATH = "the host disappears in the middle of a write of its replica"
    FULL_HOLD = "so much output that the hold fills up"
    VM_DEATH = "the process of the VM beside the primary's ends"
    VM_LOAD = "the VM beside the primary's takes no state"
    FRAMES_CUT = "the channel of the guests' frames is cut, and nothing else"
    FRAMES_RESET = "the channel of the guests' frames breaks, and nothing else"


#: What can only happen to a pair that does COLO.
OF_COLO = frozenset((Kind.VM_DEATH, Kind.VM_LOAD, Kind.FRAMES_CUT, Kind.FRAMES_RESET))


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of a plan. `amount` means what its kind makes of it, in 0..1."""

    kind: Kind
    at_ms: int
    host: str = "a"
    for_ms: int = 0
    amount: float = 0.0

    def __str__(self) -> str:
        return f"{self.at_ms} ms {self.kind.name} {self.host} for {self.for_ms} ms ({self.amount:.3f})"


FAULTS_MIN, FAULTS_MAX = 5, 9
FIRST_MS, LAST_MS = 250, 1_900
#: The kinds that need more than a moment and how long they may last.
_LONG_MS = {Kind.FREEZE: (20, 700), Kind.FREEZE_HOST: (20, 700), Kind.HANG: (20, 700)}


def draw_plan(seed: int, *, is_colo: bool = False) -> list[Fault]:
    """The faults of a seed, in the order of time."""
    rng = random.Random(f"faults {seed}")
    kinds = [kind for kind in Kind if is_colo or kind not in OF_COLO]
    plan = []
    for _ in range(rng.randint(FAULTS_MIN, FAULTS_MAX)):
        kind = rng.choice(kinds)
        low, high = _LONG_MS.get(kind, (10, 500))
        plan.append(
            Fault(
                kind, rng.randint(FIRST_MS, LAST_MS), rng.choice("ab"), rng.randint(low, high), rng.random()
            )
        )
    return sorted(plan, key=lambda fault: fault.at_ms)
