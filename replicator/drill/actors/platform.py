"""The real parts of a daemon, with places in them where it can be stopped: the link, the store, and the guest's start.

What is done is what the real parts do. Phases that are steps of a role's own are in daemon.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from replicator.demo.golden import load_golden, start_from_golden
from replicator.demo.no_hold import LeakyRelay
from replicator.drill.actors.stop_point import StopPoint
from replicator.drill.matrix.phases import Phase
from replicator.errors import GuestError
from replicator.guests.base import Guest
from replicator.guests.qemu_config import QemuGuestConfig
from replicator.link.base import Link, LinkConfig
from replicator.link.zeromq import ZmqLink
from replicator.memory.pages import GuestLayout
from replicator.output.native_relay import NativeRelay
from replicator.service.config import DaemonConfig
from replicator.service.guest_kit import GuestKit
from replicator.service.platform import HostPlatform
from replicator.service.qemu_kit import QemuKit
from replicator.store import ReplicaStore
from replicator.wire.session import EpochEnd, Message


class GoldenKit(QemuKit):
    """A guest that does not boot: it goes on from its golden state (demo/golden.py)."""

    def __init__(self, config: QemuGuestConfig, folder: Path) -> None:
        super().__init__(config)
        self._folder = folder

    async def start(self, ram_path: Path, run_dir: Path) -> Guest:
        golden = load_golden(self._folder, self.config)
        if golden is None:
            raise GuestError(f"there is no golden guest in {self._folder}")
        return await start_from_golden(golden, ram_path, run_dir)


class StoppingLink(ZmqLink):
    """Stops before and after the end of an epoch is sent."""

    def __init__(self, config: LinkConfig, stop: StopPoint) -> None:
        super().__init__(config)
        self._stop = stop

    async def send_bulk(self, header: Message, payload: memoryview | bytes | None = None) -> None:
        if not isinstance(header, EpochEnd):
            await super().send_bulk(header, payload)
            return
        self._stop.reach(Phase.SENDING)
        await super().send_bulk(header, payload)
        self._stop.reach(Phase.AWAITING)


class StoppingStore(ReplicaStore):
    """Stops while a committed epoch's pages go into the RAM file."""

    def __init__(self, stop: StopPoint, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._stop = stop
        self._applying = False

    def finish(self, parts: int, bytes: int, digest: bytes) -> Any:
        ram, scatter = self.ram, self.ram.scatter

        def scatter_and_stop(pfns: Any, data: Any) -> None:
            scatter(pfns, data)
            self._stop.reach(Phase.APPLYING)

        ram.scatter = scatter_and_stop  # type: ignore[method-assign]
        try:
            return super().finish(parts, bytes, digest)
        finally:
            ram.scatter = scatter  # type: ignore[method-assign]


class ActorPlatform(HostPlatform):
    """`golden` is the folder of a golden QEMU guest; `leaky` lets output leave unheld, which a drill must find."""

    def __init__(self, stop: StopPoint, golden: Path | None, *, leaky: bool) -> None:
        super().__init__(make_relay=LeakyRelay if leaky else NativeRelay)
        self._stop = stop
        self._golden = golden

    def make_kit(self, config: DaemonConfig) -> GuestKit:
        kit = super().make_kit(config)
        if self._golden is not None and isinstance(kit, QemuKit):
            return GoldenKit(kit.config, self._golden)
        return kit

    def make_link(self, config: LinkConfig) -> Link:
        return StoppingLink(config, self._stop)

    def make_store(
        self, directory: Path, ram_bytes: int, layout: GuestLayout, staging_bytes: int
    ) -> ReplicaStore:
        return StoppingStore(self._stop, directory, ram_bytes, layout, staging_bytes)
