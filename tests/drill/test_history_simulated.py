"""Journals of simulated pairs, which suffer faults at random: the checker finds nothing in what the simulator finds sound.

Each host of a simulation has clocks of its own, so its journals are taken for those of another boot.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from replicator.drill.history.check import CheckReport, check_history
from replicator.drill.history.facts import read_history
from replicator.service.config import DaemonConfig
from replicator.service.daemon import Options
from replicator.sim.host import Host, WatchedDaemon
from replicator.sim.run import run_seed

SEEDS = range(6)


def journal_of(folder: Path, name: str) -> Path:
    return folder / f"{name}.events"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every daemon of a simulation writes its journal here."""

    class TellingDaemon(WatchedDaemon):
        def __init__(self, config: DaemonConfig, options: Options, *rest: Any) -> None:
            super().__init__(config, replace(options, events=journal_of(tmp_path, config.node.name)), *rest)

    monkeypatch.setattr(Host, "daemon_class", TellingDaemon)
    return tmp_path


def check(folder: Path) -> CheckReport:
    files = {}
    for path in sorted(folder.glob("*.events")):
        own_boot = f'"boot": "{path.stem} '.encode()
        files[path.name] = path.read_bytes().replace(b'"boot": "', own_boot)
    return check_history(read_history(files))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_sound_run_has_a_sound_history(folder: Path, seed: int) -> None:
    result = run_seed(seed)
    report = check(folder)
    assert result.violation is None and report.violations == ()
    assert report.lives >= 2 and report.checked["promises"] > 50


def test_a_primary_that_does_not_wait_for_the_ack_is_found_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Output of an epoch is released as soon as it is sealed: a planted bug, in the real machine."""
    from replicator.engine import effects as fx
    from replicator.engine.primary import PrimaryMachine

    seal = PrimaryMachine._on_epoch_sealed
    monkeypatch.setattr(
        PrimaryMachine,
        "_on_epoch_sealed",
        lambda self, event, now_ns: [*seal(self, event, now_ns), fx.ReleaseOutput(event.epoch)],
    )
    run_seed(SEEDS[0])
    assert "released" in {violation.rule for violation in check(folder).violations}
