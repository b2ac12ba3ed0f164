"""The event loop of a simulated process: callbacks, timers, tasks and the thread pool, in virtual time.

It runs a step only while its process is alive, neither frozen nor hung. What freezes, hangs or kills is not known here.
"""

from __future__ import annotations

import asyncio
import contextlib
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from replicator.errors import InvariantError
from replicator.units import NS_PER_S

if TYPE_CHECKING:
    from replicator.sim.process import Process


@dataclass(slots=True, eq=False)
class _Job:
    """Itself and no other, whatever it works on."""

    future: asyncio.Future[Any]
    requested_ns: int
    func: Callable[..., Any]
    args: tuple[Any, ...]


#: A callback and its arguments: there are more of these than of anything else.
Step = tuple[Callable[..., object], tuple[Any, ...]]


class _NoHandle(asyncio.Handle):
    """Of a step: nobody takes one back, so that all have the same."""

    def __init__(self) -> None:
        """Of no loop."""

    def cancel(self) -> None:
        raise InvariantError("a step of a simulated loop cannot be taken back")


_NO_HANDLE = _NoHandle()


class _Timer(asyncio.TimerHandle):
    """Made with less ado."""

    def __init__(
        self, when: float, callback: Callable[..., object], args: tuple[Any, ...], loop: ProcessLoop
    ) -> None:
        self._when, self._callback, self._args, self._loop = when, callback, args, loop
        self._cancelled = self._scheduled = False
        self._repr = self._source_traceback = None


def _fire(timer: Any) -> None:
    """It may have been cancelled since its time came."""
    if not timer._cancelled:
        timer._callback(*timer._args)


class ProcessLoop(asyncio.AbstractEventLoop):
    """What asyncio needs of a loop, and nothing else: no sockets, no signals, no subprocesses."""

    def __init__(self, process: Process) -> None:
        self._process = process
        #: In order.
        self.ready: deque[Step] = deque()
        #: Keeps tasks of a dead process from being collected, which would run their clean-up.
        self._tasks: set[asyncio.Task[Any]] = set()
        #: Work of the pool that has not begun, in order.
        self._jobs: dict[_Job, None] = {}
        #: Errors that nobody awaited.
        self.errors: list[str] = []

    def run_ready(self) -> None:
        """In one context: a daemon has no context variables."""
        process, ready = self._process, self.ready
        while ready and process.alive and not process.frozen and not process.hung:
            callback, arguments = ready.popleft()
            try:
                callback(*arguments)
            except BaseException as error:
                self.call_exception_handler({"message": f"exception in {callback!r}", "exception": error})
            if process.steps_left:
                process.count_step()

    # asyncio's calls.

    def time(self) -> float:
        return self._process.clock.monotonic_ns() / NS_PER_S

    #: No, and at once: every future and every task asks.
    get_debug = staticmethod(bool)

    def is_running(self) -> bool:
        return self._process.alive

    def is_closed(self) -> bool:
        return False

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        self.ready.append((callback, args))
        return _NO_HANDLE

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
        handle = _Timer(self.time() + delay, callback, args, self)
        process = self._process
        delay_ns = process.clock.world_ns(max(0, round(delay * NS_PER_S)))
        process.schedule(delay_ns, self._expire, handle)
        return handle

    def _expire(self, timer: Any) -> None:
        if not timer._cancelled:
            self.ready.append((_fire, (timer,)))

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
        future = job.future
        self._process.requested_ns = job.requested_ns
        try:
            result = job.func(*job.args)
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
        self.ready.clear()
        for task in list(self._tasks):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            with contextlib.suppress(BaseException):
                task.get_coro().close()
        self._tasks.clear()
