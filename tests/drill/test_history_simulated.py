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
from replicator.sim.settings import Modes

SEEDS = range(6)
#: Of pairs in COLO, with take-overs of VMs and of replicas among them.
COLO_SEEDS = (9, 14, 15, 28)
#: Any take-over of a VM will do.
PLANTED_SEEDS = range(9, 30)


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


@pytest.mark.parametrize("seed", COLO_SEEDS)
def test_a_sound_run_in_colo_has_a_sound_history(folder: Path, seed: int) -> None:
    result = run_seed(seed, Modes.COLO)
    report = check(folder)
    assert result.violation is None and report.violations == ()
    assert report.checked["vm"] > 50 and report.checked["compared"] > 50


def test_a_replica_promoted_in_the_place_of_its_vm_is_found_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A planted bug, in the real machine. What has left by comparison is lost by it."""
    from replicator.engine import effects as fx
    from replicator.engine.secondary import SecondaryMachine

    grant = SecondaryMachine._on_granted
    monkeypatch.setattr(
        SecondaryMachine,
        "_on_granted",
        lambda self, event, now_ns: [
            fx.ActivateGuest(effect.epoch) if isinstance(effect, fx.ActivateVm) else effect
            for effect in grant(self, event, now_ns)
        ],
    )
    for seed in PLANTED_SEEDS:
        run_seed(seed, Modes.COLO)
        if "vm" in {violation.rule for violation in check(folder).violations}:
            return
    pytest.fail("no seed has promoted one")


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
