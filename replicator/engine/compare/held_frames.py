"""Frames of the primary that have not left: by number, in their order. What they contain is with whoever holds them."""

from __future__ import annotations

from typing import NamedTuple

from replicator.engine.compare.events import PrimarySaid
from replicator.engine.compare.packet import Kind
from replicator.engine.output import FRAME_OVERHEAD_BYTES
from replicator.units import Epoch


class Held(NamedTuple):
    epoch: Epoch
    kind: Kind
    size: int
    at_ns: int


class HeldFrames:
    def __init__(self) -> None:
        self._frames: dict[int, Held] = {}
        self.bytes = 0
        #: Of the bound.
        self.cost = 0

    def __len__(self) -> int:
        return len(self._frames)

    def __contains__(self, frame_id: int) -> bool:
        return frame_id in self._frames

    def add(self, event: PrimarySaid, kind: Kind, now_ns: int) -> None:
        size = len(event.frame)
        self._frames[event.frame_id] = Held(event.epoch, kind, size, now_ns)
        self.bytes += size
        self.cost += size + FRAME_OVERHEAD_BYTES

    def remove(self, frame_id: int) -> Held:
        held = self._frames.pop(frame_id)
        self.bytes -= held.size
        self.cost -= held.size + FRAME_OVERHEAD_BYTES
        return held

    def upto(self, epoch: Epoch) -> tuple[int, ...]:
        """Those that were said in it or before."""
        return tuple(frame_id for frame_id, held in self._frames.items() if held.epoch <= epoch)
