"""Whether a guest is idle is asked until it is, and told once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from replicator.clock import SYSTEM_CLOCK
from replicator.service.idle_watch import IdleWatch
from replicator.units import NS_PER_MS

QUIET_NS = NS_PER_MS
PATIENCE_S = 20.0


class Watched:
    """A guest whose looks are listed; the last one is what it shows from then on."""

    def __init__(self, *shown: int | None) -> None:
        self._shown = list(shown)
        self.looks = 0
        self.told = 0
        self.was_told = asyncio.Event()
        self.watch = IdleWatch(self.look, SYSTEM_CLOCK, self.tell)

    def look(self) -> int | None:
        self.looks += 1
        return self._shown.pop(0) if len(self._shown) > 1 else self._shown[0]

    def tell(self) -> None:
        self.told += 1
        self.was_told.set()

    async def wait(self) -> None:
        await asyncio.wait_for(self.was_told.wait(), PATIENCE_S)


@pytest.mark.parametrize(
    ("shown", "looks"),
    [
        ((7,), 2),
        ((7, 8, 9, 9), 4),
        ((None, None, None, 5, 5), 5),
        ((5, None, 5), 4),
    ],
)
def test_it_is_idle_once_two_looks_show_the_same(shown: Sequence[int | None], looks: int) -> None:
    async def work() -> None:
        guest = Watched(*shown)
        guest.watch.begin(QUIET_NS)
        await guest.wait()
        assert guest.looks >= looks and guest.told == 1

    asyncio.run(work())


@pytest.mark.parametrize(("shown", "looks"), [((7, 8), 2), ((7, None, None, 9), 4)])
def test_without_a_quiet_time_a_guest_that_sleeps_is_idle(shown: Sequence[int | None], looks: int) -> None:
    async def work() -> None:
        guest = Watched(*shown)
        guest.watch.begin(0)
        await guest.wait()
        assert (guest.looks, guest.told) == (looks, 1)

    asyncio.run(work())


class Loop:
    """Stands for the event loop: what is to be called later is called when the test says so."""

    def __init__(self) -> None:
        self.delays_s: list[float] = []
        self.next: Callable[[], None] | None = None

    def call_later(self, delay_s: float, work: Callable[[], None]) -> object:
        self.delays_s.append(delay_s)
        self.next = work
        return self

    def cancel(self) -> None:
        self.next = None

    def call_next(self) -> None:
        work, self.next = self.next, None
        assert work is not None
        work()


class Clock:
    def __init__(self) -> None:
        self.now_ns = 0

    def monotonic_ns(self) -> int:
        return self.now_ns


def test_a_guest_that_is_busy_for_long_is_looked_at_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, clock = Loop(), Clock()
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: loop)
    watch = IdleWatch(lambda: None, clock, lambda: pytest.fail("it is busy"))  # type: ignore[arg-type]
    watch.begin(QUIET_NS)
    while clock.now_ns < 100 * NS_PER_MS:
        clock.now_ns += int(loop.delays_s[-1] * 1e9)
        loop.call_next()
    assert len(loop.delays_s) < 35
    assert max(loop.delays_s) <= 0.1 / 8 * 1.2


def test_a_watch_that_was_ended_or_begun_anew_tells_once_and_looks_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop, clock, told = Loop(), Clock(), []
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: loop)
    watch = IdleWatch(lambda: 7, clock, lambda: told.append(clock.now_ns))  # type: ignore[arg-type]
    watch.begin(QUIET_NS)
    watch.end()
    watch.end()
    assert loop.next is None
    watch.begin(2 * QUIET_NS)
    watch.begin(QUIET_NS)
    clock.now_ns += QUIET_NS
    loop.call_next()
    assert told == [QUIET_NS]
    assert loop.next is None, "it was told, and that is all"
