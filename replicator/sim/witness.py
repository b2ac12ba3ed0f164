"""Compares what the daemons say of themselves with what is true, again and again (C7, C8), and sees the pair come to rest.

The judge (judge.py) watches what happens; this file watches what is said about it. Neither knows the faults.
"""

from __future__ import annotations

from replicator.observe.status import Progress, word_for_primary, word_for_secondary
from replicator.service.primary_role import PrimaryRole
from replicator.service.secondary_role import SecondaryRole
from replicator.sim.host import Host
from replicator.sim.pair import Pair
from replicator.units import NS_PER_MS

#: Committed epochs that a run has at least.
EPOCHS_MIN = 200
#: Epochs committed since the pair looked protected, before a run may end.
CALM_EPOCHS = 5
SAMPLE_NS = 4 * NS_PER_MS
#: A status may be wrong for as long as it takes to notice: silence, an ack that is overdue, and some work.
NOTICE_NS = 900 * NS_PER_MS
#: Who is alone lets out what waits, as soon as the relay's thread has its turn.
MUTE_NS = 150 * NS_PER_MS


class Witness:
    """Accuses before the stage's judge."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._world = pair.world
        #: When a host last was good for a take-over.
        self._of_use_ns: dict[str, int] = {}
        #: Since when it has said that it is alone.
        self._alone_since_ns: dict[str, int] = {}
        self._calm_since: int | None = None
        self._calm_commits = 0

    def start(self) -> None:
        self._world.after(SAMPLE_NS, self._sample)

    def words(self) -> dict[str, str]:
        """The state word of each host."""
        return {name: self._word_of(host) for name, host in self._pair.hosts.items()}

    def _word_of(self, host: Host) -> str:
        if not host.alive:
            return f"not running ({host.last_end})"
        role = host.role
        if isinstance(role, PrimaryRole):
            return word_for_primary(role.machine, Progress(), 0, has_lease=role.has_lease())
        if isinstance(role, SecondaryRole):
            return word_for_secondary(role.machine)
        return "starting"

    def _sample(self) -> None:
        """C8, and whether the pair has come to rest."""
        world, judge = self._world, self._pair.stage.judge
        world.after(SAMPLE_NS, self._sample)
        for name, host in self._pair.hosts.items():
            if self._is_of_use(host):
                self._of_use_ns[name] = world.now_ns
        protected = False
        for host in self._pair.hosts.values():
            if not host.alive or host.process is None or host.process.frozen:
                # Nobody is asked; who wakes up gets its time to look around.
                self._alone_since_ns[host.name] = world.now_ns
                continue
            word = self._word_of(host)
            protected |= word.startswith("protected")
            self._check_word(host, word)
            self._check_voice(host, word)
        if not protected:
            self._calm_since = None
        elif self._calm_since is None:
            self._calm_since, self._calm_commits = world.now_ns, judge.commits

    def _check_word(self, host: Host, word: str) -> None:
        judge, record = self._pair.stage.judge, self._pair.stage.server.record
        if word.startswith("protected"):
            if record is None or record.barred or record.holder != host.name:
                judge.accuse("C8", f"{host.name} says {word!r}, the arbiter has {record}")
            elif self._world.now_ns - self._of_use_until_ns(host.peer) > NOTICE_NS:
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
            alone_ns = self._world.now_ns - self._alone_since_ns.get(host.name, 0)
            if min(silent_ns, alone_ns) > MUTE_NS:
                self._pair.stage.judge.accuse("C7", f"{host.name} says {word!r} and lets nothing out")
        else:
            self._alone_since_ns[host.name] = self._world.now_ns

    def check_emptied(self, name: str) -> None:
        """C6: this side is about to be mute for good, and nobody else would say what it still holds."""
        network = self._pair.hosts[name].network
        held = network.output.stats().output.held_frames if network and network.output else 0
        if held:
            self._pair.stage.judge.accuse("C6", f"{name} hands over and leaves {held} frames unsaid")

    def _of_use_until_ns(self, name: str) -> int:
        return max(self._of_use_ns.get(name, 0), self._pair.stage.judge.committed_ns.get(name, 0))

    def _is_of_use(self, host: Host) -> bool:
        """Whether a replica is there, and a process that would notice."""
        if host.process is None or not host.alive or host.process.frozen:
            return False
        return host.store is not None and host.store.committed is not None

    def has_settled(self) -> bool:
        """Whether the run is long enough, and the pair has been protected for a while."""
        judge = self._pair.stage.judge
        return (
            self._calm_since is not None
            and judge.commits >= EPOCHS_MIN
            and judge.commits >= self._calm_commits + CALM_EPOCHS
            and all(host.alive for host in self._pair.hosts.values())
        )
