"""Side-by-side timing: each round runs every candidate once, so that a noisy machine disturbs them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

Step = Callable[[], object]
#: Called with all that is shown: title, milliseconds of each round by candidate, bytes moved (0: none).
listeners: list[Callable[[str, Mapping[str, list[float]], int], None]] = []


def time_once(step: Step) -> float:
    """Milliseconds of one run."""
    begin_ns = time.perf_counter_ns()
    step()
    return (time.perf_counter_ns() - begin_ns) / 1e6


def time_rounds(candidates: Mapping[str, Step], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each round, after one round that is not counted. Each other round goes backwards: who comes
    second finds in the cache what the one before left there."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    order = list(candidates.items())
    for number in range(rounds + 1):
        for name, step in order if number % 2 else reversed(order):
            took_ms = time_once(step)
            if number:
                times[name].append(took_ms)
    return times


def show(title: str, times: Mapping[str, list[float]], size_bytes: int = 0) -> None:
    """Median, middle half and, against the first candidate, the ratio."""
    for listen in listeners:
        listen(title, times, size_bytes)
    print(title)
    base = statistics.median(next(iter(times.values())))
    for name, values in times.items():
        median = statistics.median(values)
        low, _, high = statistics.quantiles(values, n=4)
        rate = f"  {size_bytes / median / 1e6:6.2f} GB/s" if size_bytes else ""
        print(
            f"  {name:<34} {median:9.3f} ms  ({low:.3f} .. {high:.3f}){rate}  x {median / base:.2f} of the first"
        )
