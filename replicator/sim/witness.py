"""Compares what the daemons say of themselves with what is true, again and again (C7, C8), and sees the pair come to rest.

The judge (judge.py) watches what happens; this file watches what is said about it. Neither knows the faults.
"""

from __future__ import annotations

from replicator.engine.colo import ColoState
from replicator.observe.status import Progress, word_for_primary, word_for_secondary
from replicator.service.primary_role import PrimaryRole
from replicator.service.secondary_role import SecondaryRole
from replicator.sim.host import Host
from replicator.sim.pair import Pair
from replicator.units import NS_PER_MS

#: Epochs committed since the pair looked protected, before a run may end.
CALM_EPOCHS = 5
SAMPLE_NS = 4 * NS_PER_MS
#: A status may be wrong for as long as it takes to notice: silence, an ack that is overdue, and some work.
NOTICE_NS = 900 * NS_PER_MS
#: Who is alone lets out what waits, as soon as the relay's thread has its turn.
MUTE_NS = 150 * NS_PER_MS
#: In COLO nothing waits for so long: after each checkpoint what was said before it leaves.
STUCK_NS = 1_000 * NS_PER_MS
_NO_PROGRESS = Progress()


class Witness:
    """Accuses before the stage's judge."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._world = pair.world
        self._judge = pair.stage.judge
        self._epochs_min = pair.stage.settings.epochs_min
        #: When a host last was good for a take-over.
        self._of_use_ns: dict[str, int] = {}
        #: Since when it has said that it is alone.
        self._alone_since_ns: dict[str, int] = {}
        self._calm_since: int | None = None
        self._calm_commits = 0
        #: Whether since then the pair has done COLO, or said why it does not.
        self._does_colo = False

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
            return word_for_primary(role.machine, _NO_PROGRESS, 0, has_lease=role.has_lease())
        if isinstance(role, SecondaryRole):
            return word_for_secondary(role.machine)
        return "starting"

    def _sample(self) -> None:
        """C8, and whether the pair has come to rest."""
        world, judge = self._world, self._judge
        world.after(SAMPLE_NS, self._sample)
        awake = []
        for name, host in self._pair.hosts.items():
            process = host.process
            if process is None or not process.alive or process.frozen:
                # Nobody is asked; who wakes up gets its time to look around.
                self._alone_since_ns[name] = world.now_ns
                continue
            awake.append(host)
            if self._held_by(host) is not None:
                # A replica is there, and a process that would notice.
                self._of_use_ns[name] = world.now_ns
        protected = False
        for host in awake:
            word = self._word_of(host)
            protected |= word.startswith("protected")
            self._note_colo(host)
            self._check_word(host, word)
            self._check_voice(host, word)
        if not protected:
            self._calm_since, self._does_colo = None, False
        elif self._calm_since is None:
            self._calm_since, self._calm_commits = world.now_ns, judge.commits

    def _note_colo(self, host: Host) -> None:
        colo = host.role.machine.colo if isinstance(host.role, PrimaryRole) else None
        if colo is not None and (colo.compared_from is not None or colo.state is ColoState.PACED):
            self._does_colo = True

    def _check_word(self, host: Host, word: str) -> None:
        judge = self._judge
        if word.startswith("protected"):
            record = self._pair.stage.server.record
            if record is None or record.barred or record.holder != host.name:
                judge.accuse("C8", f"{host.name} says {word!r}, the arbiter has {record}")
            elif self._world.now_ns - self._of_use_until_ns(host.peer) > NOTICE_NS:
                judge.accuse("C8", f"{host.name} says {word!r} for too long: {self.words()}")
        elif word.startswith("standby at epoch"):
            held, epoch = self._held_by(host), int(word.split()[3].rstrip(","))
            if held is None:
                has_died = host.vm is not None and not host.vm.machine.alive
                patience_ns = NOTICE_NS if has_died else 0
                if self._world.now_ns - self._of_use_ns.get(host.name, 0) > patience_ns:
                    judge.accuse("C8", f"{host.name} says {word!r}, its replica cannot be promoted")
            elif held != epoch:
                judge.accuse("C8", f"{host.name} says {word!r}, its replica is at epoch {held}")

    def _held_by(self, host: Host) -> int | None:
        """The epoch that this side would go on from: its replica's, or its VM's."""
        store = host.store
        committed = store.committed if store is not None else None
        if committed is not None:
            return committed.epoch
        vm, origin = host.vm, self._judge.twins.origin_at(host.name)
        return origin[1] if vm is not None and vm.machine.alive and origin is not None else None

    def _check_voice(self, host: Host, word: str) -> None:
        """Who says that it is alone lets its guest speak."""
        network = host.network if word in ("active-alone", "unprotected") else None
        output = network.output if network is not None else None
        if output is not None and output.running:
            silent_ns = output.stats().oldest_held_age_ns
            alone_ns = self._world.now_ns - self._alone_since_ns.get(host.name, 0)
            if min(silent_ns, alone_ns) > MUTE_NS:
                self._judge.accuse("C7", f"{host.name} says {word!r} and lets nothing out")
        else:
            self._alone_since_ns[host.name] = self._world.now_ns

    def check_emptied(self, name: str) -> None:
        """C6: this side is about to be mute for good, and nobody else would say what it still holds."""
        network = self._pair.hosts[name].network
        held = network.output.stats().output.held_frames if network and network.output else 0
        if held:
            self._judge.accuse("C6", f"{name} hands over and leaves {held} frames unsaid")

    def _of_use_until_ns(self, name: str) -> int:
        return max(self._of_use_ns.get(name, 0), self._judge.committed_ns.get(name, 0))

    def _has_voice(self) -> bool:
        """Nothing that was said has waited for long."""
        outputs = (host.network.output for host in self._pair.hosts.values() if host.network is not None)
        ages_ns = (one.stats().oldest_held_age_ns for one in outputs if one is not None and one.running)
        return max(ages_ns, default=0) < STUCK_NS

    def has_settled(self) -> bool:
        """Whether the run is long enough, and the pair has been protected for a while."""
        return self._judge.commits >= self._epochs_min and self.is_calm()

    def is_calm(self) -> bool:
        """Whether the pair has been protected for a while."""
        if self._calm_since is None:
            return False
        if self._pair.stage.settings.is_colo and not (self._does_colo and self._has_voice()):
            return False
        is_calm = self._judge.commits >= self._calm_commits + CALM_EPOCHS
        return is_calm and all(host.alive for host in self._pair.hosts.values())
