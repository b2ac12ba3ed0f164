"""A soak: a real pair around a real VM, under load, whose hosts die and return again and again; nothing may grow and
nothing may be left behind.

    python tests/soak/soak.py --minutes 10 [--json build/soak.json]

First hosts die, then, for the last third, none does. All stretches grow with the minutes, so that a longer run sees longer
lives and finds slower leaks. Exit code 1 when the verdict is bad.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from soak_judge import Sample, Verdict, find_left_behind, judge, worst_of_each
from soak_pair import DEATHS, Sampler, SoakPair, Start
from soak_samples import survey_after, survey_lab

from replicator.demo.guest_image import GuestImage, default_cache_dir, ensure_guest_image
from replicator.demo.lab import Lab
from replicator.demo.stage import Stage
from replicator.errors import GuestError

INTERVAL_S = 1.0
WARM_UP_S = 10.0
#: Of the whole run: a stretch between two deaths, of which there are some twelve; and the last one.
QUIET_SHARE = 1 / 25
CALM_SHARE = 1 / 3
#: Beside the warm-up, a stretch has to have samples enough.
QUIET_MIN_S = 20.0


@dataclass(frozen=True, slots=True)
class Plan:
    """Seconds of a run and of its parts; between two samples; of each subject, at first, that are not judged."""

    total_s: float
    quiet_s: float
    #: The last so many seconds nobody dies.
    calm_s: float
    interval_s: float = INTERVAL_S
    warm_up_s: float = WARM_UP_S


@dataclass(frozen=True, slots=True)
class Result:
    verdict: Verdict
    samples: list[Sample]
    deaths: int


def soak(
    image: GuestImage,
    plan: Plan,
    say: Callable[[str], None],
    start: Callable[[Stage, Lab], Start] | None = None,
) -> Result:
    """One run. `start` gives another way to start daemons. A pair that does not go on is part of the verdict."""
    troubles: list[str] = []
    with Lab() as lab:
        stage = Stage(lab, image)
        pair = SoakPair(stage, start(stage, lab) if start is not None else None)
        before = survey_lab(lab)
        with Sampler(lab, pair, plan.interval_s) as sampler:
            try:
                _live(pair, plan, say)
            except GuestError as error:
                troubles.append(f"{error} {error.hint}")
        troubles += pair.end()
        left = find_left_behind(before, survey_lab(lab))
    left += find_left_behind({}, survey_after(lab.name))
    verdict = judge(sampler.samples, warm_up_s=plan.warm_up_s, left_behind=left, troubles=troubles)
    return Result(verdict, sampler.samples, pair.deaths)


def _live(pair: SoakPair, plan: Plan, say: Callable[[str], None]) -> None:
    pair.protect()
    say("protected")
    end = time.monotonic() + plan.total_s
    while end - plan.calm_s - time.monotonic() > plan.quiet_s:
        pair.rest(plan.quiet_s)
        victim = DEATHS[pair.deaths % len(DEATHS)]
        pair.kill(victim)
        say(f"death {pair.deaths}: the {victim}'s host; protected again, the guest runs on {pair.primary}")
    pair.rest(end - time.monotonic())


def show(result: Result) -> None:
    """Of each role and number the subject that grew most, then the problems."""
    print(
        f"\n{'':<30} {'':<12} {'lives':>5} {'worst: min':>10} {'first':>9} {'last':>9} {'growth':>9} {'allowed':>9}"
    )
    for lives, trend in worst_of_each(result.verdict.trends):
        print(
            f"{trend.kind + ', ' + trend.role:<30} {trend.metric:<12} {lives:5d} {trend.minutes:10.1f} {trend.first:9.0f}"
            f" {trend.last:9.0f} {trend.growth:+9.0f} {trend.allowed:+9.0f}"
        )
    print(f"{len(result.verdict.unjudged)} subjects lived too shortly to be judged")
    print(f"\n{result.deaths} deaths, {len(result.samples)} samples")
    for problem in result.verdict.problems:
        print(f"PROBLEM: {problem}")
    print("verdict:", "nothing grows, nothing is left" if not result.verdict.problems else "BAD")


def save(result: Result, path: Path) -> None:
    """Verdict and samples as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    body = {
        "problems": list(result.verdict.problems),
        "deaths": result.deaths,
        "trends": [
            asdict(trend) | {"growth": trend.growth, "grows": trend.grows} for trend in result.verdict.trends
        ],
        "unjudged": list(result.verdict.unjudged),
        "samples": [sample._asdict() for sample in result.samples],
    }
    path.write_text(json.dumps(body, indent=1) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description="Soak a pair.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--json", type=Path, default=Path("build/soak.json"))
    options = parser.parse_args()
    total_s = options.minutes * 60
    plan = Plan(total_s, max(QUIET_MIN_S, total_s * QUIET_SHARE), total_s * CALM_SHARE)
    result = soak(ensure_guest_image(default_cache_dir(), print), plan, lambda line: print(line, flush=True))
    show(result)
    save(result, options.json)
    return 1 if result.verdict.problems else 0


if __name__ == "__main__":
    sys.exit(main())
