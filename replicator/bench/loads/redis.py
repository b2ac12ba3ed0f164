"""redis-benchmark (Debian: redis-tools) as the client: its command line, and its report as metrics.

It is told a number of requests and not a time, so a short run comes first and says how many fill the time. The report
is the one for people: its CSV has no percentile beyond 99.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from replicator.demo.guest_scripts import REDIS_PORT
from replicator.errors import ConfigError, GuestError

PROGRAM: Final = "redis-benchmark"
CONNECTIONS: Final = 50
#: Keys and bytes of a value: some MiB in all, so that SETs dirty more than one page.
KEYS: Final = 10_000
VALUE_BYTES: Final = 64
#: Of the run before: a round trip of each connection and some more.
_FIRST_REQUESTS: Final = 4 * CONNECTIONS
_REQUESTS_MAX: Final = 50_000_000

_RATE = re.compile(r"throughput summary: ([\d.]+) requests per second")
_SUMMARY = re.compile(r"latency summary \(msec\):\s*\n\s*avg\s+min\s+p50\s+p95\s+p99\s+max\s*\n\s*([\d. ]+)")
_PERCENTILE = re.compile(r"^([\d.]+)% <= ([\d.]+) milliseconds \(cumulative count (\d+)\)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class RedisLoad:
    """One kind of request. `pipeline`: how many a connection sends before it waits for replies."""

    command: str
    pipeline: int = 1
    connections: int = CONNECTIONS

    def command_line(self, address: str, requests: int) -> list[str]:
        options = ["-h", address, "-p", str(REDIS_PORT), "-t", self.command, "-n", str(requests)]
        options += ["-c", str(self.connections), "-P", str(self.pipeline), "-r", str(KEYS)]
        return [PROGRAM, *options, "-d", str(VALUE_BYTES), "--precision", "3"]


def require_redis_benchmark() -> None:
    """ConfigError unless it is installed."""
    if shutil.which(PROGRAM) is None:
        raise ConfigError(
            f"{PROGRAM} is not installed, and a client in Python would disturb what it measures",
            hint="apt-get install redis-tools, or leave the redis workloads out with --workloads",
        )


def parse_report(text: str) -> dict[str, float]:
    """Metrics of one test's report. GuestError with its end when it is none."""
    # A progress line is rewritten in place with carriage returns.
    text = text.replace("\r", "\n")
    rate, summary = _RATE.search(text), _SUMMARY.search(text)
    if rate is None or summary is None:
        raise GuestError(f"{PROGRAM} gave no report: {text.strip()[-300:] or 'nothing'}")
    average, _, p50, _, p99, highest = (float(word) for word in summary[1].split())
    return {
        "rate": float(rate[1]),
        "latency avg": average,
        "latency p50": p50,
        "latency p99": p99,
        "latency p99.9": find_percentile(text, 99.9, highest),
        "latency max": highest,
    }


def find_percentile(text: str, wanted: float, highest: float) -> float:
    """From the report's distribution: the first step at or above it. Its steps halve what is left: 99.902 % is there
    once there are a thousand requests or so; the highest latency before."""
    for share, milliseconds, _ in _PERCENTILE.findall(text):
        if float(share) >= wanted:
            return float(milliseconds)
    return highest


def run_for(
    seconds: float, load: RedisLoad, address: str, run: Callable[[Sequence[str]], str]
) -> dict[str, float]:
    """Load the guest for about so long; `run` carries out a command line and returns its report."""
    requests = _FIRST_REQUESTS * load.pipeline
    rate = parse_report(run(load.command_line(address, requests)))["rate"]
    requests = min(max(requests, int(rate * seconds)), _REQUESTS_MAX)
    return parse_report(run(load.command_line(address, requests)))
