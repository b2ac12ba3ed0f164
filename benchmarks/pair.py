"""What protection costs and how fast a failover is, on a real pair: 256 MiB guest, redis under load.

    python benchmarks/pair.py [--runs 3] [--seconds 20] [--interval-ms 50]
    python benchmarks/pair.py --soak-minutes 10

Each run boots a guest in network namespaces (needs root), protects it, loads it for some seconds, kills its host and
lets the client go on. Printed is the median of the runs with the lowest and the highest one, beside the goal; exit
code 1 when a median misses its goal or any promise was broken. --soak-minutes keeps one pair protected while a
process on each core computes, and fails if the secondary ever asked for the guest.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from dataclasses import dataclass
from typing import Any

from replicator.bench.rig.processes import allocated_bytes, anonymous_bytes, busy_cores
from replicator.demo.guest_image import default_cache_dir, ensure_guest_image
from replicator.demo.lab import Lab
from replicator.demo.stage import Stage, children_of
from replicator.demo.timeline import GAP, GRANTED, KILLED, RUNNING, Event, find_first

MIB = 1 << 20
#: Metric -> (unit, highest allowed median or None).
METRICS: dict[str, tuple[str, float | None]] = {
    "pause p50": ("ms", 2.5),
    "pause p99": ("ms", 6.0),
    "pause max": ("ms", None),
    "commit p50": ("ms", None),
    "commit p99": ("ms", None),
    "dirty pages p50": ("", None),
    "epoch bytes p50": ("kB", None),
    "replication traffic": ("MB/s", None),
    "client gap above 100, synchronising": ("ms", None),
    "INCR latency p50, unprotected": ("ms", None),
    "INCR latency p50, protected": ("ms", None),
    "secondary: files": ("MiB", None),
    "secondary: anonymous memory": ("MiB", None),
    "detection": ("ms", None),
    "grant -> running": ("ms", 15.0),
    "client gap at the death": ("ms", 500.0),
}
CLIENT_HEAD_START_S = 3.0
SETTLE_S = 3.0


@dataclass(frozen=True)
class Run:
    values: dict[str, float]
    kept: bool


class Measurement:
    """One pair from its start to the client's final word."""

    def __init__(self, lab: Lab, interval_ms: int) -> None:
        image = ensure_guest_image(default_cache_dir(), print)
        self.stage = Stage(lab, image, interval_ms=interval_ms)
        self.values: dict[str, float] = {}

    def protect(self) -> None:
        stage = self.stage
        self.primary = stage.start_daemon("a", "primary")
        self.client = stage.start_client(self.primary)
        rate = self._increments_a_second(CLIENT_HEAD_START_S)
        self.values["INCR latency p50, unprotected"] = 1000 / rate
        self.began_ns = time.monotonic_ns()
        self.secondary = stage.start_daemon("b", "secondary")
        stage.wait_protected("a", self.primary, self.secondary, self.client)
        self.protected_ns = time.monotonic_ns()

    def load(self, seconds: float) -> None:
        self.values["INCR latency p50, protected"] = 1000 / self._increments_a_second(seconds)

    def read_status(self) -> None:
        stats: dict[str, Any] = self.stage.status("a")["stats"]
        for name, key in (("pause", "pause_ms"), ("commit", "commit_ms")):
            self.values[f"{name} p50"] = stats[key]["p50"]
            self.values[f"{name} p99"] = stats[key]["p99"]
        self.values["pause max"] = stats["pause_ms"]["max"]
        self.values["dirty pages p50"] = stats["dirty_pages"]["p50"]
        self.values["epoch bytes p50"] = stats["epoch_bytes"]["p50"] / 1000
        seconds = (time.monotonic_ns() - self.protected_ns) / 1e9
        self.values["replication traffic"] = stats["bytes_total"] / seconds / 1e6
        pids = [self.secondary.pid, *children_of(self.secondary.pid)]
        self.values["secondary: anonymous memory"] = anonymous_bytes(pids) / MIB
        self.values["secondary: files"] = allocated_bytes(self.stage.scratch / "b") / MIB

    def kill_and_judge(self) -> Run:
        killed = self.stage.kill_host(self.primary)
        self._increments_a_second(SETTLE_S)
        report = self.stage.stop_client(self.client)
        events = [killed, *self.stage.collect_events()]
        self._measure_failover(events)
        return Run(self.values, report is not None and report.kept)

    def _measure_failover(self, events: list[Event]) -> None:
        killed = find_first(events, KILLED) or 0
        granted = find_first(events, GRANTED, killed)
        running = find_first(events, RUNNING, killed)
        if granted is not None and running is not None:
            self.values["detection"] = (granted - killed) / 1e6
            self.values["grant -> running"] = (running - granted) / 1e6
        gaps = [(event.at_ns, float(event.fields["ms"])) for event in events if event.name == GAP]
        self.values["client gap at the death"] = max((ms for at, ms in gaps if at >= killed), default=0.0)
        until = self.protected_ns + 10**9
        early = [ms for at, ms in gaps if self.began_ns <= at < until]
        self.values["client gap above 100, synchronising"] = max(early, default=0.0)

    def _increments_a_second(self, seconds: float) -> float:
        """Of a client that sends the next one when it has the reply: its inverse is the latency."""
        before, began = self.stage.count_increments(), time.monotonic()
        time.sleep(seconds)
        done = self.stage.count_increments() - before
        return max(done, 1) / (time.monotonic() - began)


