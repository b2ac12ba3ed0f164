"""Feeds a stream through a converter into a child process: executes what engine/teardown.py decides.

Three parts run together. Reader and converter are a pump, a thread that reports the end of each; the child's end shows
on its pidfd. The event loop hands every end to the machine and does what that answers; it reads and writes nothing
of the stream itself.

An order to stop is the cancellation of the task: the first asks the child to end and gives it the grace period, the
second kills it. Under `asyncio.run` ctrl-C is that already; for SIGTERM let the loop's signal handler call the task's
`cancel`. Whatever happens, a bug of ours included, `feed_child` leaves no thread, no child and no descriptor behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from replicator.engine import teardown as td
from replicator.engine.effects import Effect
from replicator.engine.events import Event
from replicator.stream.pump import Converter, Pump
from replicator.stream.receiver import Receiver


@dataclass(frozen=True, slots=True)
class FeedReport:
    bytes_read: int
    bytes_written: int
    #: Of a child that had the whole stream: 0.
    exit_code: int


async def feed_child(
    source_fd: int,
    converter: Converter,
    argv: Sequence[str],
    *,
    grace_s: float = 10.0,
    stall_s: float | None = None,
    progress: Callable[[int], None] | None = None,
) -> FeedReport:
    """Run `argv` and write to its standard input what `converter` makes of `source_fd`; returns after its good end.

    `source_fd` is a file, pipe, socket or terminal; it stays the caller's, open and with its flags, but its position
    moves. `progress` is called in another thread, see `Pump`. The first error is raised once all has ended: ReceiverError
    of the child, ReplicatorError of the input, and what the converter raised as it is. A child that refuses its input,
    or that does not end when asked to, has `grace_s` to do so. With `stall_s` None a child may pause for ever."""
    with (
        closing(Receiver(argv)) as receiver,
        closing(Pump(source_fd, receiver.sink_fd, converter, stall_s=stall_s, progress=progress)) as pump,
    ):
        await _Feeding(receiver, pump, grace_s).run()
        return FeedReport(pump.bytes_read, pump.bytes_written, exit_code=0)


class _Feeding:
    """The machine, and the hands that carry out its effects in the event loop."""

    def __init__(self, receiver: Receiver, pump: Pump, grace_s: float) -> None:
        self._receiver = receiver
        self._pump = pump
        self._grace_s = grace_s
        self._grace: asyncio.TimerHandle | None = None
        self._machine = td.TeardownMachine()
        self._loop = asyncio.get_running_loop()
        self._completed: asyncio.Future[td.Outcome] = self._loop.create_future()
        self._executors: dict[type[Effect], Callable[[Any], None]] = {
            td.AbortPart: self._abort_part,
            td.KillChild: lambda _: receiver.kill(),
            td.StartGrace: lambda _: self._start_grace(),
            td.CloseSource: lambda _: pump.close_source(),
            td.CloseSink: lambda _: receiver.close_sink(),
            td.Complete: lambda effect: self._completed.set_result(effect.outcome),
        }

    async def run(self) -> None:
        """Returns when the child had the whole stream and ended well; raises what went wrong first."""
        self._pump.start(self._hear_pump)
        self._loop.add_reader(self._receiver.pidfd, self._reap_child)
        try:
            cancellation = await self._wait_for_completion()
        finally:
            self._fall_silent()
        outcome = self._completed.result()
        if isinstance(outcome, td.Failed):
            raise outcome.error
        if cancellation is not None:
            raise cancellation

    async def _wait_for_completion(self) -> asyncio.CancelledError | None:
        """Returns when all has ended; the cancellation that came meanwhile, if one did."""
        cancellation = None
        while not self._completed.done():
            try:
                await asyncio.wait([self._completed])
            except asyncio.CancelledError as error:
                cancellation = error
                self._handle(td.StopOrdered("stopped"))
        return cancellation

    def _handle(self, event: Event) -> None:
        if self._completed.done():
            # A stop that came too late, or a part that ends because we were given up.
            return
        try:
            for effect in self._machine.handle(event):
                self._executors[type(effect)](effect)
        except Exception as error:
            self._completed.set_exception(error)

    def _fall_silent(self) -> None:
        """Hear of nothing any more; what still runs, if all did not end in order, is for `close` to end."""
        self._completed.cancel()
        self._loop.remove_reader(self._receiver.pidfd)
        self._cancel_grace()

    # Ends.

    def _hear_pump(self, event: td.PartEnded) -> None:
        """In the pump's thread."""
        self._loop.call_soon_threadsafe(self._handle, event)

    def _reap_child(self) -> None:
        self._loop.remove_reader(self._receiver.pidfd)
        error = self._receiver.reap()
        self._handle(td.PartEnded(td.Part.CHILD, td.End.FAILED if error else td.End.WELL, error))

    # Effects.

    def _abort_part(self, effect: td.AbortPart) -> None:
        # The pump ends as a whole: the machine never aborts the reader of a converter that is to go on.
        if effect.part is td.Part.CHILD:
            self._receiver.terminate()
        else:
            self._pump.abort()

    def _start_grace(self) -> None:
        self._cancel_grace()
        self._grace = self._loop.call_later(self._grace_s, self._handle, td.GraceOver())

    def _cancel_grace(self) -> None:
        if self._grace is not None:
            self._grace.cancel()
