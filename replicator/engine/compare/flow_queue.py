"""Flows in the order of the turn since which they are queued."""

from __future__ import annotations

from replicator.engine.compare.flow import Flow


class FlowQueue:
    def __init__(self) -> None:
        self._since: dict[Flow, int] = {}

    def __len__(self) -> int:
        return len(self._since)

    def join(self, flow: Flow, turn: int) -> None:
        """Since `turn`, unless it is queued already."""
        self._since.setdefault(flow, turn)

    def leave(self, flow: Flow) -> int:
        """The turn since which it was queued, 0 if it was not."""
        return self._since.pop(flow, 0)

    def in_order(self) -> list[tuple[Flow, int]]:
        """With their turns. Nearly in order already: one that was elsewhere comes in between."""
        return sorted(self._since.items(), key=lambda queued: queued[1])

    def clear(self) -> None:
        self._since.clear()
