"""What COLO shows of itself: whether both guests run compared, how often they agree, and why checkpoints came."""

from __future__ import annotations

from dataclasses import dataclass, field

from replicator.engine.colo import Colo
from replicator.engine.compare.counters import CompareStatus
from replicator.engine.compare.effects import Reason

#: Of checkpoints that nobody asked for: their time had come, or a session began.
FORCED = "forced"


@dataclass(frozen=True, slots=True)
class KindStatus:
    """Output frames of one protocol."""

    #: Left because both guests said the same.
    matched: int = 0
    #: Left with a checkpoint.
    committed: int = 0
    lost: int = 0

    @property
    def hit_percent(self) -> float:
        """Of those that left, what no checkpoint was needed for."""
        left = self.matched + self.committed
        return 100 * self.matched / left if left else 100.0


@dataclass(frozen=True, slots=True)
class ColoStatus:
    """Of a primary in COLO."""

    #: "compared", "paced" (the outputs differ too often: as Remus for a while), "" in Remus.
    state: str = ""
    #: Output leaves at this moment when both guests have said it.
    is_comparing: bool = False
    #: Since the start, by what asked for them: differs, timeout, buffer, comparer, forced.
    checkpoints: dict[str, int] = field(default_factory=dict)
    #: By protocol.
    kinds: dict[str, KindStatus] = field(default_factory=dict)
    comparer: str = ""
    #: What the comparer lets differ.
    ignores: tuple[str, ...] = ()
    comparer_fault: str = ""
    connections: int = 0
    #: How long one guest may be alone with what it says.
    patience_ms: float = 0.0

    def describe(self) -> str:
        """One line for people; "" in Remus."""
        if not self.state:
            return ""
        why = ", ".join(f"{count} {reason}" for reason, count in self.checkpoints.items() if count)
        hits = ", ".join(f"{kind} {each.hit_percent:.1f} %" for kind, each in self.kinds.items())
        parts = [
            self.state if self.is_comparing else f"{self.state}, output waits for commits",
            f"checkpoints: {why or 'none'}",
            f"matched: {hits}" if hits else "",
            f"comparer {self.comparer}" if self.comparer else "",
            f"ignores {', '.join(self.ignores)}" if self.ignores else "",
            self.comparer_fault,
        ]
        return "; ".join(part for part in parts if part)


def show_colo(colo: Colo, epochs: int, compared: CompareStatus | None) -> ColoStatus:
    """`epochs` were made since the start; `compared` is None before the first comparison."""
    is_comparing = colo.compared_from is not None
    if compared is None:
        return ColoStatus(colo.state.value, is_comparing, {FORCED: epochs})
    checkpoints = {
        reason.value: sum(kind.asked.get(reason, 0) for kind in compared.kinds.values()) for reason in Reason
    }
    checkpoints[FORCED] = max(0, epochs - sum(checkpoints.values()))
    return ColoStatus(
        colo.state.value,
        is_comparing,
        checkpoints,
        {
            kind.value: KindStatus(each.matched, each.committed, each.lost)
            for kind, each in compared.kinds.items()
            if each.matched or each.committed or each.lost
        },
        compared.comparer.name,
        compared.comparer.ignores,
        compared.comparer.last_fault,
        compared.connections,
        compared.patience_ns / 1e6,
    )
