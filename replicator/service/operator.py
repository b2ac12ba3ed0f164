"""The operator's word: `status`, `promote`, `stop`, `tune` and `switchover`, what each does in which state, and why not in others.

What drills ask for (`drill_desk.py`) comes in by the same door.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from replicator.arbiter.base import Arbiter
from replicator.arbiter.solo import SoloArbiter
from replicator.engine import events as ev
from replicator.engine.guest_clock import ClockPolicy
from replicator.engine.primary import Bar, Life, Link
from replicator.engine.secondary import Life as StandbyLife
from replicator.errors import ArbiterError, ConfigError, FenceError, GuestError, ReplicatorError
from replicator.observe.status import Status
from replicator.service.config_rules import choose
from replicator.service.control import Answer
from replicator.service.drill_desk import DrillDesk
from replicator.service.primary_role import PrimaryRole
from replicator.service.secondary_role import SecondaryRole
from replicator.service.switchover_desk import SwitchoverDesk
from replicator.service.tuning import describe, make_order
from replicator.service.views import Role

_LOG = logging.getLogger(__name__)

STOPPED = "stopped by the operator"
ALONE_SAID = "output is released; the secondary must stay off"
TAKE_BACK_SAID = "the guest is taken back if nobody runs it; `replicator status` says whether it was"


class OperatorDesk:
    """Answers requests of the control socket, and signals, about whatever role the daemon has at that moment."""

    def __init__(
        self,
        arbiter: Arbiter,
        *,
        has_arbiter: bool,
        find_role: Callable[[], Role | None],
        show: Callable[[], Status],
        order_clock: Callable[[ClockPolicy], None],
        drills: DrillDesk,
    ) -> None:
        self._arbiter = arbiter
        self._has_arbiter = has_arbiter
        self._find_role = find_role
        self._show = show
        self._order_clock = order_clock
        #: A stop that came before there was a role, and whether it shuts the guest down.
        self._early_stop: bool | None = None
        self._commands: dict[object, Callable[[dict[str, Any]], Awaitable[Answer]]] = {
            "status": self._answer_status,
            "promote": self._answer_promote,
            "stop": self._answer_stop,
            "tune": self._answer_tune,
            "switchover": SwitchoverDesk(find_role).answer,
            "copy": drills.copy,
            "pace": drills.pace,
            "pids": drills.pids,
        }

    async def answer(self, request: dict[str, Any]) -> Answer:
        """ConfigError for an unknown command, else the errors of the command."""
        command = request.get("command")
        answer = self._commands.get(command) if isinstance(command, str) else None
        if answer is None:
            raise ConfigError(
                f"unknown command {command!r}", hint=f"known are {', '.join(map(str, self._commands))}"
            )
        return await answer(request)

    async def _answer_status(self, _: dict[str, Any]) -> Answer:
        return self._show().to_map()

    async def _answer_promote(self, request: dict[str, Any]) -> Answer:
        if request.get("clock"):
            self._order_clock(choose(ClockPolicy, "clock", request["clock"]))
        return {"said": await self._promote(force=bool(request.get("force")))}

    async def _answer_stop(self, request: dict[str, Any]) -> Answer:
        return {"said": await self._stop(shut_down=request.get("guest") != "run")}

    async def _answer_tune(self, request: dict[str, Any]) -> Answer:
        role = self._find_role()
        if not isinstance(role, PrimaryRole):
            raise FenceError(
                "the pace is the primary's, and this side does not run the guest",
                hint="run `replicator tune` on the host that `replicator status` calls primary",
            )
        pipeline = role.machine.pipeline
        role.post(make_order(request, pipeline.settings, pipeline.measures))
        return {"in_force": describe(pipeline.settings)}

    async def stop(self) -> None:
        """What SIGTERM does: the pair ends, the guest is shut down."""
        try:
            await self._stop(shut_down=True)
        except ReplicatorError as error:
            _LOG.warning("stop: %s", error)

    async def _promote(self, *, force: bool) -> str:
        role = self._find_role()
        if isinstance(role, PrimaryRole):
            return let_primary_go_alone(role, has_arbiter=self._has_arbiter)
        if isinstance(role, SecondaryRole):
            return await promote_secondary(role, self._arbiter, force=force)
        raise FenceError("this side is still starting", hint="`replicator status` says when it is ready")

    async def _stop(self, *, shut_down: bool) -> str:
        role = self._find_role()
        if isinstance(role, PrimaryRole) and not role.has_moved:
            role.post(ev.StopOrdered(shut_down))
            return "the secondary stands down, the guest " + ("shuts down" if shut_down else "runs on")
        if isinstance(role, SecondaryRole):
            await role.handle(ev.StoodDown(STOPPED))
            role.end(STOPPED)
        else:
            self._early_stop = shut_down
            return "it stops as soon as it has started"
        return "stopped"

    async def obey_early_stop(self) -> None:
        """Carry out a stop that was ordered while the daemon started. To be called once the role is at work."""
        if self._early_stop is not None:
            await self._stop(shut_down=self._early_stop)


def let_primary_go_alone(role: PrimaryRole, *, has_arbiter: bool) -> str:
    """A primary that holds its output for a lost secondary goes on without it. FenceError where it may not."""
    machine = role.machine
    if role.is_handing_over:
        role.post(ev.TakeBackOrdered())
        return TAKE_BACK_SAID
    if machine.life is not Life.RUNNING:
        raise FenceError(f"this side is {machine.life.value}: {machine.trouble or 'its part is over'}")
    if machine.bar is Bar.BARRED:
        raise FenceError(
            "the guest runs here already, and its output leaves",
            hint="start `replicator secondary` on the other host to have it protected",
        )
    if machine.link is Link.READY:
        raise FenceError(
            "the guest runs here already, and is protected", hint="`promote` is for the other side"
        )
    if has_arbiter:
        raise FenceError(
            f"only the arbiter lets this side go on alone: {machine.trouble or 'it is being asked'}",
            hint="it does so by itself; see that this host reaches the [arbiter] url of its configuration",
        )
    role.post(ev.AloneGranted())
    return ALONE_SAID


async def promote_secondary(role: SecondaryRole, arbiter: Arbiter, *, force: bool) -> str:
    """Run the guest here. FenceError while the other side may run it, ArbiterError or GuestError when it failed."""
    machine = role.machine
    epoch = machine.committed
    if not epoch:
        raise FenceError(
            f"there is no whole replica to promote: {machine.trouble or 'no epoch was committed yet'}",
            hint="a primary must have synchronised this side; `replicator status` says how far it is",
        )
    if machine.life in (StandbyLife.PROMOTING, StandbyLife.PROMOTED):
        raise FenceError("this side is taking the guest over already", hint="see `replicator status`")
    if machine.primary_alive and not force:
        raise FenceError("the primary is alive", hint="stop its host first; --force if you are sure")
    if isinstance(arbiter, SoloArbiter):
        arbiter.term_floor = machine.term
    else:
        await _refuse_live_lease(arbiter)
    await role.handle(ev.PromoteOrdered(force))
    if machine.life is StandbyLife.FAILED:
        raise GuestError(f"the take-over failed: {machine.trouble}")
    if machine.life not in (StandbyLife.PROMOTING, StandbyLife.PROMOTED):
        raise ArbiterError(f"not promoted: {machine.trouble}", hint="order it again when that is settled")
    return f"promoted from epoch {epoch}; what the guest did after it and nobody saw is lost"


async def _refuse_live_lease(arbiter: Arbiter) -> None:
    """Not even an operator takes a live lease; asking for it would only disturb a pair that works."""
    record = await asyncio.to_thread(arbiter.read)
    if record is not None and record.live:
        raise FenceError(
            f"{record.holder} runs the guest: it holds term {record.term} with a live lease",
            hint=f"stop it, or wait {arbiter.ttl_ms} ms after its host's death; until then nobody may take over",
        )
