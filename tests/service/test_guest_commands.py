"""When a guest whose state is saved goes on by itself, and what a resume then does; whose end it is that fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from replicator.clock import SYSTEM_CLOCK
from replicator.engine import events as ev
from replicator.engine.guest_clock import ClockSettings
from replicator.errors import GuestError
from replicator.guests.base import GuestEvent, Panicked, PoweredOff
from replicator.service import guest_commands
from replicator.service.guest_commands import GuestCommands


class Guest:
    """Notes what it is told."""

    agent = None

    def __init__(self) -> None:
        self.told: list[str] = []
        self.refuses_save = False

    async def pause(self) -> None:
        self.told.append("pause")

    async def resume(self) -> None:
        self.told.append("resume")

    async def save_device_state(self, *, runs_on: bool = False) -> bytes:
        self.told.append("save and run on" if runs_on else "save")
        if self.refuses_save:
            raise GuestError("no room")
        return b"state"

    def read_clock(self, device_state: bytes) -> int | None:
        return None


class Parts:
    def __init__(self) -> None:
        self.guest = Guest()
        self.clock = SYSTEM_CLOCK
        self.clock_settings = ClockSettings()
        self.clock_behind_ns, self.was_set_back = 0, False
        self.leased = True

    def has_lease(self) -> bool:
        return self.leased


def scene(play: Callable[[GuestCommands, Parts], Awaitable[None]]) -> Parts:
    parts: Any = Parts()

    async def run() -> None:
        await play(GuestCommands(parts, lambda _: None), parts)

    asyncio.run(run())
    return parts


def test_a_guest_that_went_on_with_a_lease_is_not_denied_to() -> None:
    """It runs already: to say that it stands still would be wrong."""

    async def play(commands: GuestCommands, parts: Parts) -> None:
        await commands.pause()
        await commands.save_device_state(runs_on=True)
        parts.leased = False
        assert await commands.resume()

    assert scene(play).guest.told == ["pause", "save and run on", "resume"]


def test_without_a_lease_no_guest_goes_on_by_itself() -> None:
    async def play(commands: GuestCommands, parts: Parts) -> None:
        await commands.pause()
        parts.leased = False
        await commands.save_device_state(runs_on=True)
        assert not await commands.resume()
        parts.leased = True
        assert await commands.resume()

    assert scene(play).guest.told == ["pause", "save", "resume"]


def test_after_a_save_that_failed_the_guest_may_run_and_is_told_to() -> None:
    async def play(commands: GuestCommands, parts: Parts) -> None:
        parts.guest.refuses_save = True
        await commands.pause()
        with pytest.raises(GuestError):
            await commands.save_device_state(runs_on=True)
        parts.leased = False
        assert await commands.resume()

    assert scene(play).guest.told == ["pause", "save and run on", "resume"]


@pytest.mark.parametrize("stop", [GuestCommands.pause, GuestCommands.freeze])
def test_a_later_stop_takes_back_the_leave_to_go_on(
    stop: Callable[[GuestCommands], Awaitable[None]],
) -> None:
    async def play(commands: GuestCommands, parts: Parts) -> None:
        await commands.pause()
        await commands.save_device_state(runs_on=True)
        await stop(commands)
        parts.leased = False
        assert not await commands.resume()

    assert scene(play).guest.told == ["pause", "save and run on", "pause"]


class EndingGuest(Guest):
    """Off by its own doing while it is paused: it refuses to go on before its news are heard."""

    def __init__(self, news: GuestEvent | None) -> None:
        super().__init__()
        self._news = news
        self._is_refused = asyncio.Event()

    async def resume(self) -> None:
        self._is_refused.set()
        raise GuestError("Resetting the Virtual Machine is required")

    async def events(self) -> AsyncIterator[GuestEvent]:
        await self._is_refused.wait()
        await asyncio.sleep(0)
        if self._news is not None:
            yield self._news


def thaw_one_that_ends(news: GuestEvent | None) -> list[ev.Event]:
    """What is posted of it."""
    posted: list[ev.Event] = []

    async def run() -> None:
        parts: Any = Parts()
        parts.guest = EndingGuest(news)
        commands = GuestCommands(parts, posted.append)
        await asyncio.gather(commands.watch(), commands.thaw())

    asyncio.run(run())
    return posted


@pytest.mark.parametrize("news", [PoweredOff(), Panicked("oops")])
def test_a_guest_that_ends_itself_in_a_pause_is_not_called_dead(news: GuestEvent) -> None:
    (ended,) = thaw_one_that_ends(news)
    assert isinstance(ended, ev.GuestEnded)
    assert not ended.died


def test_a_guest_that_refuses_to_go_on_for_no_reason_is_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest_commands, "DEATH_NEWS_S", 0.01)
    assert thaw_one_that_ends(None) == [ev.GuestEnded("Resetting the Virtual Machine is required", died=True)]
