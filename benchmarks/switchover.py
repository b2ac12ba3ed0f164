"""How long a guest stands still when it moves on purpose, against what was promised: a real pair, redis under load.

    python benchmarks/switchover.py [--moves 20] [--max-downtime 300] [--interval-ms 50]

One pair in network namespaces (needs root) whose guest goes from side to side, `--moves` times, while a client's load
goes on. Each row is a move: passes and pages of the last epoch, what was forecast, what the old side measured until it
heard the new one, and from the journals (one machine, one clock) pause to run. A move that did not come about tells
why. Exit code 1 when a promise was broken: a guest that stood still for longer than was allowed or forecast, or a client
that lost or repeated anything.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from typing import Any

from replicator.demo.guest_image import default_cache_dir, ensure_guest_image
from replicator.demo.lab import Lab
from replicator.demo.stage import Stage
from replicator.demo.timeline import RUNNING
from replicator.service.control import ask_daemon

OTHER = {"a": "b", "b": "a"}
SETTLE_S = 1.0
PATIENCE_S = 60.0
ROW = "{:>4} {:>6} {:>6} {:>7} {:>9} {:>9} {:>9} {:>10}"


class Moves:
    """A protected pair under load; `once` moves the guest to the side that has not got it."""

    def __init__(self, lab: Lab, interval_ms: int) -> None:
        image = ensure_guest_image(default_cache_dir(), print)
        self.stage = Stage(lab, image, interval_ms=interval_ms)
        daemons = {"a": self.stage.start_daemon("a", "primary")}
        self.client = self.stage.start_client(daemons["a"])
        daemons["b"] = self.stage.start_daemon("b", "secondary")
        self._processes = (*daemons.values(), self.client)
        self.stage.wait_protected("a", *self._processes)
        self._side = "a"

    def once(self, max_downtime_ms: int) -> dict[str, Any]:
        """The report of one move, with `between_ms`, and `protected_ms` until the new protection if it was made."""
        time.sleep(SETTLE_S)
        began_s = time.monotonic()
        order = {"max_downtime_ms": max_downtime_ms}
        answer = ask_daemon(self.stage.scratch / self._side, "switchover", timeout_s=PATIENCE_S + 60, **order)
        report: dict[str, Any] = answer["report"]
        if report["outcome"] != "moved":
            return report
        old, self._side = self._side, OTHER[self._side]
        self.stage.wait_protected(self._side, *self._processes)
        report["protected_ms"] = (time.monotonic() - began_s) * 1000
        report["between_ms"] = self._between_ms(old)
        return report

    def _between_ms(self, old: str) -> float:
        """From the order to pause on one side to the guest that runs on the other."""
        pausing = [event.at_ns for event in self.stage.events_of(old) if event.name == "pausing"]
        running = [event.at_ns for event in self.stage.events_of(self._side) if event.name == RUNNING]
        return (running[-1] - max(at for at in pausing if at < running[-1])) / 1e6

    def kept(self) -> bool:
        report = self.stage.stop_client(self.client)
        return report is not None and report.kept


def print_move(number: int, report: dict[str, Any]) -> None:
    if report["outcome"] != "moved":
        print(f"{number:>4} {report['outcome']}: {report['reason']}")
        return
    print(
        ROW.format(
            number,
            report["passes"],
            report["pages"],
            f"{report['bytes'] / 1000:.0f}",
            f"{report['promised_ms']:.1f}",
            f"{report['downtime_ms']:.1f}",
            f"{report['between_ms']:.1f}",
            f"{report['protected_ms']:.0f}",
        )
    )


def print_summary(reports: list[dict[str, Any]], kept: bool) -> bool:
    moved = [report for report in reports if report["outcome"] == "moved"]
    broken = [report for report in moved if not report["keeps_promise"]]
    for name in ("promised_ms", "downtime_ms", "between_ms", "protected_ms"):
        values = [report[name] for report in moved]
        if values:
            print(f"{name:13} median {statistics.median(values):8.1f}  max {max(values):8.1f}")
    print(f"{len(moved)} of {len(reports)} moved, {len(moved) - len(broken)} of them kept the promise")
    print("the client lost and repeated nothing" if kept else "the client's promises were BROKEN")
    return kept and not broken and bool(moved)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--moves", type=int, default=20)
    parser.add_argument("--max-downtime", type=int, default=300, metavar="MS")
    parser.add_argument("--interval-ms", type=int, default=50)
    options = parser.parse_args()
    with Lab() as lab:
        moves = Moves(lab, options.interval_ms)
        print(ROW.format("move", "passes", "pages", "kB", "forecast", "old side", "journals", "protected"))
        reports = []
        for number in range(1, options.moves + 1):
            reports.append(moves.once(options.max_downtime))
            print_move(number, reports[-1])
        good = print_summary(reports, moves.kept())
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
