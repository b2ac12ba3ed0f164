"""Virtual time: one clock, one heap of what is to happen, one source of chance. The same seed gives the same run.

This file does not know what happens; it only makes it happen in the order of time.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from typing import Any

Action = Callable[..., None]

#: Happenings that are remembered.
TRACE_KEPT = 5_000


class World:
    """`now_ns` counts from the start of the simulation."""

    def __init__(self, seed: int) -> None:
        self.now_ns = 0
        self.rng = random.Random(f"world {seed}")
        self._draw = self.rng.random
        #: Of what is to be secret: apart, so that a sealed run has the same chances as a plain one.
        self._secrets = random.Random(f"secrets {seed}")
        #: (time, where, what) of the newest happenings; `what` is turned into text only when it is read.
        self.trace: deque[tuple[int, str, Any]] = deque(maxlen=TRACE_KEPT)
        #: Set when the run is over: whatever is still torn down afterwards has no effect.
        self.over = False
        self._heap: list[tuple[int, int, Action, tuple[Any, ...]]] = []
        self._next_number = count().__next__

    def at(self, at_ns: int, action: Action, *arguments: Any) -> None:
        """Let `action` happen at a time; in the past means now."""
        heappush(self._heap, (max(at_ns, self.now_ns), self._next_number(), action, arguments))

    def after(self, delay_ns: int, action: Action, *arguments: Any) -> None:
        at_ns = self.now_ns + delay_ns if delay_ns > 0 else self.now_ns
        heappush(self._heap, (at_ns, self._next_number(), action, arguments))

    def put(self, delay_ns: int, action: Action, arguments: tuple[Any, ...]) -> None:
        """As `after`, for those who have the arguments in one piece."""
        at_ns = self.now_ns + delay_ns if delay_ns > 0 else self.now_ns
        heappush(self._heap, (at_ns, self._next_number(), action, arguments))

    def step(self) -> bool:
        """Let the next thing happen. False when nothing is left."""
        if not self._heap:
            return False
        self.now_ns, _, action, arguments = heappop(self._heap)
        action(*arguments)
        return True

    def between(self, low: int, high: int) -> int:
        """Chance: a whole number, both ends included."""
        return low if high <= low else low + int(self._draw() * (high - low + 1))

    def chance(self, probability: float) -> bool:
        return probability > 0 and self._draw() < probability

    def draw_secret(self, size: int) -> bytes:
        return self._secrets.randbytes(size)

    def note(self, where: str, what: Any) -> None:
        """A line for the trace."""
        self.trace.append((self.now_ns, where, what))

    def forget(self) -> None:
        """The run is over: let go of what was to come and what has been, which holds all else in circles."""
        self._heap.clear()
        self.trace.clear()

    def read_trace(self) -> list[str]:
        return [f"{at / 1e6:12.3f} ms  {where:8} {what}" for at, where, what in self.trace]
