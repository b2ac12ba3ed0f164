"""Every metric that a benchmark may report: its unit, and which way is better."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from replicator.bench.figures.checkpoints import STAGES, stage_metric
from replicator.errors import require


class Better(Enum):
    LOWER = "lower"
    HIGHER = "higher"
    #: It says what the run was, not how good.
    NEITHER = "neither"


@dataclass(frozen=True, slots=True)
class Metric:
    name: str
    unit: str
    better: Better = Better.LOWER


_LOWER, _HIGHER, _NEITHER = Better.LOWER, Better.HIGHER, Better.NEITHER

#: In the order in which a report shows them.
METRICS: Final[dict[str, Metric]] = {
    metric.name: metric
    for metric in (
        # What the client or the guest sees.
        Metric("rate", "1/s", _HIGHER),
        Metric("rate of unprotected", "%", _HIGHER),
        Metric("latency avg", "ms"),
        Metric("latency p50", "ms"),
        Metric("latency p99", "ms"),
        Metric("latency p99.9", "ms"),
        Metric("latency max", "ms"),
        Metric("latency after a difference p50", "ms"),
        Metric("added latency avg", "ms"),
        Metric("added latency p50", "ms"),
        Metric("added latency p99", "ms"),
        # COLO: against the unprotected guest whose twin does the same work on the same machine.
        Metric("rate of one beside a twin", "%", _HIGHER),
        Metric("latency avg above one beside a twin", "ms"),
        Metric("latency p50 above one beside a twin", "ms"),
        Metric("latency p99 above one beside a twin", "ms"),
        Metric("output that both said", "%", _HIGHER),
        Metric("checkpoint p50", "ms"),
        Metric("checkpoint p99", "ms"),
        Metric("checkpoint max", "ms"),
        *(Metric(stage_metric(stage), "ms") for stage in STAGES),
        Metric("checkpoints, differs", ""),
        Metric("checkpoints, timeout", ""),
        Metric("checkpoints, buffer", ""),
        Metric("checkpoints, comparer", ""),
        Metric("checkpoints, forced", "", _NEITHER),
        # Epochs.
        Metric("epochs", "1/s", _NEITHER),
        Metric("pause p50", "ms"),
        Metric("pause p90", "ms"),
        Metric("pause p99", "ms"),
        Metric("pause max", "ms"),
        Metric("pause p50 of QEMU's own", "x"),
        Metric("pause p99 of QEMU's own", "x"),
        Metric("guest paused", "%"),
        Metric("commit p50", "ms"),
        Metric("commit p99", "ms"),
        Metric("commit max", "ms"),
        Metric("dirty pages p50", "pages", _NEITHER),
        Metric("dirty bytes", "MB/s", _NEITHER),
        Metric("stream bytes", "MB/s"),
        Metric("wire bytes", "MB/s"),
        Metric("wire bytes of dirty bytes", "%"),
        # Machines.
        Metric("CPU of primary's daemon", "%"),
        Metric("CPU of secondary's daemon", "%"),
        Metric("CPU of the guest", "%", _NEITHER),
        Metric("CPU of a pair", "%"),
        Metric("memory of primary's daemon", "MiB"),
        Metric("memory of secondary's daemon", "MiB"),
        Metric("files of the secondary", "MiB"),
        # Copies of a whole guest.
        Metric("duration", "s"),
        Metric("guest RAM a second", "MB/s", _HIGHER),
        Metric("wire bytes a second", "MB/s", _NEITHER),
        Metric("wire bytes in all", "MB"),
        Metric("downtime", "ms"),
        Metric("rate of QEMU's tcp migration", "x", _HIGHER),
        Metric("time", "ms"),
        Metric("size of plain", "%"),
        Metric("throughput", "MB/s", _HIGHER),
        # Failover.
        Metric("death to granted", "ms"),
        Metric("granted to running", "ms"),
        Metric("death to running", "ms"),
        Metric("death to first answer", "ms"),
        Metric("death to first echo", "ms"),
        Metric("client gap", "ms"),
        Metric("false failovers", ""),
        Metric("lapsed leases", ""),
        # Scale.
        Metric("pause a GiB", "ms"),
        Metric("protected guests", "", _HIGHER),
        Metric("lag max", "ms"),
        Metric("pages in the epoch", "pages", _NEITHER),
    )
}


def metric_named(name: str) -> Metric:
    """A metric that nobody declared is a mistake of ours."""
    require(name in METRICS, f"no metric is called {name!r}")
    return METRICS[name]
