"""Real daemons with --events on both sides: what they did is sound, and a journal that was altered is not believed."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pair import PATIENCE_S, Pair, Side

from replicator.drill.history.check import CheckReport, check_files, check_history
from replicator.drill.history.facts import read_history
from replicator.service.control import ask_daemon

Lines = list[dict[str, Any]]


COLO = ("--mode", "colo")


def start(pair: Pair, name: str, role: str, *options: str) -> Side:
    return pair.start(name, role, "--events", str(pair.folder / f"{name}.events"), *options)


def protect(pair: Pair, *options: str) -> tuple[Side, Side]:
    secondary = start(pair, "b", "secondary", *options)
    secondary.wait_for("standby")
    primary = start(pair, "a", "primary", *options)
    primary.wait_for("primary: protected")
    return primary, secondary


def check(pair: Pair) -> CheckReport:
    return check_files(sorted(pair.folder.glob("*.events")))


def load(path: Path) -> Lines:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_there_and_back_is_sound_and_complete(pair: Pair) -> None:
    primary, secondary = protect(pair)
    primary.kill()
    secondary.wait_for("b: primary: active-alone")
    repaired = start(pair, "a", "secondary")
    secondary.wait_for("b: primary: protected")
    secondary.kill()
    repaired.wait_for("a: primary: active-alone")
    pair.end()
    report = check(pair)
    assert report.violations == ()
    assert report.lives == 3 and report.checked["terms"] == 3 and report.checked["speakers"] == 3
    for rule in (
        "released",
        "bar",
        "acks",
        "promises",
        "promotion",
        "words",
        "standby",
        "take-over",
        "older",
    ):
        assert report.checked[rule], f"{rule} had nothing to judge"


def test_a_lost_secondary_a_frozen_primary_and_a_stop_are_sound(pair: Pair) -> None:
    primary, secondary = protect(pair)
    secondary.kill()
    primary.wait_for("a: primary: active-alone")
    again = start(pair, "b", "secondary")
    primary.wait_for("a: primary: protected")
    primary.signal(signal.SIGSTOP)
    again.wait_for("b: primary: active-alone")
    primary.signal(signal.SIGCONT)
    primary.wait_for("ended: fenced")
    third = start(pair, "a", "secondary")
    again.wait_for("b: primary: protected")
    ask_daemon(pair.folder / "b", "stop", guest="shutdown")
    third.wait_for("stood down")
    again.process.wait(30)
    pair.end()
    report = check(pair)
    assert report.violations == ()
    assert report.checked["passing"] >= 2
    said = {line["event"] for path in pair.folder.glob("*.events") for line in load(path)}
    assert {"alone", "passing", "lost", "fenced", "standing-down", "stood-down", "told-to-stand-down"} <= said


def test_a_pair_in_colo_is_sound_and_its_vm_takes_over(pair: Pair) -> None:
    with (pair.folder / "a.toml").open("a") as config:
        config.write("[colo]\ninterval_max_ms = 50\n")
    primary, secondary = protect(pair, *COLO)
    wait_for_events(pair.folder / "a.events", "comparing", 3)
    primary.kill()
    secondary.wait_for("b: primary: active-alone")
    start(pair, "a", "secondary", *COLO)
    wait_for_events(pair.folder / "b.events", "comparing", 1)
    pair.end()
    report = check(pair)
    assert report.violations == ()
    assert report.checked["vm"] and report.checked["compared"]
    lines = load(pair.folder / "b.events")
    (activating,) = [line for line in lines if line["event"] == "activating"]
    assert activating["vm"]
    told = {line["event"] for line in (*load(pair.folder / "a.events"), *lines)}
    assert {"suspending-vm", "vm-suspended", "vm-resumed", "vm-starting", "answering-suspend"} <= told
    replica = b"".join(
        json.dumps({**line, "vm": False} if line is activating else line).encode() + b"\n" for line in lines
    )
    files = {"a.events": (pair.folder / "a.events").read_bytes(), "b.events": replica}
    assert "vm" in {violation.rule for violation in check_history(read_history(files)).violations}


def test_a_pair_without_an_arbiter_is_sound(pair_without_arbiter: Pair) -> None:
    pair = pair_without_arbiter
    primary, secondary = protect(pair)
    primary.kill()
    secondary.wait_for("the primary is silent")
    ask_daemon(pair.folder / "b", "promote")
    secondary.wait_for("b: primary: active-alone")
    pair.end()
    assert check(pair).violations == ()
    (granted,) = [line for line in load(pair.folder / "b.events") if line["event"] == "granted"]
    assert granted["force"] is True


def wait_for_events(path: Path, event: str, count: int) -> None:
    """Until the daemon has said it so many times."""
    deadline = time.monotonic() + PATIENCE_S
    while path.read_bytes().count(f'"event": "{event}"'.encode()) < count:
        assert time.monotonic() < deadline, path.read_text()
        time.sleep(0.01)


def drop(event: str) -> Callable[[Lines, Lines], None]:
    def alter(a: Lines, b: Lines) -> None:
        for lines in (a, b):
            lines[:] = [line for line in lines if line["event"] != event]

    return alter


def take_over_early(_: Lines, b: Lines) -> None:
    """As if the survivor had not waited for the lease."""
    at = next(index for index, line in enumerate(b) if line["event"] == "silent" and index > 9)
    for line in b[at:]:
        line["at_ns"] = b[at]["at_ns"]


def cut_the_last_commits(_: Lines, b: Lines) -> None:
    """As if it had never had them, in all that it says."""
    epochs = [line["epoch"] for line in b if line["event"] == "committed"]
    arriving = ("begun", "committed", "acking")
    b[:] = [line for line in b if line["event"] not in arriving or line["epoch"] not in epochs[-2:]]
    for line in b:
        if line["event"] in ("asking", "granted", "activating", "running"):
            line["epoch"] = epochs[-3]


@pytest.mark.parametrize(
    ("rule", "alter"),
    [
        ("released", drop("acked")),
        ("words", drop("lifted")),
        ("acks", drop("committed")),
        ("promises", drop("acking")),
        ("take-over", drop("granted")),
        ("speakers", take_over_early),
        ("promotion", cut_the_last_commits),
    ],
)
def test_an_altered_journal_is_found_out(failed_over: tuple[Lines, Lines], rule: str, alter: Any) -> None:
    a, b = ([dict(line) for line in lines] for lines in failed_over)
    alter(a, b)
    files = {
        name: b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        for name, lines in (("a.events", a), ("b.events", b))
    }
    assert rule in {violation.rule for violation in check_history(read_history(files)).violations}


@pytest.fixture(scope="module")
def failed_over(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lines, Lines]:
    """Journals of one take-over."""
    pair = Pair(tmp_path_factory.mktemp("pair"))
    try:
        primary, secondary = protect(pair)
        wait_for_events(pair.folder / "a.events", "state", 2)
        wait_for_events(pair.folder / "a.events", "released", 8)
        primary.kill()
        secondary.wait_for("b: primary: active-alone")
    finally:
        pair.end()
    assert check(pair).kept
    return load(pair.folder / "a.events"), load(pair.folder / "b.events")


def test_a_daemon_that_finds_another_one_there_writes_nothing_into_its_journal(pair: Pair) -> None:
    primary, _ = protect(pair)
    rival = start(pair, "a", "primary")
    rival.wait_for("another daemon uses")
    rival.process.wait(30)
    path = pair.folder / "a.events"
    assert [line["event"] for line in load(path)].count("journal") == 1
    assert os.stat(path).st_mode & 0o777 == 0o600
    primary.kill()
