"""A process: an event loop in virtual time that can be frozen, hung or killed between any two of its steps.

What belongs to a process happens through `schedule`. While it is frozen (SIGSTOP) all of that waits; while it hangs
only its event loop waits and its threads go on; once it is dead nothing of it happens any more, and its half-done
coroutines are kept until the end of the run, so that no clean-up code runs that a killed process would not run.
"""

from __future__ import annotations

import asyncio
import contextlib
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, NamedTuple

from replicator.sim.clocks import HostClock
from replicator.sim.world import Action, World

NS_PER_S = 1_000_000_000
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
        self._steps_left = 0
        self._ambush: Callable[[], None] = lambda: None
        self._waiting: deque[tuple[Action, tuple[Any, ...]]] = deque()

    def schedule(self, delay_ns: int, action: Action, *arguments: Any) -> None:
        """Let a thread of this process do something."""
        self.world.after(delay_ns, self.run, action, *arguments)

    def run(self, action: Action, *arguments: Any) -> None:
        """Now, or once it is thawed, or never."""
        if self.frozen:
            self._waiting.append((action, arguments))
        elif self.alive:
            events._set_running_loop(self.loop)
            try:
                action(*arguments)
                self.loop.run_ready()
            except ProcessDied:
                pass
            finally:
                events._set_running_loop(None)

    def draw_pool_delay(self) -> int:
        """How long a piece of work waits for a thread of the pool, or is on its way."""
        times = SLOWER if self.world.chance(SLOW_REQUESTS) else 1
        return self.world.between(*POOL_DELAY_NS) * times + self.pool_extra_ns()

    def count_step(self) -> None:
        """Between two steps of the event loop."""
        if self._steps_left:
            self._steps_left -= 1
            if not self._steps_left:
                self._ambush()

    def strike_after(self, steps: int, ambush: Callable[[], None]) -> None:
        """Let something happen to this process after so many steps of its event loop."""
        self._steps_left, self._ambush = steps, ambush

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
            self.world.after(0, self.run, action, *arguments)
        self.wake()

    def hang(self) -> None:
        self.hung = True

    def recover(self) -> None:
        self.hung = False
        self.wake()

    def wake(self) -> None:
        self.world.after(0, self.run, _nothing)


def _nothing() -> None:
    """Only what is ready."""


class _Job(NamedTuple):
    future: asyncio.Future[Any]
    requested_ns: int
    func: Callable[..., Any]
    args: tuple[Any, ...]


class ProcessLoop(asyncio.AbstractEventLoop):
    """What asyncio needs of a loop, and nothing else: no sockets, no signals, no subprocesses."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._ready: deque[asyncio.Handle] = deque()
        #: Keeps tasks of a dead process from being collected, which would run their clean-up.
        self._tasks: set[asyncio.Task[Any]] = set()
        #: Work of the pool that has not begun, in order.
        self._jobs: dict[_Job, None] = {}
        #: Errors that nobody awaited.
        self.errors: list[str] = []

    def run_ready(self) -> None:
        process, ready = self._process, self._ready
        while ready and process.alive and not process.frozen and not process.hung:
            handle = ready.popleft()
            if not handle.cancelled():
                handle._run()
                process.count_step()

    # asyncio's calls.

    def time(self) -> float:
        return self._process.clock.monotonic_ns() / NS_PER_S

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return self._process.alive

    def is_closed(self) -> bool:
        return False

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = self.call_soon(callback, *args, context=context)
        if events._get_running_loop() is not self:
            self._process.wake()
        return handle

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(self.time() + delay, callback, args, self, context)
        process = self._process
        delay_ns = process.clock.world_ns(max(0, round(delay * NS_PER_S)))
        process.schedule(delay_ns, self._ready.append, handle)
        return handle

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_later(when - self.time(), callback, *args, context=context)

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]
        self, coro: Coroutine[Any, Any, Any], *, name: str | None = None, context: Context | None = None
    ) -> asyncio.Task[Any]:
        task = asyncio.Task(coro, loop=self, name=name or "task", context=context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def run_in_executor(  # type: ignore[override]
        self, executor: object, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        future = self.create_future()
        process = self._process
        requested_ns = process.clock.boottime_ns()
        delay_ns = process.draw_pool_delay()
        job = _Job(future, requested_ns, func, args)
        self._jobs[job] = None
        process.schedule(delay_ns, self._work, job)
        return future

    def finish_jobs(self) -> None:
        """An interpreter that ends in good order waits for the threads of its pool."""
        for job in list(self._jobs):
            self._work(job)

    def _work(self, job: _Job) -> None:
        if job not in self._jobs:
            return
        del self._jobs[job]
        future, requested_ns, func, args = job
        self._process.requested_ns = requested_ns
        try:
            result = func(*args)
        except Exception as error:
            if not future.done():
                future.set_exception(error)
            return
        if not future.done():
            future.set_result(result)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if self._process.alive and not self._process.world.over:
            self.errors.append(f"{context.get('message')}: {context.get('exception')!r}")

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It stays in the heap and is passed over when its time comes."""

    def bury(self) -> None:
        """At the end of the run: let go of what a dead process has left, without a word."""
        self._ready.clear()
        for task in list(self._tasks):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            with contextlib.suppress(BaseException):
                task.get_coro().close()
        self._tasks.clear()
