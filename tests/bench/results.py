"""A small result with every kind of figure, the same each time."""

from __future__ import annotations

from replicator.bench.figures.result import BenchResult, Recorder, make_cell

MACHINE = {
    "cpu": "A <fast> CPU", "cores": 2, "memory_mib": 4096, "kernel": "6.7", "qemu": "QEMU 7.2",
    "version": "0.1.0", "commit": "0123456789abcdef",
}  # fmt: skip
RATES = {"10 ms": (900.0, 950.0, 800.0), "50 ms": (500.0, 510.0, 490.0)}


def make_result(*, factor: float = 1.0, kernel: str = "6.7") -> BenchResult:
    """`factor` slows everything down."""
    recorder = Recorder()
    for setting, rates in RATES.items():
        cell = make_cell(setting=setting, workload="set", state="protected")
        for rate in rates:
            recorder.add(
                cell, {"pause p50": 2.0 * factor, "rate": rate / factor, "dirty pages p50": 100 * factor}
            )
    recorder.fail(make_cell(setting="adaptive"), "unknown key <pacing>")
    return BenchResult(
        bench="interval",
        began="2026-01-02T03:04:05+0000",
        duration_s=61.25,
        seed=7,
        machine={**MACHINE, "kernel": kernel},
        options={"repeats": 3, "seconds": 5.0, "quick": False},
        figures=recorder.figures(),
        failures=recorder.failures(),
        axis="setting",
    )
