"""A daemon that is told to stand in a phase: it says so, stands, and goes on when it may. Heard by the drill's ear."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from replicator.demo.lab import Lab
from replicator.drill.actors.stop_point import ARM, GO
from replicator.drill.matrix.phases import Phase
from replicator.drill.stand.ear import ENDED, Ear
from replicator.drill.stand.guests import SyntheticDrillGuest
from replicator.drill.stand.stand import PROTECTED, Stand
from replicator.errors import GuestError

PATIENCE_S = 20.0
#: Passes through two phases again and again, and tells each round.
DAEMON = """
import asyncio, sys
from pathlib import Path
from replicator.drill.matrix.phases import Phase
from replicator.drill.actors.stop_point import StopPoint

async def main():
    stop = StopPoint(Path(sys.argv[1]), sys.argv[2])
    stop.watch()
    turn, words = 0, sys.argv[3:] or ["protected"]
    while True:
        turn += 1
        stop.reach(Phase.PAUSED)
        stop.reach(Phase.STAGED)
        stop.tell("turn", number=turn)
        if turn % 50 == 0:
            stop.tell("state", word=f"primary: {words[turn // 50 % len(words)]}")
        await asyncio.sleep(0.005)

asyncio.run(main())
"""


@pytest.fixture
def ear(tmp_path: Path) -> Iterator[Ear]:
    with Ear(tmp_path / "ear.sock") as made:
        yield made


def start(ear: Ear, name: str, *words: str) -> subprocess.Popen[bytes]:
    """`words` are said in turns, each for 50 rounds."""
    daemon = subprocess.Popen([sys.executable, "-c", DAEMON, str(ear.path), name, *words])
    ear.listen_to(name, daemon)
    ear.wait("its first turn", 0, lambda e: e.source == name and e.name == "turn", PATIENCE_S)
    return daemon


def wait(ear: Ear, mark: int, name: str) -> None:
    ear.wait(name, mark, lambda event: event.name == name, PATIENCE_S)


def test_it_stands_in_the_phase_that_was_asked_for_and_nowhere_else(ear: Ear):
    daemon = start(ear, "a")
    for phase in (Phase.STAGED, Phase.PAUSED, Phase.STAGED):
        mark = ear.mark
        ear.order("a", f"{ARM} {phase.value}")
        wait(ear, mark, "hit")
        stood = ear.mark
        assert [e.fields["phase"] for e in ear.since(mark) if e.name == "hit"] == [phase.value]
        with pytest.raises(GuestError, match="not within"):
            ear.wait("a turn", stood, lambda event: event.name == "turn", 0.05)
        ear.order("a", GO)
        wait(ear, stood, "turn")
    daemon.kill()
    ear.await_end(daemon, PATIENCE_S)


def test_two_daemons_are_told_apart_and_the_end_of_one_is_heard(ear: Ear):
    first, second = start(ear, "a"), start(ear, "b")
    mark = ear.mark
    ear.order("b", f"{ARM} {Phase.PAUSED.value}")
    hit = ear.wait("b stands", mark, lambda event: event.name == "hit", PATIENCE_S)
    assert hit.source == "b"
    second.kill()
    ear.await_end(second, PATIENCE_S)
    assert ear.state_of("b") == ENDED
    ear.order("b", GO)
    ear.wait("a goes on", ear.mark, lambda e: e.source == "a" and e.name == "turn", PATIENCE_S)
    first.kill()
    ear.await_end(first, PATIENCE_S)


def test_a_pair_that_is_not_protected_in_a_phase_is_asked_for_it_again(ear: Ear, tmp_path: Path):
    stand = Stand(cast(Lab, SimpleNamespace(scratch=tmp_path)), SyntheticDrillGuest())
    stand.ear = ear
    daemon = start(ear, stand.primary, "active-alone", "protected")
    ear.wait("it is alone", 0, lambda e: e.fields.get("word") == "primary: active-alone", PATIENCE_S)
    assert stand.reach(Phase.PAUSED)
    hits = [event for event in ear.since(0) if event.name == "hit"]
    assert len(hits) >= 2 and ear.state_of(stand.primary) == PROTECTED
    daemon.kill()
    ear.await_end(daemon, PATIENCE_S)


def test_a_daemon_ends_with_the_drill(tmp_path: Path):
    with Ear(tmp_path / "ear.sock") as ear:
        daemon = start(ear, "a")
        ear.order("a", f"{ARM} {Phase.PAUSED.value}")
        wait(ear, 0, "hit")
    assert daemon.wait(PATIENCE_S) == 1
