"""The operator's switchovers in a simulated pair: ordered at drawn times, whatever state the pair is in just then.

Who orders sees only which side has the guest. Whether the order is obeyed, refused, or ends half-way for a fault is the
daemon's business, and what may not come of it the judge's.
"""

from __future__ import annotations

from typing import Any

from replicator.engine.precopy import OnBusy
from replicator.service.primary_role import PrimaryRole
from replicator.sim.pair import Pair
from replicator.units import NS_PER_MS

FIRST_NS, LAST_NS = 150 * NS_PER_MS, 2_300 * NS_PER_MS
#: Some that are never kept, some that seldom are, some that always are.
DOWNTIMES_MS = (70, 110, 300)


class Mover:
    """Orders `switchovers` of them."""

    def __init__(self, pair: Pair, switchovers: int) -> None:
        self._pair = pair
        self._world = pair.world
        self._switchovers = switchovers

    def start(self) -> None:
        for _ in range(self._switchovers):
            self._world.at(self._world.between(FIRST_NS, LAST_NS), self._order)

    def _order(self) -> None:
        for host in self._pair.hosts.values():
            if host.alive and not host.process_is_stuck and isinstance(host.role, PrimaryRole):
                request = self._draw()
                self._world.note("operator", f"orders a switchover on {host.name}: {request}")
                host.ask(request)

    def _draw(self) -> dict[str, Any]:
        world = self._world
        choices = list(OnBusy)
        return {
            "command": "switchover",
            "max_downtime_ms": DOWNTIMES_MS[world.between(0, len(DOWNTIMES_MS) - 1)],
            "max_iterations": 6,
            "max_time_s": 1,
            "on_busy": choices[world.between(0, len(choices) - 1)].value,
        }
