"""Harm to the replication link: lost, refused, slowed and damaged traffic."""

from __future__ import annotations

from replicator.demo.lab import REPLICATION, run_ip
from replicator.drill.actors.relay import FLIP, FRAMES, NO_CHANNEL, TRUNCATE
from replicator.drill.harm.injury import Injury
from replicator.drill.stand.stand import SIDES

SLOW_LINK = {"delay_ms": 20, "bytes_per_s": 8_000_000}
#: Nobody has this address.
_NOWHERE = "02:00:00:00:00:99"


class Cut(Injury):
    """Both ways, on the switch."""

    def strike(self) -> None:
        self.stand.lab.cut_link(REPLICATION)

    def mend(self) -> None:
        self.stand.lab.restore_link(REPLICATION)


class CutOneWay(Injury):
    """Frames of one side go to an address that nobody has. `is_out`: those of the primary."""

    is_out = True

    def strike(self) -> None:
        self._neighbour("replace", "lladdr", _NOWHERE, "nud", "permanent")

    def mend(self) -> None:
        self._neighbour("del")

    def _neighbour(self, verb: str, *more: str) -> None:
        speaker, hearer = (self.primary, self.other) if self.is_out else (self.other, self.primary)
        lab = self.stand.lab
        address = lab.address(SIDES[hearer], REPLICATION)
        run_ip(
            ["-n", lab.namespaces[SIDES[speaker]], "neigh", verb, address, "dev", f"{REPLICATION}0", *more]
        )


class CutBack(CutOneWay):
    is_out = False


class Unreachable(Injury):
    """A route that refuses: each send fails with EHOSTUNREACH. `is_out`: those of the primary."""

    is_out = True

    def strike(self) -> None:
        self._route("add")

    def mend(self) -> None:
        self._route("del")

    def _route(self, verb: str) -> None:
        speaker, hearer = (self.primary, self.other) if self.is_out else (self.other, self.primary)
        lab = self.stand.lab
        address = lab.address(SIDES[hearer], REPLICATION)
        run_ip(["-n", lab.namespaces[SIDES[speaker]], "route", verb, "unreachable", f"{address}/32"])


class UnreachableBack(Unreachable):
    is_out = False


class Reject(Injury):
    def strike(self) -> None:
        self.stand.relays[self.primary].order(reject=True)

    def mend(self) -> None:
        self.stand.relays[self.primary].order(reject=False)


class Slow(Injury):
    def strike(self) -> None:
        self.stand.relays[self.primary].order(**SLOW_LINK)

    def mend(self) -> None:
        self.stand.relays[self.primary].order(delay_ms=0, bytes_per_s=0)


class FramesCut(Injury):
    """Of the primary's relay: all that travels there is the guests' frames, both ways."""

    def strike(self) -> None:
        self.stand.relays[self.primary].order(stall=FRAMES)

    def mend(self) -> None:
        self.stand.relays[self.primary].order(stall=NO_CHANNEL)


class FramesReset(Injury):
    def strike(self) -> None:
        self.stand.relays[self.primary].order(reset=FRAMES)


class Damage(Injury):
    """To the next piece of an epoch; the pair must find it and begin anew by itself."""

    damage = FLIP

    def strike(self) -> None:
        self.stand.relays[self.primary].order(damage=self.damage, seed=self.rng.getrandbits(32))

    def mend(self) -> None:
        self.stand.relays[self.primary].order(damage="")


class Truncate(Damage):
    damage = TRUNCATE
