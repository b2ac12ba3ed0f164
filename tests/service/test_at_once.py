"""A coroutine that starts where it stands and goes on as a task."""

from __future__ import annotations

import asyncio

import pytest

from replicator.service.at_once import Work, start_at_once


def start(work: Work) -> asyncio.Task[None] | None:
    return start_at_once(work, asyncio.get_running_loop())


def test_what_never_waits_is_done_at_once():
    done = []

    async def work() -> None:
        done.append("all of it")

    async def scenario() -> None:
        task = start(work())
        assert done == ["all of it"]
        if task is not None:
            await task

    asyncio.run(scenario())


def test_it_waits_as_a_task_and_gets_results_and_errors():
    seen: list[object] = []

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        first, second = loop.create_future(), loop.create_future()

        async def work() -> None:
            seen.append("begun")
            seen.append(await first)
            await asyncio.sleep(0)
            try:
                await second
            except OSError as error:
                seen.append(error.args[0])

        task = start(work())
        assert task is not None and seen == ["begun"]
        first.set_result("a result")
        second.set_exception(OSError("an error"))
        await task

    asyncio.run(scenario())
    assert seen == ["begun", "a result", "an error"]


def test_an_error_before_the_first_wait_is_the_starters_and_a_later_one_the_tasks():
    async def fail_at_once() -> None:
        raise ValueError("at once")

    async def fail_later() -> None:
        await asyncio.sleep(0)
        raise ValueError("later")

    async def scenario() -> None:
        with pytest.raises(ValueError, match="at once"):
            task = start(fail_at_once())
            if task is not None:
                await task
        task = start(fail_later())
        assert task is not None
        with pytest.raises(ValueError, match="later"):
            await task

    asyncio.run(scenario())


def test_a_task_that_is_cancelled_cleans_up_what_was_begun():
    seen = []

    async def work() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            seen.append("cleaned up")

    async def scenario() -> None:
        task = start(work())
        assert task is not None
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())
    assert seen == ["cleaned up"]
