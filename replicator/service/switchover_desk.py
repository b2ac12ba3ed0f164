"""The operator's order to move the guest to the other side: when it may be given, and how it went.

What a switchover does is engine/switchover.py's and engine/hand_over.py's; this file reads the bounds of the order and
refuses what cannot be, before the guest is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from replicator.engine.precopy import DowntimePolicy, OnBusy
from replicator.errors import FenceError
from replicator.service.config_rules import TUNABLE_BOUNDS, check_bound, choose
from replicator.service.control import Answer
from replicator.service.primary_role import PrimaryRole
from replicator.service.secondary_role import SecondaryRole
from replicator.service.views import Role, word_of
from replicator.units import NS_PER_MS, NS_PER_S

_UNITS = {
    "max_downtime_ms": ("max_downtime_ns", NS_PER_MS),
    "max_iterations": ("max_iterations", 1),
    "min_remaining_pages": ("min_remaining_pages", 1),
    "max_time_s": ("max_time_ns", NS_PER_S),
}
#: Of an order that names nothing. Every page counts: what is promised is the whole time in which the guest stands still.
DEFAULT_POLICY = DowntimePolicy(
    max_iterations=30, min_remaining_pages=0, max_time_ns=60 * NS_PER_S, on_busy=OnBusy.ABORT
)


class SwitchoverDesk:
    """`find_role` gives what the daemon does at that moment."""

    def __init__(self, find_role: Callable[[], Role | None]) -> None:
        self._find_role = find_role

    async def answer(self, request: dict[str, Any]) -> Answer:
        """The report of a move, made or not. FenceError where none can be made, ConfigError for bounds that cannot be."""
        role = require_movable(self._find_role())
        policy = read_policy(request)
        policy.check_against(role.machine.stretch.rates.fixed_ns)
        return {"report": (await role.switch_over(policy)).to_map()}


def require_movable(role: Role | None) -> PrimaryRole:
    if isinstance(role, SecondaryRole):
        raise FenceError(
            "the guest does not run here: this side waits for it",
            hint="run `replicator switchover` on the other host, the primary's",
        )
    if role is None or role.has_moved:
        raise FenceError("this side is between two roles", hint="`replicator status` says when it is ready")
    if role.machine.move.is_under_way:
        raise FenceError("a switchover is under way already", hint="`replicator status` says how far it is")
    if not role.machine.is_movable:
        raise FenceError(
            f"the guest has no replica that could go on with it: {word_of(role, '')}",
            hint="a switchover needs a pair that is protected; `replicator status` says what is missing",
        )
    return role


def read_policy(request: Mapping[str, Any]) -> DowntimePolicy:
    """The bounds of an order: `DEFAULT_POLICY` where it says nothing. ConfigError names the one that cannot be."""
    values = {field: getattr(DEFAULT_POLICY, field) for field, _ in _UNITS.values()}
    for key, (field, unit) in _UNITS.items():
        if (value := request.get(key)) is not None:
            check_bound(key, value, *TUNABLE_BOUNDS[key])
            values[field] = value * unit
    on_busy = request.get("on_busy") or DEFAULT_POLICY.on_busy.value
    return DowntimePolicy(**values, on_busy=choose(OnBusy, "on_busy", on_busy))
