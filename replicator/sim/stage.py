"""What the hosts of a simulated pair share: the world, the replication network, the arbiter's server, and the judge."""

from __future__ import annotations

from pathlib import Path

from replicator.sim.arbiter import ArbiterServer
from replicator.sim.frame_line import FrameExchange
from replicator.sim.judge import Judge
from replicator.sim.network import Network
from replicator.sim.sealing import SealingAudit
from replicator.sim.settings import Settings
from replicator.sim.world import World

HOSTS = ("a", "b")


class Stage:
    """For one run; `scratch` is where the hosts have their files."""

    def __init__(self, world: World, settings: Settings, scratch: Path) -> None:
        self.world = world
        self.settings = settings
        self.scratch = scratch
        self.server = ArbiterServer(world, settings.ttl_ms)
        self.judge = Judge(world, self.server)
        self.network = Network(world, HOSTS, SealingAudit(self.judge.accuse), sealed=settings.sealed)
        self.frames = FrameExchange(self.network)
        self._lineages = 0

    def next_lineage(self) -> int:
        self._lineages += 1
        return self._lineages
