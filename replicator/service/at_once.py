"""Start a coroutine where it stands. A new task waits for its turn, behind all that came in while the loop was busy."""

from __future__ import annotations

import asyncio
import sys
import types
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from typing import Any

Work = Coroutine[Any, Any, None]


def start_at_once(work: Work, loop: asyncio.AbstractEventLoop) -> asyncio.Task[None] | None:
    """Run it up to where it has to wait for the first time; the task that goes on from there, None when it has ended.

    Up to there it is no task of its own: it must not ask for the current one (as `asyncio.timeout` does)."""
    if sys.version_info >= (3, 12):
        return asyncio.Task(work, loop=loop, eager_start=True)
    try:
        awaited = work.send(None)
    except StopIteration:
        return None
    return loop.create_task(_go_on(work, awaited))


async def _go_on(work: Work, awaited: object) -> None:
    await _relay(work, awaited)


@types.coroutine
def _relay(work: Work, awaited: object) -> Generator[object, Any, None]:
    """Stand between a task and work that waits for `awaited` already."""
    while True:
        step: Callable[[], object]
        try:
            answer = yield awaited
        except BaseException as error:
            step = partial(work.throw, error)
        else:
            step = partial(work.send, answer)
        try:
            awaited = step()
        except StopIteration:
            return
