"""The operator of a simulated pair: restarts a daemon that has ended, and starts the guest anew when nobody has it.

An operator sees what a person sees: which daemons live, and what the arbiter says. Faults are not known here.
"""

from __future__ import annotations

from dataclasses import replace

from replicator.engine.events import TuneOrdered
from replicator.engine.precopy import OnBusy
from replicator.service.primary_role import PrimaryRole
from replicator.sim.host import Host
from replicator.sim.pair import Pair
from replicator.units import NS_PER_MS

LOOK_NS = 250 * NS_PER_MS
RESTART_NS = (20 * NS_PER_MS, 400 * NS_PER_MS)
#: The second host is switched on so much later than the first, at most.
SECOND_NS = 150 * NS_PER_MS
#: Without any guest for so long, the operator starts it anew.
NO_GUEST_NS = 1_500 * NS_PER_MS


class Operator:
    """`patient_until_ns`: before that time the guest is not started anew."""

    def __init__(self, pair: Pair, *, patient_until_ns: int) -> None:
        self._pair = pair
        self._world = pair.world
        self._patient_until_ns = patient_until_ns
        self._guest_seen_ns = 0
        self._restarting: set[str] = set()

    def switch_on(self) -> None:
        """One host as the primary, and a little later the other one as the secondary."""
        world = self._world
        first, second = ("a", "b") if world.chance(0.5) else ("b", "a")
        self._pair.hosts[first].boot("primary")
        world.after(world.between(0, SECOND_NS), self._boot_second, second)

    def _boot_second(self, name: str) -> None:
        if not self._pair.hosts[name].alive and name not in self._restarting:
            self._pair.hosts[name].boot("secondary")

    def start(self) -> None:
        """Look after the pair from now on."""
        self._world.after(LOOK_NS, self._look_after)

    def _look_after(self) -> None:
        world = self._world
        world.after(LOOK_NS, self._look_after)
        if any(map(_has_guest, self._pair.hosts.values())):
            self._guest_seen_ns = world.now_ns
        self._retry_copies()
        for name, host in self._pair.hosts.items():
            if not host.alive and name not in self._restarting:
                self._restarting.add(name)
                world.after(world.between(*RESTART_NS), self._restart, name)
        if world.now_ns - self._guest_seen_ns > NO_GUEST_NS:
            self._start_anew()

    def _retry_copies(self) -> None:
        """A copy that was given up for a busy guest starts anew: at first as before, once faults are over at any price."""
        for host in self._pair.hosts.values():
            role, process = host.role, host.process
            if (
                process is None
                or not host.alive
                or host.process_is_stuck
                or not isinstance(role, PrimaryRole)
            ):
                continue
            pipeline = role.machine.pipeline
            if pipeline.gave_up:
                at_any_price = replace(pipeline.settings.sync, on_busy=OnBusy.COMPLETE)
                is_late = self._world.now_ns >= self._patient_until_ns
                order = TuneOrdered(sync=at_any_price if is_late else None, retry=True)
                process.schedule(0, role.post, order)

    def _restart(self, name: str) -> None:
        self._restarting.discard(name)
        if not self._pair.hosts[name].alive:
            self._pair.hosts[name].boot("secondary")

    def _start_anew(self) -> None:
        """Nobody runs the guest, and no replica takes over: what is left is a new start."""
        record = self._pair.stage.server.record
        names = [name for name, host in self._pair.hosts.items() if host.alive and not host.process_is_stuck]
        if not names or (record is not None and record.live) or self._world.now_ns < self._patient_until_ns:
            return
        for name in self._pair.hosts:
            store = self._pair.hosts[name].store
            has_vm = (vm := self._pair.hosts[name].vm) is not None and vm.machine.alive
            is_of_use = has_vm or (store is not None and store.promotable.ready)
            if record is not None and not record.barred and is_of_use:
                return
        self._guest_seen_ns = self._world.now_ns
        name = names[0]
        self._pair.kill(name, silently=False)
        self._world.note("operator", f"starts the guest anew on {name}")
        self._pair.hosts[name].boot("primary", discard_replica=True)


def _has_guest(host: Host) -> bool:
    """One that is kept while another side may have taken it over is nobody's."""
    if host.guest is None or not host.guest.machine.alive:
        return False
    return not (isinstance(host.role, PrimaryRole) and host.role.is_handing_over)
