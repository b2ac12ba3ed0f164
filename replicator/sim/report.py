"""What many runs say together: totals, the promises that were broken, and which events met which states."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from time import monotonic

from replicator.sim.faults import Kind
from replicator.sim.simulation import Result

#: Lines of the trace that a failure shows.
TRACE_SHOWN = 200


@dataclass(slots=True)
class Totals:
    """Sums over runs."""

    seeds: int = 0
    epochs: int = 0
    frames: int = 0
    take_overs: int = 0
    loads: int = 0
    matched: int = 0
    vm_take_overs: int = 0
    virtual_s: float = 0.0
    failed: list[int] = field(default_factory=list)
    faults: Counter[Kind] = field(default_factory=Counter)
    coverage: Counter[tuple[str, str]] = field(default_factory=Counter)
    began_s: float = field(default_factory=monotonic)

    def add(self, result: Result) -> None:
        self.seeds += 1
        self.epochs += result.epochs
        self.frames += result.frames
        self.take_overs += result.take_overs
        self.loads += result.loads
        self.matched += result.matched
        self.vm_take_overs += result.vm_take_overs
        self.virtual_s += result.virtual_ns / 1e9
        self.faults.update(fault.kind for fault in result.plan)
        self.coverage.update(result.coverage)
        if result.violation is not None:
            self.failed.append(result.seed)

    def describe(self) -> Iterator[str]:
        """Lines for people."""
        elapsed_s = max(monotonic() - self.began_s, 1e-9)
        yield (
            f"{self.seeds} seeds: {self.epochs} epochs committed, {sum(self.faults.values())} faults, "
            f"{self.take_overs} take-overs, {self.frames} frames out, {self.virtual_s:.0f} s of the pair's time"
        )
        if self.loads:
            yield (
                f"COLO: {self.loads} loads of the second VM, {self.matched} frames left because both had said them, "
                f"{self.vm_take_overs} take-overs by it"
            )
        yield f"{elapsed_s:.0f} s, {self.epochs / elapsed_s:.0f} epochs/s"
        yield f"{len(self.coverage)} pairs of a state and an event"
        yield f"broken promises: {len(self.failed)}" + (f", seeds {self.failed}" if self.failed else "")

    def describe_coverage(self) -> Iterator[str]:
        """Which events each state has met, and how often."""
        states: dict[str, Counter[str]] = {}
        for (state, event), count in self.coverage.items():
            states.setdefault(state, Counter())[event] += count
        for state in sorted(states):
            met = ", ".join(f"{event} {count}" for event, count in states[state].most_common())
            yield f"{state}: {met}"

    def describe_faults(self) -> Iterator[str]:
        for kind in Kind:
            yield f"{self.faults[kind]:8} {kind.name:16} {kind.value}"


def describe_failure(result: Result, replay: str) -> Iterator[str]:
    """Everything that is needed to look into a failed run."""
    yield f"seed {result.seed} breaks {result.violation}"
    yield f"after {result.epochs} epochs, {result.virtual_ns / 1e6:.0f} ms; faults:"
    for fault in result.plan:
        yield f"  {fault}"
    yield f"the last {TRACE_SHOWN} lines:"
    yield from result.trace[-TRACE_SHOWN:]
    yield f"again: {replay}"
