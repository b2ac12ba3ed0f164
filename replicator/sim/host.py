"""A simulated host: it is as it is (conditions.py), and a daemon runs on it, ends, or is killed, one after another.

The daemon is the real one (service/daemon.py) on simulated parts (platform.py). Who starts and kills it, and why, is not
known here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from replicator.errors import InvariantError, ReplicatorError
from replicator.service.daemon import Daemon, Options
from replicator.service.views import Role
from replicator.sim.clocks import HostClock
from replicator.sim.conditions import Conditions
from replicator.sim.disk import SimStore
from replicator.sim.guest import SimGuest
from replicator.sim.kit import SimStandby
from replicator.sim.platform import SimPlatform
from replicator.sim.process import Process
from replicator.sim.settings import make_config
from replicator.sim.stage import Stage
from replicator.sim.tap import SimNetwork
from replicator.sim.vm import SimVm


class WatchedDaemon(Daemon):
    """The real daemon; each event and effect of its machines is shown to `watcher` before it is handled."""

    watcher: Callable[[Role, object], None]

    def _take_role(self, role: Role) -> None:
        written, watcher = role.parts.watch, self.watcher

        def watch(happening: object) -> None:
            written(happening)
            watcher(role, happening)

        role.parts.watch = watch
        super()._take_role(role)


class Host:
    """One of the two."""

    #: The daemon that runs here; tests put others in its place.
    daemon_class: type[WatchedDaemon] = WatchedDaemon

    def __init__(self, stage: Stage, name: str, peer: str, *, drift_ppm: int) -> None:
        self.stage = stage
        self.name, self.peer = name, peer
        offset_ns = stage.world.between(10**9, 10**12)
        self.conditions = Conditions(HostClock(stage.world, offset_ns=offset_ns, drift_ppm=drift_ppm))
        #: Told of each event and effect of this host's machines.
        self.watcher: Callable[[Role, object], None] = lambda _, __: None
        #: How the last daemon ended, "" while one lives or when it was killed.
        self.last_end = ""
        #: The lives of its daemons, the present or last one at the end.
        self._lives: list[SimPlatform] = []
        #: The last of them, and its process; None before the first.
        self._life: SimPlatform | None = None
        self.process: Process | None = None
        self._daemon: WatchedDaemon | None = None
        self._dies_silently = False

    # What is there at present, or was when the last daemon died.

    @property
    def role(self) -> Role | None:
        """None while the daemon starts, and before the first."""
        return self._daemon.role if self._daemon is not None else None

    @property
    def guest(self) -> SimGuest | None:
        return self._life.guest if self._life is not None else None

    @property
    def vm(self) -> SimVm | None:
        """COLO's, beside the primary's guest."""
        return self._life.vm if self._life is not None else None

    @property
    def machines(self) -> tuple[SimGuest, ...]:
        return tuple(one for one in (self.guest, self.vm) if one is not None)

    @property
    def standby(self) -> SimStandby | None:
        kit = self._life.kit if self._life is not None else None
        return kit.standby if kit is not None else None

    @property
    def network(self) -> SimNetwork | None:
        return self._life.network if self._life is not None else None

    @property
    def store(self) -> SimStore | None:
        return self._life.store if self._life is not None else None

    @property
    def alive(self) -> bool:
        process = self.process
        return process is not None and process.alive

    @property
    def process_is_stuck(self) -> bool:
        return self.process is not None and (self.process.frozen or self.process.hung)

    # Life.

    def boot(self, role: str, *, discard_replica: bool = False) -> None:
        """Start a daemon as an operator would."""
        process = Process(self.stage.world, f"{self.name}{len(self._lives) + 1}", self.conditions.clock)
        process.pool_extra_ns = lambda: self.conditions.pool_extra_ns
        process.on_death = lambda: self._mourn(process)
        life = SimPlatform(self.stage, self.name, self.conditions, process)
        self._lives.append(life)
        self._life, self.process = life, process
        self._daemon, self.last_end = None, ""
        self.stage.world.note(self.name, f"boots as {role}")
        process.schedule(0, self._begin, life, role, discard_replica)

    def _begin(self, life: SimPlatform, role: str, discard_replica: bool) -> None:
        stage = self.stage
        config = make_config(stage.settings, self.name, self.peer, stage.scratch / self.name)
        daemon = self._daemon = self.daemon_class(config, Options(discard_replica=discard_replica), life)
        daemon.watcher = self.watcher
        run = daemon.run_primary if role == "primary" else daemon.run_secondary
        life.process.loop.create_task(self._live(life.process, run))

    async def _live(self, process: Process, run: Callable[[], Any]) -> None:
        try:
            end = await run()
        except ReplicatorError as error:
            if isinstance(error, InvariantError):
                self.stage.judge.accuse("crash", f"{self.name}: {error}")
            end = f"{type(error).__name__}: {error}"
        self.last_end = end or "ended"
        self.stage.world.note(self.name, f"ends: {end}")
        process.loop.finish_jobs()
        process.die()

    def ask(self, request: dict[str, Any]) -> None:
        """What an operator asks of the daemon that lives here, by its control socket; an answer is only noted."""
        if self.process is not None and self._daemon is not None:
            self.process.schedule(0, self._let_answer, self.process, self._daemon, request)

    def _let_answer(self, process: Process, daemon: WatchedDaemon, request: dict[str, Any]) -> None:
        process.loop.create_task(self._answer(daemon, request))

    async def _answer(self, daemon: WatchedDaemon, request: dict[str, Any]) -> None:
        try:
            answer: object = await daemon.desk.answer(request)
        except ReplicatorError as error:
            answer = error
        self.stage.world.note(self.name, f"answers: {answer}")

    def _mourn(self, process: Process) -> None:
        """Its guest dies with it, its descriptors are closed, its files stay."""
        self.stage.world.note(self.name, "is dead")
        self.stage.judge.note_errors(process)
        for guest in self.machines:
            guest.machine.end()
        if self.store is not None:
            self.store.forsake()
        self.stage.network.drop_host(self.name, silently=self._dies_silently)

    def kill(self, *, silently: bool) -> None:
        """SIGKILL, or with `silently` the loss of the whole host."""
        if self.process is not None:
            self._dies_silently = silently
            self.process.die()
            self._dies_silently = False

    def bury(self) -> None:
        """At the end of the run."""
        if self.process is not None:
            self.process.alive = False
        if self.store is not None:
            self.store.forsake()
        for life in self._lives:
            life.process.loop.bury()
        for life in self._lives:
            if life.kit is not None:
                with contextlib.suppress(BufferError):
                    life.kit.close()
