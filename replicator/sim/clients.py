"""Clients of the guest: they send to both hosts, and only the guest's network knows where it is. They wait for no answer."""

from __future__ import annotations

from replicator.sim.pair import Pair
from replicator.units import NS_PER_MS

REQUEST_NS = (2 * NS_PER_MS, 9 * NS_PER_MS)
REQUEST = b"\x52\x54\0\x51\x4d\x01" + b"\2" * 6 + b"\x88\xb5request"


class Clients:
    """From `start` to the end of the run."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair

    def start(self) -> None:
        self._pair.world.after(0, self._request)

    def _request(self) -> None:
        pair = self._pair
        for host in pair.hosts.values():
            network = host.network if host.alive else None
            if network is not None:
                for _ in range(pair.frames_a_request):
                    network.client_sends(REQUEST)
        pair.world.after(pair.world.between(*REQUEST_NS), self._request)