def measure(seconds: float, interval_ms: int) -> Run:
    with Lab() as lab:
        one = Measurement(lab, interval_ms)
        one.protect()
        one.load(seconds)
        one.read_status()
        return one.kill_and_judge()


def soak(minutes: float, interval_ms: int) -> Run:
    """Protected under full load: counts the looks at which it was not."""
    with Lab() as lab:
        one = Measurement(lab, interval_ms)
        one.protect()
        words: dict[str, int] = {}
        with busy_cores():
            end = time.monotonic() + minutes * 60
            while time.monotonic() < end:
                word = one.stage.status("a")["state"].split(" ")[0].rstrip(":")
                words[word] = words.get(word, 0) + 1
                time.sleep(0.1)
            one.read_status()
        print("looks by state word:", ", ".join(f"{word} {count}" for word, count in sorted(words.items())))
        asked = [event for event in one.stage.collect_events() if event.name == GRANTED]
        print(f"false failovers in {minutes:g} minutes: {len(asked)}")
        run = one.kill_and_judge()
        return Run(run.values, run.kept and not asked)


def print_runs(runs: list[Run], *, judged: bool) -> bool:
    good = all(run.kept for run in runs)
    print(f"{'':34} {'median':>9} {'lowest':>9} {'highest':>9}   goal")
    for name, (unit, goal) in METRICS.items():
        values = [run.values[name] for run in runs if name in run.values]
        if not values:
            continue
        median = statistics.median(values)
        missed = judged and goal is not None and median > goal
        good = good and not missed
        wanted = "" if goal is None else f"<= {goal:g}{' MISSED' if missed else ''}"
        row = f"{name + (f' ({unit})' if unit else ''):34}"
        print(f"{row} {median:9.2f} {min(values):9.2f} {max(values):9.2f}   {wanted}".rstrip())
    print("promises:", "all kept" if all(run.kept for run in runs) else "BROKEN")
    return good


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--interval-ms", type=int, default=50)
    parser.add_argument("--soak-minutes", type=float, default=0)
    options = parser.parse_args()
    if options.soak_minutes:
        runs = [soak(options.soak_minutes, options.interval_ms)]
    else:
        runs = [measure(options.seconds, options.interval_ms) for _ in range(options.runs)]
    sys.exit(0 if print_runs(runs, judged=not options.soak_minutes) else 1)


if __name__ == "__main__":
    main()
