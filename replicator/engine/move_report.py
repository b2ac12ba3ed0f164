"""How a switchover ended, in figures: what is promised, what was found, and why if it did not come about."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from replicator.units import NS_PER_MS


class Outcome(Enum):
    #: The guest runs on the other side.
    MOVED = "moved"
    #: It runs here as before: it never stood still for longer than an epoch does.
    ABORTED = "aborted"
    #: It stood still, was or was to be handed over, and runs here again.
    TAKEN_BACK = "taken back"
    #: It runs nowhere by this side's doing; what is left is the arbiter's and the operator's.
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class MoveReport:
    """Times in nanoseconds; 0 for what did not happen."""

    outcome: Outcome
    reason: str
    #: Epochs from the order to the last one, with that.
    passes: int = 0
    #: Of the last epoch.
    pages: int = 0
    bytes: int = 0
    max_downtime_ns: int = 0
    #: Forecast when the guest was stopped.
    promised_ns: int = 0
    #: From the order to stop to the word of the other side that it runs.
    downtime_ns: int = 0
    #: Of that, after the ack of the last epoch.
    take_over_ns: int = 0
    #: From the operator's order on.
    elapsed_ns: int = 0

    @property
    def keeps_promise(self) -> bool:
        """Whether the guest stood still no longer than was allowed or, where more was forecast, than that."""
        return self.downtime_ns <= max(self.max_downtime_ns, self.promised_ns)

    def to_map(self) -> dict[str, Any]:
        """For the control socket: milliseconds, names and plain numbers."""
        fields = asdict(self)
        times = [name for name in fields if name.endswith("_ns")]
        for name in times:
            fields[f"{name.removesuffix('_ns')}_ms"] = round(fields.pop(name) / NS_PER_MS, 3)
        return {**fields, "outcome": self.outcome.value, "keeps_promise": self.keeps_promise}
