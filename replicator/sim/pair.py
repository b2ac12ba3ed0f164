"""The two hosts of a run and what is around them: what there is for faults, clients, the operator and the checks.

It does nothing by itself; the course of a run is simulation.py's.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from replicator.sim.host import Host
from replicator.sim.network import Weather
from replicator.sim.settings import Settings
from replicator.sim.stage import HOSTS, Stage
from replicator.sim.world import World

SCRATCH_ROOT = Path("/dev/shm")
PREFIX = "replicator-sim-"


class Pair:
    """`bury` it after use."""

    def __init__(self, seed: int, settings: Settings) -> None:
        self.world = World(seed)
        self.stage = Stage(
            self.world, settings, Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=SCRATCH_ROOT))
        )
        self.hosts = {
            name: Host(self.stage, name, peer, drift_ppm=self.world.between(-5_000, 5_000))
            for name, peer in zip(HOSTS, reversed(HOSTS), strict=True)
        }
        #: Frames that a client sends at once.
        self.frames_a_request = 1

    def weather(self, speaker: str) -> Weather:
        """Of the way from this host to the other one."""
        return self.stage.network.weather[speaker, self.hosts[speaker].peer]

    def kill(self, host: str, *, silently: bool) -> None:
        self.hosts[host].kill(silently=silently)

    def bury(self) -> None:
        """At the end of the run: nothing is left, neither in memory nor on the disk."""
        self.world.over = True
        for host in self.hosts.values():
            host.bury()
        self.stage.judge.forget()
        self.world.forget()
        shutil.rmtree(self.stage.scratch, ignore_errors=True)


def remove_leftovers() -> None:
    """Folders of runs that were killed."""
    for path in SCRATCH_ROOT.glob(f"{PREFIX}*"):
        pid = path.name.removeprefix(PREFIX).partition("-")[0]
        if pid.isdigit() and not Path("/proc", pid).exists():
            shutil.rmtree(path, ignore_errors=True)
