"""What a primary asks of the arbiter: to go alone, to have the bar lifted, to stand down, to hand over and to have that
undone. Each answer becomes an event.

Renewing the lease is the keeper's (arbiter/keeper.py). Nothing here knows why something is asked.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial

from replicator.arbiter.base import Lease
from replicator.engine import effects as fx
from replicator.engine import events as ev
from replicator.errors import ArbiterError, LeaseLost
from replicator.service.primary_parts import Post, PrimaryParts


class ArbiterRequests:
    """One request at a time; a call returns when its answer was posted."""

    def __init__(self, parts: PrimaryParts, post: Post) -> None:
        self._parts = parts
        self._post = post
        #: Held for each request: a bar that was to be lifted may not be so after a grant to go alone.
        self._asking = asyncio.Lock()

    async def go_alone(self) -> None:
        await self._ask(lambda: self._parts.arbiter.go_alone(self._parts.keeper.lease), ev.AloneGranted())

    async def lift_bar(self, effect: fx.LiftBar) -> None:
        node, session = self._parts.secondary_node, effect.session.hex()
        lease = self._parts.keeper.lease
        lift = self._parts.arbiter.lift_bar
        await self._ask(lambda: lift(lease, node, session, epoch=effect.epoch), ev.BarLifted())

    async def stand_down(self, *, hand_over: bool) -> None:
        """With `hand_over` the lease is given back for the secondary to take, else the replica is barred."""
        lease, arbiter = self._parts.keeper.lease, self._parts.arbiter
        if hand_over:
            self._parts.keeper.stop()
            await self._ask(lambda: arbiter.release(lease, hand_over=True), ev.StandDownSettled())
        else:
            await self._ask(lambda: arbiter.go_alone(lease), ev.StandDownSettled())

    async def settle(self) -> None:
        """Returns once what was asked before is answered, within the arbiter's own bounds and those of a lease."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._parts.arbiter.ttl_ms / 1000):
                async with self._asking:
                    pass

    async def hand_over(self) -> None:
        """Mute from before the transaction on, whatever becomes of it."""
        lease, release = self._parts.keeper.lease, self._parts.arbiter.release
        self._parts.deadline.deadline_ns = 0
        await asyncio.to_thread(self._parts.keeper.stop)
        await self._ask(lambda: release(lease, hand_over=True), ev.HandOverRecorded())

    async def take_back(self, effect: fx.TakeBack, is_over: Callable[[], bool]) -> None:
        """With the new lease the guest may run and speak again. `is_over`: nobody wants it any more."""
        lease, arbiter = self._parts.keeper.lease, self._parts.arbiter
        try:
            async with self._asking:
                back = await asyncio.to_thread(self._ask_back, lease, effect)
        except LeaseLost as error:
            self._post(ev.TakeBackRefused(str(error)))
        except ArbiterError as error:
            self._post(ev.ArbiterFailed(str(error)))
        else:
            if is_over():
                await asyncio.to_thread(partial(arbiter.release, back, hand_over=True))
                return
            self._parts.keeper = self._parts.keep_lease(back)
            self._post(ev.GuestTakenBack(back.term == lease.term, back.term))

    def _ask_back(self, lease: Lease, effect: fx.TakeBack) -> Lease:
        arbiter = self._parts.arbiter
        if effect.force:
            return arbiter.force_take_over(lease.holder)
        return arbiter.take_back(lease, effect.session.hex(), effect.epoch)

    async def _ask(self, request: Callable[[], None], done: ev.Event) -> None:
        try:
            async with self._asking:
                await asyncio.to_thread(request)
        except LeaseLost as error:
            self._post(ev.LeaseTaken(str(error)))
        except ArbiterError as error:
            self._post(ev.ArbiterFailed(str(error)))
        else:
            self._post(done)
