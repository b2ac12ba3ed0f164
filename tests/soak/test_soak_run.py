"""A short soak with one daemon that leaks and one that does not: everything that leaks is found, and nothing else."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from leaky_daemon import LEFT_PROCESS, LEFT_TAP, left_namespace
from soak import Plan, soak
from soak_pair import Start

from replicator.demo.guest_image import default_cache_dir, ensure_guest_image
from replicator.demo.lab import HOST_B, NETNS_DIR, Lab, run_ip
from replicator.demo.stage import Stage

pytestmark = pytest.mark.live

LEAKY = "b"
PLAN = Plan(total_s=10, quiet_s=0, calm_s=10, interval_s=0.5, warm_up_s=3)


@pytest.fixture
def labs() -> Iterator[list[Lab]]:
    """Labs whose planted namespace is removed at the end."""
    made: list[Lab] = []
    yield made
    for lab in made:
        if (NETNS_DIR / left_namespace(lab.name)).exists():
            run_ip(["netns", "del", left_namespace(lab.name)])


def test_every_planted_leak_is_found_and_nothing_else(labs: list[Lab]) -> None:
    def start(stage: Stage, lab: Lab) -> Start:
        labs.append(lab)

        def make(side: str, role: str) -> subprocess.Popen[bytes]:
            if side != LEAKY:
                return stage.start_daemon(side, role)
            script = str(Path(__file__).with_name("leaky_daemon.py"))
            return stage.start_python(side, [script, lab.name, role, f"{stage.scratch}/{side}.toml"])

        return make

    problems = soak(ensure_guest_image(default_cache_dir(), print), PLAN, print, start).verdict.problems
    (lab,) = labs
    beginnings = [
        f"daemon of {HOST_B}, life 2, secondary: anon_kib grew",
        f"daemon of {HOST_B}, life 2, secondary: fds grew",
        "left behind: process ",
        f"left behind: namespace {left_namespace(lab.name)}",
        f"left behind: TAP {LEFT_TAP} on {HOST_B}",
        f"left behind: namespace {left_namespace(lab.name)}",
    ]
    assert len(problems) == len(beginnings), problems
    for problem, beginning in zip(problems, beginnings):
        assert problem.startswith(beginning), problems
    assert " ".join(LEFT_PROCESS) in problems[2]
