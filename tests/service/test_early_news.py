"""A primary hears what befell its lease and its network before it was there."""

from __future__ import annotations

import asyncio
import threading
from typing import cast

from replicator.engine import events as ev
from replicator.service.early_news import EarlyNews
from replicator.service.primary_role import PrimaryRole

LAPSED, REGAINED = ev.LeaseLapsed("the lease ran out"), ev.LeaseRegained()


class _Role:
    """What of a primary's role hears news."""

    def __init__(self) -> None:
        self.heard: list[ev.Event] = []

    def post(self, event: ev.Event) -> None:
        self.heard.append(event)


async def _report(news: EarlyNews, *events: ev.LeaseLapsed | ev.LeaseRegained) -> None:
    """From another thread, as a keeper does; returns when the loop has heard."""
    for event in events:
        thread = threading.Thread(target=news.report, args=(event,))
        thread.start()
        await asyncio.to_thread(thread.join)
    await asyncio.sleep(0)


def test_what_came_before_the_primary_is_told_in_order_and_once() -> None:
    role = _Role()

    async def run() -> None:
        news = EarlyNews()
        await _report(news, LAPSED, REGAINED)
        assert role.heard == []
        news.tell(cast(PrimaryRole, role))
        assert role.heard == [LAPSED, REGAINED]
        await _report(news, LAPSED)

    asyncio.run(run())
    assert role.heard == [LAPSED, REGAINED, LAPSED]


def test_a_report_after_the_loop_has_ended_is_nobody_s() -> None:
    async def make() -> EarlyNews:
        return EarlyNews()

    asyncio.run(make()).report(LAPSED)
