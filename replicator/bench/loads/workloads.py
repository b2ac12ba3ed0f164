"""The workloads of a benchmark by name: what loads the guest, and what is measured of it.

Clients run on the client's host; work inside the guest is counted there and timed by this machine's clock, because the
guest's own stands still in each pause.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from replicator.bench.loads.redis import RedisLoad, require_redis_benchmark, run_for
from replicator.bench.rig.orders import GuestOrders
from replicator.demo.lab import CLIENT, Lab
from replicator.demo.stage import GUEST_IP
from replicator.errors import ConfigError, GuestError

_EXTRA_S: Final = 60.0
#: Between two requests of `spaced`, on average.
_GAP_MS: Final = 40.0
_PROBE: Final = (sys.executable, "-m", "replicator.bench.loads.probe", GUEST_IP)
Metrics = dict[str, float]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a workload is carried out."""

    lab: Lab
    orders: GuestOrders
    seed: int = 1

    def run(self, argv: Sequence[str], seconds: float) -> str:
        """A client's stdout; GuestError when it fails or takes far longer than that."""
        child = self.lab.run(CLIENT, argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            out, err = child.communicate(timeout=seconds + _EXTRA_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()
            raise GuestError(f"`{argv[0]}` was not done after {seconds + _EXTRA_S:.0f} s") from None
        if child.returncode != 0:
            said = (err or out).decode(errors="replace").strip()[-300:]
            raise GuestError(f"`{' '.join(argv)}` failed: {said or child.returncode}")
        return out.decode()


@dataclass(frozen=True, slots=True)
class Workload:
    """`run` loads the guest for so many seconds and says what was seen."""

    name: str
    what: str
    run: Callable[[Place, float], Metrics]


def _idle(_: Place, seconds: float) -> Metrics:
    time.sleep(seconds)
    return {}


def _redis(load: RedisLoad) -> Callable[[Place, float], Metrics]:
    def run(place: Place, seconds: float) -> Metrics:
        return run_for(seconds, load, GUEST_IP, lambda argv: place.run(argv, seconds))

    return run


def _probe(kind: str, gap_ms: float = 0) -> Callable[[Place, float], Metrics]:
    def run(place: Place, seconds: float) -> Metrics:
        options = ["--seconds", str(seconds), "--gap-ms", str(gap_ms), "--seed", str(place.seed)]
        seen = json.loads(place.run([*_PROBE, kind, *options], seconds))
        return {name: float(value) for name, value in seen.items() if name not in ("event", "at_ns")}

    return run


def _work(kind: str) -> Callable[[Place, float], Metrics]:
    def run(place: Place, seconds: float) -> Metrics:
        place.orders.start_work(kind)
        try:
            # The first units may still be those in which memory is allocated.
            time.sleep(min(1.0, seconds / 4))
            began, done = time.monotonic(), place.orders.count_work()
            time.sleep(seconds)
            # Before the answer, which a protected guest's relay keeps back.
            passed_s = time.monotonic() - began
            return {"rate": (place.orders.count_work() - done) / passed_s}
        finally:
            place.orders.end_work()

    return run


WORKLOADS: Final[dict[str, Workload]] = {
    one.name: one
    for one in (
        Workload("idle", "nothing", _idle),
        Workload("set", "redis SET, 50 connections", _redis(RedisLoad("set"))),
        Workload("set-pipelined", "redis SET, 50 connections, 16 at once", _redis(RedisLoad("set", 16))),
        Workload("get", "redis GET, 50 connections", _redis(RedisLoad("get"))),
        Workload("request", "one INCR at a time", _probe("redis")),
        Workload("spaced", "one INCR at a time, at any moment of an epoch", _probe("redis", _GAP_MS)),
        Workload("clock", "one INCR at a time, TIME once a second: twins differ", _probe("clock")),
        Workload("ping", "one ICMP echo at a time", _probe("icmp")),
        Workload("compute", "arithmetic in the guest", _work("compute")),
        Workload("write", "words written all over 16 MiB in the guest", _work("write")),
        Workload("build", "text and files in the guest, as a compiler does", _work("build")),
    )
}
_REDIS: Final = frozenset({"set", "set-pipelined", "get"})


def choose_workloads(names: str) -> list[Workload]:
    """Those of a comma-separated list; all for an empty one. ConfigError names the known ones."""
    wanted = [name.strip() for name in names.split(",") if name.strip()] or list(WORKLOADS)
    for name in wanted:
        if name not in WORKLOADS:
            raise ConfigError(f"no workload is called {name!r}", hint=f"known are {', '.join(WORKLOADS)}")
    if _REDIS & set(wanted):
        require_redis_benchmark()
    return [WORKLOADS[name] for name in dict.fromkeys(wanted)]
