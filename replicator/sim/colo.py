"""What a simulated host has for COLO: its relays' channel over the simulated network, and the VM that its kit makes."""

from __future__ import annotations

from pathlib import Path

from replicator.memory.pages import GuestLayout
from replicator.output.base import OutputPort
from replicator.output.colo_base import SecondaryPort
from replicator.output.frame_channel import FrameChannel
from replicator.service.colo_wiring import StandBy
from replicator.service.primary_parts import ColoParts
from replicator.service.vm_desk import VmParts
from replicator.sim.colo_tap import ColoPumped
from replicator.sim.frame_line import FrameEnd
from replicator.sim.kit import SimKit
from replicator.sim.process import Process
from replicator.sim.stage import Stage
from replicator.store import ReplicaStore
from replicator.wire.session import NO_SESSION


class SimColo:
    """Implements service.colo_wiring.Colo for one process on `host`."""

    def __init__(self, process: Process, stage: Stage, host: str, peer: str, kit: SimKit) -> None:
        self._process = process
        self._stage = stage
        self._host, self._peer = host, peer
        self._kit = kit

    def primary_parts(self, relay: OutputPort) -> ColoParts | None:
        if not isinstance(relay, ColoPumped):
            return None
        return ColoParts(relay, self._dial, self._draw_name)

    def _draw_name(self) -> bytes:
        return self._stage.world.draw_secret(len(NO_SESSION))

    def _dial(self, frames: bytes) -> FrameChannel:
        end = FrameEnd(self._process, self._host, frames, is_primary=True)
        self._stage.frames.dial(end, self._peer)
        return end

    def _listen(self, frames: bytes) -> FrameChannel:
        end = FrameEnd(self._process, self._host, frames, is_primary=False)
        self._stage.frames.listen(end)
        return end

    def secondary_parts(
        self, store: ReplicaStore, layout: GuestLayout, run_dir: Path, stand_by: StandBy
    ) -> VmParts:
        def make_relay() -> SecondaryPort:
            return stand_by(self._kit.nics(run_dir))

        return VmParts(
            store, layout, self._kit.make_vm_starter(store.ram_path, run_dir), make_relay, self._listen
        )
