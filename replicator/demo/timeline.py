"""From what daemons, client and demonstration said to a timeline and a verdict. Pure: no I/O, no clock.

Everybody says JSON lines `{"event": NAME, "at_ns": CLOCK_MONOTONIC, ...}`; namespaces share the machine's clock, so
the lines of all sources sort into one story. The moments that matter:

    KILLED      the demonstration killed one daemon and its QEMU               (source: demo)
    GRANTED     the arbiter gave the guest to the survivor = the death is detected
    RUNNING     the survivor resumed the guest
    ALONE       the arbiter let the primary go on without its secondary, if that was the one that died

A verdict is a list of promises, each kept or broken, and of measures, which promise nothing. A moment that is missing
breaks the promise that needs it: a run that proves nothing must not pass.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from replicator.demo.promises import Report
from replicator.observe.journal import ROUTINE
from replicator.units import NS_PER_MS, NS_PER_S

KILLED = "killed"
GRANTED = "granted"
RUNNING = "running"
ALONE = "alone"
#: The client heard nothing for so many `ms` until now.
GAP = "gap"

INCREMENTS_BEFORE_KILL_MIN = 1_000
INCREMENTS_AFTER_KILL_MIN = 500
EPOCHS_BEFORE_KILL_MIN = 100
#: Of COLO: output frames that left because both guests had said them.
MATCHED_BEFORE_KILL_MIN = 1_000
#: Said often; the timeline keeps the interesting rest.
NOISE = frozenset({"progress", "report"}) | ROUTINE
KEPT_EXIT_CODE, BROKEN_EXIT_CODE = 0, 1


@dataclass(frozen=True, slots=True)
class Event:
    """One line of one source."""

    at_ns: int
    source: str
    name: str
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Protection:
    """What protecting cost, from the primary's last status before it was killed. Times in milliseconds."""

    epochs: int
    pause_ms_p50: float
    pause_ms_p99: float
    bytes_total: int
    duration_ns: int
    #: Acknowledged increments when the host was killed.
    increments_before_kill: int
    #: Of COLO: output frames that both guests said, and how the comparison fared in words; None in Remus.
    matched_frames: int | None = None
    compared: str = ""

    @property
    def bytes_per_second(self) -> float:
        """Of epochs sent to the secondary."""
        return self.bytes_total * NS_PER_S / self.duration_ns if self.duration_ns > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Promise:
    """One line of the verdict. `kept` is None for a measure that promises nothing."""

    name: str
    value: str
    kept: bool | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The end of a demonstration."""

    promises: tuple[Promise, ...]

    @property
    def kept(self) -> bool:
        """True when no promise was broken."""
        return all(promise.kept is not False for promise in self.promises)

    @property
    def exit_code(self) -> int:
        """0 when every promise was kept."""
        return KEPT_EXIT_CODE if self.kept else BROKEN_EXIT_CODE


def parse_event(line: str | bytes, source: str) -> Event | None:
    """The event in a line; None when the line is none (a log line of another kind)."""
    try:
        values = json.loads(line)
    except ValueError:
        return None
    if not isinstance(values, dict):
        return None
    name, at_ns = values.pop("event", None), values.pop("at_ns", None)
    if not isinstance(name, str) or not isinstance(at_ns, int):
        return None
    return Event(at_ns, source, name, values)


def sort_events(events: Iterable[Event]) -> list[Event]:
    """All sources in one order: by time, then by source, lines of one source as they came."""
    return sorted(events, key=lambda event: (event.at_ns, event.source))


def find_first(events: Sequence[Event], name: str, after_ns: int = 0) -> int | None:
    """Moment of the first event of this name at or after `after_ns`."""
    moments = [event.at_ns for event in events if event.name == name and event.at_ns >= after_ns]
    return min(moments, default=None)


def format_ms(from_ns: int | None, to_ns: int | None) -> str:
    """Milliseconds between two moments, or that one is missing."""
    if from_ns is None or to_ns is None:
        return "not seen"
    return f"{(to_ns - from_ns) / NS_PER_MS:.1f} ms"


def format_rate(bytes_per_second: float) -> str:
    """Bytes a second for people."""
    return f"{bytes_per_second / 1e6:.2f} MB/s"


def judge_client(report: Report, before_kill: int) -> list[Promise]:
    """What the client was promised."""
    after = report.increments_acked - before_kill
    return [
        Promise(
            "acknowledged increments",
            f"{report.increments_acked} ({before_kill} before the kill, {after} after)",
            before_kill >= INCREMENTS_BEFORE_KILL_MIN and after >= INCREMENTS_AFTER_KILL_MIN,
        ),
        Promise(
            "acknowledged increments lost",
            str(report.increments_lost),
            report.increments_lost == 0,
        ),
        Promise(
            "increments repeated",
            str(report.increments_repeated),
            report.increments_repeated == 0,
        ),
        Promise("replies strictly consecutive", yes(report.consecutive), report.consecutive),
        Promise(
            "connection survived",
            yes(report.connection_survived),
            report.connection_survived,
        ),
        Promise(
            "acknowledged SETs readable",
            f"{report.sets_acked - report.sets_missing} of {report.sets_acked}",
            report.sets_missing == 0 and report.sets_acked > 0,
        ),
        Promise("client's own word", "; ".join(report.broken) or "all kept", report.kept),
    ]


def yes(value: bool) -> str:
    """For people."""
    return "yes" if value else "NO"


def judge_alone(events: Sequence[Event]) -> list[Promise]:
    """How the primary went on when its secondary had died."""
    killed = find_first(events, KILLED)
    alone = find_first(events, ALONE, killed or 0)
    seen = killed is not None and alone is not None
    return [
        Promise("the primary went on alone", yes(seen), seen),
        Promise("dead -> alone by grant", format_ms(killed, alone)),
        Promise("client's gap at the death", describe_gap(events, killed)),
    ]


def judge_failover(events: Sequence[Event]) -> list[Promise]:
    """How the survivor took over."""
    killed = find_first(events, KILLED)
    granted = find_first(events, GRANTED, killed or 0)
    running = find_first(events, RUNNING, granted or 0)
    seen = killed is not None and granted is not None and running is not None
    return [
        Promise("the survivor took over", yes(seen), seen),
        Promise("detection (dead -> granted)", format_ms(killed, granted)),
        Promise("granted -> running", format_ms(granted, running)),
        Promise("dead -> running", format_ms(killed, running)),
        Promise("client's gap at the death", describe_gap(events, killed)),
    ]


def describe_gap(events: Sequence[Event], killed: int | None) -> str:
    """The longest time without a reply that ended after the kill."""
    gaps = [
        float(event.fields["ms"]) for event in events if event.name == GAP and event.at_ns >= (killed or 0)
    ]
    return f"{max(gaps):.1f} ms" if gaps and killed is not None else "not seen"


def judge_protection(protection: Protection | None) -> list[Promise]:
    """What protecting cost before the kill."""
    if protection is None:
        return [Promise("committed epochs", "not seen", False)]
    return [
        judge_amount(protection),
        Promise(
            "pause p50 / p99",
            f"{protection.pause_ms_p50:.2f} / {protection.pause_ms_p99:.2f} ms",
        ),
        Promise("replication traffic", format_rate(protection.bytes_per_second)),
    ]


def judge_amount(protection: Protection) -> Promise:
    """Whether there was enough protection to speak of."""
    matched = protection.matched_frames
    if matched is None:
        return Promise(
            "committed epochs", str(protection.epochs), protection.epochs >= EPOCHS_BEFORE_KILL_MIN
        )
    return Promise(
        "output that both guests said",
        f"{matched} frames; {protection.compared}",
        matched >= MATCHED_BEFORE_KILL_MIN,
    )


def judge(
    events: Sequence[Event],
    report: Report | None,
    protection: Protection | None,
    *,
    secondary_died: bool = False,
) -> Verdict:
    """The verdict of one demonstration. `report` is None when the client gave none."""
    before = protection.increments_before_kill if protection is not None else 0
    survival = judge_alone(events) if secondary_died else judge_failover(events)
    promises = judge_protection(protection) + survival
    if report is None:
        return Verdict((*promises, Promise("client's report", "the client gave none", False)))
    gap = Promise("client's longest gap ever", f"{report.longest_gap_ms:.1f} ms")
    return Verdict((*promises, *judge_client(report, before), gap))


def render_timeline(events: Iterable[Event]) -> list[str]:
    """One line an event, times relative to the kill (or to the first event when nobody was killed)."""
    ordered = [event for event in sort_events(events) if event.name not in NOISE]
    if not ordered:
        return []
    killed = find_first(ordered, KILLED)
    zero = ordered[0].at_ns if killed is None else killed
    width = max(len(event.source) for event in ordered)
    return [render_event(event, zero, width) for event in ordered]


def render_event(event: Event, zero_ns: int, width: int) -> str:
    """One line: relative milliseconds, source, name, fields."""
    milliseconds = (event.at_ns - zero_ns) / NS_PER_MS
    details = " ".join(f"{name}={value}" for name, value in event.fields.items() if not name.endswith("_ns"))
    return f"{milliseconds:+12.1f} ms  {event.source:<{width}}  {event.name} {details}".rstrip()


def render_verdict(verdict: Verdict) -> list[str]:
    """The table of promises and measures, and one last line."""
    marks = {True: "kept", False: "BROKEN", None: ""}
    width = max((len(promise.name) for promise in verdict.promises), default=0)
    lines = [
        f"  {promise.name:<{width}}  {promise.value}  {marks[promise.kept]}".rstrip()
        for promise in verdict.promises
    ]
    last = "verdict: every promise kept" if verdict.kept else "verdict: BROKEN"
    return [*lines, last]
