"""The one snapshot that every view of a daemon reads, and the state word in it.

The word never claims more protection than there is: "protected" needs a committed epoch, a lifted bar, a live link
and a secondary that is heard; what is missing is named.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from replicator.engine import primary, secondary
from replicator.observe.colo_status import ColoStatus
from replicator.units import NS_PER_MS, PAGE_SIZE

SYNCING = "syncing"
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Of the newest epochs. Milliseconds or counts, as the field says that holds it."""

    p50: float = 0.0
    p99: float = 0.0
    max: float = 0.0


@dataclass(frozen=True, slots=True)
class EpochStats:
    pause_ms: Percentiles = field(default_factory=Percentiles)
    commit_ms: Percentiles = field(default_factory=Percentiles)
    dirty_pages: Percentiles = field(default_factory=Percentiles)
    epoch_bytes: Percentiles = field(default_factory=Percentiles)
    epochs: int = 0
    bytes_total: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """Of a synchronisation: guest pages."""

    pages_done: int = 0
    pages_total: int = 0
    elapsed_s: float = 0.0

    @property
    def percent(self) -> int:
        """99 at most: only the commit makes it whole."""
        return min(99, 100 * self.pages_done // self.pages_total) if self.pages_total else 0

    def describe(self) -> str:
        """Amount, rate and time left, as far as they are known."""
        done, total = self.pages_done * PAGE_SIZE / _MIB, self.pages_total * PAGE_SIZE / _MIB
        text = f"{done:.0f} of {total:.0f} MiB"
        if not done or self.elapsed_s <= 0:
            return text
        rate = done / self.elapsed_s
        return f"{text}, {rate:.0f} MiB/s, {(total - done) / rate:.0f} s left"


@dataclass(frozen=True, slots=True)
class ClockStatus:
    """Of the guest's clocks, on the side that runs it. docs/guests.md says what holds them up."""

    #: "continue" or "catch-up".
    policy: str = ""
    #: How late the guest's wall clock is, since the start or since it was read last; below 0 when it was found early.
    behind_ms: float = 0.0
    #: Microseconds that the guest's clocks lose a second, over the newest minute.
    drift_ppm: float = 0.0
    #: How often the wall clock was set, and how far at the last time.
    steps: int = 0
    last_step_ms: float = 0.0
    #: Why it could not be set of late.
    trouble: str = ""

    def describe(self) -> str:
        """One line for people; "" when there is nothing to say."""
        if not self.policy:
            return ""
        text = f"behind {self.behind_ms:.0f} ms, drift {self.drift_ppm:.0f} ppm"
        if self.steps:
            text += f", set {self.steps} times, last by {self.last_step_ms:.0f} ms"
        return f"{text}, not set: {self.trouble}" if self.trouble else text


@dataclass(frozen=True, slots=True)
class PaceStatus:
    """How often the guest is paused, and what keeps it from its goal. Percents are of the guest's time."""

    #: What is in force, "" on a side that runs no guest.
    pacing: str = ""
    in_flight: int = 0
    in_flight_max: int = 0
    paused_percent: float = 0.0
    #: An epoch was due and waited for those in flight.
    waiting_percent: float = 0.0
    #: Why the goal is not kept, "" while it is.
    throttled: str = ""


@dataclass(frozen=True, slots=True)
class EncodingStatus:
    """What became of the dirty pages on their way, since this side runs the guest, and the memory that this takes."""

    #: Pages by method (zero, same, delta, lz4, raw), and how many there were.
    pages: dict[str, int] = field(default_factory=dict)
    #: Of the parts that travelled: what they stand for, and what went over the link.
    part_bytes: int = 0
    wire_bytes: int = 0
    #: Versions of pages that are kept to send only what changed since: how much now, and at most.
    bases_bytes: int = 0
    bases_bytes_max: int = 0

    @property
    def percent(self) -> float:
        """What of the bytes had to travel."""
        return 100 * self.wire_bytes / self.part_bytes if self.part_bytes else 100.0

    def describe(self) -> str:
        """One line for people; "" before the first part."""
        if not self.part_bytes:
            return ""
        pages = ", ".join(f"{count} {method}" for method, count in self.pages.items() if count)
        return (
            f"{self.percent:.1f} % of {self.part_bytes / _MIB:.0f} MiB; {pages}; "
            f"bases {self.bases_bytes / _MIB:.0f} of {self.bases_bytes_max / _MIB:.0f} MiB"
        )


@dataclass(frozen=True, slots=True)
class PrecopyStatus:
    """The newest pre-copy: how it went, and if it was given up why, until the operator orders otherwise."""

    on_busy: str = ""
    passes: int = 0
    copied_pages_per_s: float = 0.0
    dirtied_pages_per_s: float = 0.0
    working_set_pages: int = 0
    max_downtime_ms: float = 0.0
    #: Forecast for what was dirty after the last pass; below 0 while no rate is known.
    downtime_ms: float = -1.0
    gave_up: str = ""


@dataclass(frozen=True, slots=True)
class Status:
    """All an operator may ask. `state` is for people and alarms; the rest explains it."""

    node: str
    guest: str
    role: str
    state: str
    term: int = 0
    epoch: int = 0
    committed: int = 0
    reason: str = ""
    held_frames: int = 0
    held_bytes: int = 0
    lost_frames: int = 0
    lag_ms: float = 0.0
    stats: EpochStats = field(default_factory=EpochStats)
    #: Of the copy with which a session with the secondary begins; pages that the guest writes meanwhile are added.
    sync: Progress = field(default_factory=Progress)
    #: A connection that was refused of late, and what to do about it.
    warning: str = ""
    clock: ClockStatus = field(default_factory=ClockStatus)
    pace: PaceStatus = field(default_factory=PaceStatus)
    precopy: PrecopyStatus = field(default_factory=PrecopyStatus)
    encoding: EncodingStatus = field(default_factory=EncodingStatus)
    colo: ColoStatus = field(default_factory=ColoStatus)
    #: How far a switchover is, "" while there is none.
    switchover: str = ""
    #: From the take-over on until the guest was protected again; 0 while it is not, or nothing was taken over.
    protected_after_ms: float = 0.0

    @property
    def is_syncing(self) -> bool:
        """Whether `sync` says anything now."""
        return self.state.startswith(SYNCING)

    def to_map(self) -> dict[str, Any]:
        return asdict(self)


def word_for_primary(
    machine: primary.PrimaryMachine, progress: Progress, lag_ns: int, *, has_lease: bool = True
) -> str:
    """The state word of the side whose guest runs. `has_lease`: by its own clock it may speak at this moment."""
    if machine.life is primary.Life.RUNNING and not has_lease:
        # Nobody has told the machine yet; a process that was frozen may be long replaced.
        return f"{_LIFE_WORDS[primary.Life.FROZEN]}: the lease has run out"
    if machine.life is not primary.Life.RUNNING:
        return _LIFE_WORDS[machine.life] + (f": {machine.trouble}" if machine.trouble else "")
    if machine.bar is primary.Bar.LIFTED and machine.link is primary.Link.READY and not machine.peer_silent:
        return f"protected lag {lag_ns // NS_PER_MS} ms"
    if machine.link is primary.Link.READY:
        return f"{SYNCING} {progress.percent} %"
    if machine.bar is primary.Bar.BARRED:
        word, gave_up = "active-alone" if machine.was_paired else "unprotected", machine.pipeline.gave_up
        return f"{word}: {gave_up}" if gave_up else word
    return f"degraded: {machine.trouble or 'the secondary is not connected'}"


_LIFE_WORDS = {
    primary.Life.FROZEN: "frozen",
    primary.Life.HANDING_OVER: "handing over",
    primary.Life.MOVED: "handed over",
    primary.Life.UNPROTECTED: "unprotected",
    primary.Life.STOPPING: "stopping",
    primary.Life.FENCED: "fenced",
    primary.Life.ENDED: "ended",
}


def word_for_secondary(machine: secondary.SecondaryMachine, standby_trouble: str = "") -> str:
    """The state word of the side that waits; `standby_trouble` says why no process waits for the guest."""
    if machine.life is secondary.Life.STOOD_DOWN:
        return "stood down"
    if machine.life is secondary.Life.FAILED:
        return f"failed: {machine.trouble}"
    if machine.life in (secondary.Life.PROMOTING, secondary.Life.PROMOTED):
        return "promoting"
    if not machine.committed:
        return "standby, not promotable: " + (machine.trouble or "no epoch was committed yet")
    if machine.barred or standby_trouble:
        return f"standby, not promotable: {machine.trouble or standby_trouble}"
    if machine.life is secondary.Life.ASKING:
        return f"asking for the guest: {machine.trouble or 'the primary is silent'}"
    if not machine.primary_alive:
        return f"standby at epoch {machine.committed}, the primary is silent"
    return f"standby at epoch {machine.committed}"


def percentiles(values: list[float]) -> Percentiles:
    """Nearest rank; zeros for an empty list."""
    if not values:
        return Percentiles()
    ordered = sorted(values)
    last = len(ordered) - 1
    return Percentiles(ordered[round(0.5 * last)], ordered[round(0.99 * last)], ordered[-1])
