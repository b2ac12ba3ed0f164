"""The verdict on a soak: what grew beyond its bound, and what was left behind. Pure: it knows samples and lists of names,
not where they come from.

A *subject* is one thing during which nothing may grow: a daemon or its QEMU in one role, or the hosts as a whole. Of
its samples, the warm-up is left out; then the median of the last third is compared with that of the first."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

DAEMON: Final = "daemon"
QEMU: Final = "qemu"
HOSTS: Final = "hosts"
#: Fewer say nothing: three a third.
SAMPLES_MIN: Final = 9


class Sample(NamedTuple):
    """What was measured of a subject at a time (seconds of any clock that never goes back)."""

    at_s: float
    kind: str
    #: What the subject is to the others of its kind; a table has a line for each role.
    role: str
    subject: str
    values: Mapping[str, int]


class Bound(NamedTuple):
    """What may be added to the median of the first third: the larger of the two."""

    absolute: int
    share: float = 0.0

    def above(self, first: float) -> float:
        return max(float(self.absolute), first * self.share)


#: Kind -> what is measured of it -> how much it may grow within one subject.
BOUNDS: Final[Mapping[str, Mapping[str, Bound]]] = {
    # A synchronisation leaves up to 2 MiB more; an answer that is just being given has a connection; the pool of threads
    # grows up to cores + 4 by itself.
    DAEMON: {"anon_kib": Bound(3 << 10, 0.05), "fds": Bound(2), "threads": Bound(6)},
    # Translated code of the guest is kept, up to a fixed size.
    QEMU: {"anon_kib": Bound(16 << 10, 0.10), "fds": Bound(2), "threads": Bound(2)},
    HOSTS: {
        "processes": Bound(0),
        "interfaces": Bound(0),
        "namespaces": Bound(0),
        "files": Bound(2),
        "scratch_kib": Bound(16 << 10),
    },
}


@dataclass(frozen=True, slots=True)
class Trend:
    """One number of one subject. `first` and `last`: medians of these thirds."""

    kind: str
    role: str
    subject: str
    metric: str
    samples: int
    minutes: float
    first: float
    last: float
    highest: int
    allowed: float

    @property
    def growth(self) -> float:
        return self.last - self.first

    @property
    def grows(self) -> bool:
        return self.growth > self.allowed

    def __str__(self) -> str:
        return (
            f"{self.subject}: {self.metric} grew from {self.first:.0f} to {self.last:.0f} in {self.minutes:.1f} min"
            f" ({self.samples} samples, {self.allowed:.0f} more are allowed)"
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    trends: Sequence[Trend]
    #: Subjects that lived too shortly to be judged.
    unjudged: Sequence[str]
    problems: Sequence[str]


def judge(
    samples: Iterable[Sample],
    *,
    warm_up_s: float,
    left_behind: Iterable[str] = (),
    troubles: Iterable[str] = (),
) -> Verdict:
    """The verdict; a run in which no daemon, no QEMU or not the hosts could be judged is a failed one.

    `left_behind`: names of what was there after the end and not before; `troubles`: what else went wrong."""
    trends: list[Trend] = []
    unjudged: list[str] = []
    for subject, series in _by_subject(samples):
        steady = [sample for sample in series if sample.at_s - series[0].at_s >= warm_up_s]
        if len(steady) < SAMPLES_MIN:
            unjudged.append(subject)
        else:
            trends += (_trend(steady, metric, bound) for metric, bound in BOUNDS[steady[0].kind].items())
    problems = [str(trend) for trend in trends if trend.grows]
    problems += (f"left behind: {name}" for name in left_behind)
    problems += troubles
    judged = {trend.kind for trend in trends}
    problems += (f"no {kind} was there long enough to be judged" for kind in BOUNDS if kind not in judged)
    return Verdict(trends, unjudged, problems)


def worst_of_each(trends: Iterable[Trend]) -> list[tuple[int, Trend]]:
    """Of each kind, role and metric: how many subjects there were, and the trend that grew most."""

    def key(trend: Trend) -> tuple[str, str, str]:
        return trend.kind, trend.role, trend.metric

    groups = itertools.groupby(sorted(trends, key=key), key=key)
    found = [list(group) for _, group in groups]
    return [(len(group), max(group, key=lambda trend: trend.growth)) for group in found]


def find_left_behind(before: Mapping[str, frozenset[str]], after: Mapping[str, frozenset[str]]) -> list[str]:
    """What is there now and was not before, as "kind name"."""
    return [
        f"{kind} {name}"
        for kind, names in after.items()
        for name in sorted(names - before.get(kind, frozenset()))
    ]


def _by_subject(samples: Iterable[Sample]) -> Iterable[tuple[str, list[Sample]]]:
    ordered = sorted(samples, key=lambda sample: (sample.subject, sample.at_s))
    for subject, series in itertools.groupby(ordered, key=lambda sample: sample.subject):
        yield subject, list(series)


def _trend(steady: Sequence[Sample], metric: str, bound: Bound) -> Trend:
    values = [sample.values[metric] for sample in steady]
    third = len(values) // 3
    first, last = statistics.median(values[:third]), statistics.median(values[-third:])
    minutes = (steady[-1].at_s - steady[0].at_s) / 60
    _, kind, role, subject, _ = steady[0]
    return Trend(
        kind, role, subject, metric, len(values), minutes, first, last, max(values), bound.above(first)
    )
