"""From the configuration to what COLO needs beside the other parts of a daemon: relays, their channel, the VM."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from replicator.guests.base import NicEndpoint
from replicator.link.base import LinkConfig, PeerAddress
from replicator.link.frame_channel import FrameDialler, FrameListener
from replicator.memory.pages import GuestLayout
from replicator.output.base import OutputPort
from replicator.output.colo_base import SecondaryPort
from replicator.output.colo_relay import ColoThread
from replicator.output.frame_channel import FrameChannel
from replicator.service.config import DaemonConfig
from replicator.service.guest_kit import ColoKit
from replicator.service.primary_parts import ColoParts
from replicator.service.vm_desk import VmParts
from replicator.store import ReplicaStore
from replicator.wire.session import NO_SESSION

#: Makes the relay of a VM with these NICs.
StandBy = Callable[[Sequence[NicEndpoint]], SecondaryPort]
#: Of the port of frames, from the first one of a side.
FRAMES_PORT = 3


class Colo(Protocol):
    """What a platform has for pairs whose guests both run."""

    def primary_parts(self, relay: OutputPort) -> ColoParts | None:
        """None when this side does Remus as a primary."""
        ...

    def secondary_parts(
        self, store: ReplicaStore, layout: GuestLayout, run_dir: Path, stand_by: StandBy
    ) -> VmParts:
        """The VM has `run_dir` for itself."""
        ...


class HostColo:
    """On the host that this process runs on."""

    def __init__(self, config: DaemonConfig, kit: ColoKit, link: LinkConfig, peer: PeerAddress) -> None:
        self._config = config
        self._kit = kit
        self._link = link
        self._peer = peer

    def primary_parts(self, relay: OutputPort) -> ColoParts | None:
        if not self._config.is_colo or not isinstance(relay, ColoThread):
            return None
        return ColoParts(relay, self._dial, draw_name)

    def _dial(self, frames: bytes) -> FrameChannel:
        peer = self._peer
        port = self._config.peer.port + FRAMES_PORT
        return FrameDialler(self._link, frames, host=peer.host, port=port, public_key=peer.public_key)

    def secondary_parts(
        self, store: ReplicaStore, layout: GuestLayout, run_dir: Path, stand_by: StandBy
    ) -> VmParts:
        def make_relay() -> SecondaryPort:
            run_dir.mkdir(mode=0o700, exist_ok=True)
            return stand_by(self._kit.nics(run_dir))

        starter = self._kit.make_vm_starter(store.ram_path, run_dir)
        return VmParts(store, layout, starter, make_relay, self._listen)

    def _listen(self, frames: bytes) -> FrameChannel:
        return FrameListener(self._link, frames, port=self._config.listen.port + FRAMES_PORT)


def draw_name() -> bytes:
    """16 random bytes."""
    return secrets.token_bytes(len(NO_SESSION))
