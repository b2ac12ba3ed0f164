"""A process: an event loop (loop.py) and threads that can be frozen, hung or killed between any two of their steps.

What belongs to a process happens through `schedule`. While it is frozen (SIGSTOP) all of that waits; while it hangs
only its event loop waits and its threads go on; once it is dead nothing of it happens any more, and its half-done
coroutines are kept until the end of the run, so that no clean-up code runs that a killed process would not run.
"""

from __future__ import annotations

from asyncio.events import _set_running_loop
from collections import deque
from collections.abc import Callable
from typing import Any

from replicator.sim.clocks import HostClock
from replicator.sim.loop import ProcessLoop
from replicator.sim.world import Action, World

#: A request to the arbiter takes this long, and now and then much longer.
POOL_DELAY_NS = (20_000, 400_000)
SLOW_REQUESTS, SLOWER = 0.1, 40


class ProcessDied(BaseException):
    """Raised inside a process that was killed in the middle of a step. Nobody catches it."""


class Process:
    """One life of a daemon on a host."""

    def __init__(self, world: World, name: str, clock: HostClock) -> None:
        self.world = world
        self.name = name
        self.clock = clock
        self.loop = ProcessLoop(self)  # type: ignore[abstract]
        self.alive = True
        self.frozen = False
        self.hung = False
        #: When the request under way in a thread was made (CLOCK_BOOTTIME of this host).
        self.requested_ns = 0
        #: Added to the time after which a thread of the pool begins: a slow arbiter, a starved host.
        self.pool_extra_ns: Callable[[], int] = lambda: 0
        #: Called once, when the process has died.
        self.on_death: Callable[[], None] = lambda: None
        #: Steps until `_ambush` strikes, 0 for never.
        self.steps_left = 0
        self._ambush: Callable[[], None] = lambda: None
        self._waiting: deque[tuple[Action, tuple[Any, ...]]] = deque()

    def schedule(self, delay_ns: int, action: Action, *arguments: Any) -> None:
        """Let a thread of this process do something."""
        self.world.put(delay_ns, self.run, (action, arguments))

    def run(self, action: Action, arguments: tuple[Any, ...]) -> None:
        """Now, or once it is thawed, or never."""
        if self.frozen:
            self._waiting.append((action, arguments))
        elif self.alive:
            loop = self.loop
            _set_running_loop(loop)
            try:
                action(*arguments)
                if loop.ready:
                    loop.run_ready()
            except ProcessDied:
                pass
            finally:
                _set_running_loop(None)

    def draw_pool_delay(self) -> int:
        """How long a piece of work waits for a thread of the pool, or is on its way."""
        times = SLOWER if self.world.chance(SLOW_REQUESTS) else 1
        return self.world.between(*POOL_DELAY_NS) * times + self.pool_extra_ns()

    def count_step(self) -> None:
        """Between two steps of the event loop, while `steps_left` is not 0."""
        self.steps_left -= 1
        if not self.steps_left:
            self._ambush()

    def strike_after(self, steps: int, ambush: Callable[[], None]) -> None:
        """Let something happen to this process after so many steps of its event loop."""
        self.steps_left, self._ambush = steps, ambush

    def die(self) -> None:
        if self.alive:
            self.alive = False
            self._waiting.clear()
            self.on_death()

    def freeze(self) -> None:
        self.frozen = True

    def thaw(self) -> None:
        self.frozen = False
        waiting, self._waiting = self._waiting, deque()
        for action, arguments in waiting:
            self.schedule(0, action, *arguments)
        self.wake()

    def hang(self) -> None:
        self.hung = True

    def recover(self) -> None:
        self.hung = False
        self.wake()

    def wake(self) -> None:
        self.schedule(0, _nothing)


def _nothing() -> None:
    """Only what is ready."""
