"""One simulated run: two hosts, an operator who restarts what has ended, clients, a plan of faults, and the verdict."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from replicator.engine.events import Event
from replicator.engine.primary import PrimaryMachine
from replicator.engine.secondary import SecondaryMachine
from replicator.observe.status import Progress, word_for_primary, word_for_secondary
from replicator.service.primary_role import PrimaryRole
from replicator.service.secondary_role import SecondaryRole
from replicator.service.views import Role
from replicator.sim.faults import Fault
from replicator.sim.host import Host, Settings, Stage
from replicator.sim.judge import Violation
from replicator.sim.machine import Workload
from replicator.sim.network import Weather
from replicator.sim.world import World
from replicator.units import NS_PER_MS

SCRATCH_ROOT = Path("/dev/shm")
#: Committed epochs that a run has at least.
EPOCHS_MIN = 200
#: C7: within this time after the last fault the pair is protected again.
SETTLE_NS = 12_000 * NS_PER_MS
#: Epochs committed since the pair looked protected, before a run may end.
CALM_EPOCHS = 5
SAMPLE_NS = 4 * NS_PER_MS
REQUEST_NS = (2 * NS_PER_MS, 9 * NS_PER_MS)
RESTART_NS = (20 * NS_PER_MS, 400 * NS_PER_MS)
OPERATOR_NS = 250 * NS_PER_MS
#: Without any guest for so long, the operator starts it anew.
NO_GUEST_NS = 1_500 * NS_PER_MS
#: A status may be wrong for as long as it takes to notice: silence, an ack that is overdue, and some work.
NOTICE_NS = 900 * NS_PER_MS
#: Who is alone lets out what waits, as soon as the relay's thread has its turn.
MUTE_NS = 150 * NS_PER_MS


@dataclass(frozen=True, slots=True)
class Result:
    """Of one run. `epochs` were committed; `coverage` counts (state, event)."""

    seed: int
    plan: tuple[Fault, ...]
    violation: Violation | None
    epochs: int
    frames: int
    virtual_ns: int
    take_overs: int
    trace: tuple[str, ...] = ()
    coverage: Counter[tuple[str, str]] = field(default_factory=Counter)


def draw_settings(seed: int) -> Settings:
    rng = random.Random(f"settings {seed}")
    workload = Workload(
        pages=rng.choice((12, 32, 48)),
        burst_ns=(500_000, rng.choice((3, 6, 12)) * NS_PER_MS),
        pages_a_burst=rng.choice((1, 4, 9)),
        frames_a_burst=rng.choice((0, 1, 3)),
        storm=rng.choice((0.0, 0.005, 0.03)),
    )
    return Settings(
        interval_ms=rng.choice((5, 8, 12)),
        in_flight=rng.choice((1, 2, 2)),
        staging_pages=rng.choice((8, 16, 60)),
        batch_pages=rng.choice((2, 5, 40)),
        hold_bytes_max=rng.choice((4096, 16384, 1 << 20)),
        workload=workload,
    )


class Pair:
    """`run` once."""

    host_class: type[Host] = Host

    def __init__(self, seed: int, plan: list[Fault], settings: Settings) -> None:
        self.seed = seed
        self.plan = plan
        self.world = World(seed)
        self.scratch = Path(tempfile.mkdtemp(prefix="replicator-sim-", dir=SCRATCH_ROOT))
        self.stage: Stage = Stage(self.world, settings, self.scratch)
        self.hosts: dict[str, Host] = {
            name: self.host_class(self.stage, name, peer, drift_ppm=self.world.between(-5_000, 5_000))
            for name, peer in (("a", "b"), ("b", "a"))
        }
        for name, host in self.hosts.items():
            host.watcher = partial(self._watch, name)
        #: Frames that a client sends at once.
        self.frames_a_request = 1
        self.coverage: Counter[tuple[str, str]] = Counter()
        self._guest_seen_ns = 0
        self._restarting: set[str] = set()
        #: When a host last was good for a take-over.
        self._of_use_ns: dict[str, int] = {}
        #: Since when it has said that it is alone.
        self._alone_since_ns: dict[str, int] = {}
        self._calm_since: int | None = None
        self._calm_commits = 0

    def weather(self, speaker: str) -> Weather:
        return self.stage.network.weather[speaker, self.hosts[speaker].peer]

    def kill(self, host: str, *, silently: bool) -> None:
        self.hosts[host].kill(silently=silently)

    # The run.

    def run(self) -> Result:
        try:
            return self._run()
        finally:
            self.world.over = True
            for host in self.hosts.values():
                host.bury()
            shutil.rmtree(self.scratch, ignore_errors=True)

    def _run(self) -> Result:
        self._plan_everything()
        judge, world = self.stage.judge, self.world
        faults_over_ns = self._faults_over_ns()
        deadline_ns = faults_over_ns + SETTLE_NS
        while judge.violation is None:
            world.step()
            if world.now_ns > faults_over_ns and self._has_settled():
                break
            if world.now_ns > deadline_ns:
                judge.accuse(
                    "C7", f"not protected {SETTLE_NS // NS_PER_MS} ms after the faults: {self.words()}"
                )
        for host in self.hosts.values():
            if host.process is not None:
                judge.note_errors(host.process)
        violation = judge.violation
        return Result(
            self.seed,
            tuple(self.plan),
            violation,
            judge.commits,
            judge.frames_left,
            world.now_ns,
            judge.take_overs,
            tuple(world.read_trace()) if violation else (),
            self.coverage,
        )

    def _plan_everything(self) -> None:
        world = self.world
        first, second = ("a", "b") if world.chance(0.5) else ("b", "a")
        self.hosts[first].boot("primary")
        world.after(world.between(0, 150 * NS_PER_MS), self._boot_second, second)
        for fault in self.plan:
            world.at(fault.at_ms * NS_PER_MS, self._begin, fault)
            world.at((fault.at_ms + fault.for_ms) * NS_PER_MS, self._end, fault)
        world.after(SAMPLE_NS, self._sample)
        world.after(OPERATOR_NS, self._look_after)
        world.after(0, self._request)

    def _boot_second(self, name: str) -> None:
        if not self.hosts[name].alive and name not in self._restarting:
            self.hosts[name].boot("secondary")

    def _faults_over_ns(self) -> int:
        return max((fault.at_ms + fault.for_ms for fault in self.plan), default=0) * NS_PER_MS + 1

    def _begin(self, fault: Fault) -> None:
        self.world.note("fault", f"begins: {fault}")
        fault.begin(self)

    def _end(self, fault: Fault) -> None:
        fault.end(self)
        if fault.for_ms:
            self.world.note("fault", f"is over: {fault.kind.name} {fault.host}")

    def _watch(self, host: str, role: Role, happening: object) -> None:
        self.world.note(host, happening)
        if isinstance(happening, Event):
            self.coverage[state_of(role.machine), type(happening).__name__] += 1

    # Clients.

    def _request(self) -> None:
        for host in self.hosts.values():
            if host.alive and host.network is not None:
                for _ in range(self.frames_a_request):
                    host.network.client_sends(b"\x52\x54\0\x51\x4d\x01" + b"\2" * 6 + b"\x88\xb5request")
        self.world.after(self.world.between(*REQUEST_NS), self._request)

    # The operator.

    def _look_after(self) -> None:
        world = self.world
        world.after(OPERATOR_NS, self._look_after)
        if any(host.guest is not None and host.guest.machine.alive for host in self.hosts.values()):
            self._guest_seen_ns = world.now_ns
        for name, host in self.hosts.items():
            if not host.alive and name not in self._restarting:
                self._restarting.add(name)
                world.after(world.between(*RESTART_NS), self._restart, name)
        if world.now_ns - self._guest_seen_ns > NO_GUEST_NS:
            self._start_anew()

    def _restart(self, name: str) -> None:
        self._restarting.discard(name)
        if not self.hosts[name].alive:
            self.hosts[name].boot("secondary")

    def _start_anew(self) -> None:
        """Nobody runs the guest, and no replica takes over: what is left is a new start."""
        record = self.stage.server.record
        names = [name for name, host in self.hosts.items() if host.alive and not host.process_is_stuck]
        if not names or (record is not None and record.live) or self.world.now_ns < self._faults_over_ns():
            return
        for name in self.hosts:
            store = self.hosts[name].store
            if record is not None and not record.barred and store is not None and store.promotable.ready:
                return
        self._guest_seen_ns = self.world.now_ns
        name = names[0]
        self.kill(name, silently=False)
        self.world.note("operator", f"starts the guest anew on {name}")
        self.hosts[name].boot("primary", discard_replica=True)

    # What is said, and what is true.

    def words(self) -> dict[str, str]:
        """The state word of each host."""
        return {name: self._word_of(host) for name, host in self.hosts.items()}

    def _word_of(self, host: Host) -> str:
        if not host.alive:
            return f"not running ({host.last_end})"
        role = host.daemon._role if host.daemon is not None else None
        if isinstance(role, PrimaryRole):
            return word_for_primary(role.machine, Progress(), 0, has_lease=role.has_lease())
        if isinstance(role, SecondaryRole):
            return word_for_secondary(role.machine)
        return "starting"

    def _sample(self) -> None:
        """C8, and whether the pair has come to rest."""
        world, judge = self.world, self.stage.judge
        world.after(SAMPLE_NS, self._sample)
        for name, host in self.hosts.items():
            if self._is_of_use(host):
                self._of_use_ns[name] = world.now_ns
        protected = False
        for host in self.hosts.values():
            if host.alive and host.process is not None and not host.process.frozen:
                word = self._word_of(host)
                protected |= word.startswith("protected")
                self._check_word(host, word)
                self._check_voice(host, word)
        if not protected:
            self._calm_since = None
        elif self._calm_since is None:
            self._calm_since, self._calm_commits = world.now_ns, judge.commits

    def _check_word(self, host: Host, word: str) -> None:
        judge, record = self.stage.judge, self.stage.server.record
        if word.startswith("protected"):
            if record is None or record.barred or record.holder != host.name:
                judge.accuse("C8", f"{host.name} says {word!r}, the arbiter has {record}")
            elif self.world.now_ns - self._of_use_until_ns(host.peer) > NOTICE_NS:
                judge.accuse("C8", f"{host.name} says {word!r} for too long: {self.words()}")
        elif word.startswith("standby at epoch"):
            store = host.store
            epoch = int(word.split()[3].rstrip(","))
            if store is None or store.committed is None:
                judge.accuse("C8", f"{host.name} says {word!r}, its replica cannot be promoted")
            elif store.committed.epoch != epoch:
                judge.accuse("C8", f"{host.name} says {word!r}, its replica is at {store.committed}")

    def _check_voice(self, host: Host, word: str) -> None:
        """Who says that it is alone lets its guest speak."""
        output = host.network.output if host.network is not None else None
        if word in ("active-alone", "unprotected") and output is not None and output.running:
            silent_ns = output.stats().oldest_held_age_ns
            alone_ns = self.world.now_ns - self._alone_since_ns.get(host.name, 0)
            if min(silent_ns, alone_ns) > MUTE_NS:
                self.stage.judge.accuse("C7", f"{host.name} says {word!r} and lets nothing out")
        else:
            self._alone_since_ns[host.name] = self.world.now_ns

    def _of_use_until_ns(self, name: str) -> int:
        return max(self._of_use_ns.get(name, 0), self.stage.judge.committed_ns.get(name, 0))

    def _is_of_use(self, host: Host) -> bool:
        """Whether a replica is there, and a process that would notice."""
        if host.process is None or not host.alive or host.process.frozen:
            return False
        return host.store is not None and host.store.committed is not None

    def _has_settled(self) -> bool:
        judge = self.stage.judge
        return (
            self._calm_since is not None
            and judge.commits >= EPOCHS_MIN
            and judge.commits >= self._calm_commits + CALM_EPOCHS
            and all(host.alive for host in self.hosts.values())
        )


def state_of(machine: PrimaryMachine | SecondaryMachine) -> str:
    """The part of a machine's state that decides what an event leads to."""
    if isinstance(machine, PrimaryMachine):
        step = machine.pipeline.step.value
        return f"primary {machine.life.value}, {machine.link.value}, {machine.bar.value}, {step}"
    receiving = ", receiving" if machine.receiving else ""
    return f"secondary {machine.life.value}, {machine.replica.value}{receiving}"
