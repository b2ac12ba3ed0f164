"""Every event and effect of the machines is in the journal or is named here; each line is one that the format knows."""

from __future__ import annotations

import dataclasses
import json
import typing
from pathlib import Path
from typing import Any

import pytest

from replicator.arbiter.base import Lease
from replicator.arbiter.keeper import LeaseDeadline
from replicator.clock import SYSTEM_CLOCK
from replicator.engine import effects as fx
from replicator.engine import events as ev
from replicator.engine.effects import Effect
from replicator.engine.events import Event
from replicator.engine.move_report import MoveReport, Outcome
from replicator.engine.precopy import DowntimePolicy
from replicator.observe.journal import FIELDS, Journal
from replicator.service.chronicle import Chronicle
from replicator.service.epoch_writer import Sealed

#: Not told, and why.
SILENT = {
    # Timers, and what another line tells.
    fx.ArmTimer, fx.CancelTimer, ev.RetryDue, ev.EpochDue, ev.AckOverdue, fx.Reconnect,
    ev.EarlyDue, ev.OutputWaits, ev.MoveOverdue, fx.WatchIdle, ev.GuestIdle,
    # What follows is told: aborting, handing-over, the other side's answer or its heartbeat's, taking-back, the end.
    ev.BulkBroken, ev.OutputLeft, ev.PeerLeads, ev.TakeBackOrdered, fx.EndFailed,
    # Steps between two that are told.
    fx.CopyEarly, ev.EarlyCopied, fx.CopyLive, ev.LiveCopied, fx.CopyPages, ev.PagesCopied, fx.SaveDeviceState, ev.DeviceStateSaved, fx.ResumeGuest,
    fx.StorePart, ev.PartReceived, ev.EpochBegun, ev.EpochEnded, fx.TrimInputs,
    # The ledger of owed pages.
    fx.SettleOwed, fx.OweAgain, fx.OweAll,
    # `sealed` comes from the writer, which knows parts and bytes.
    ev.EpochSealed,
    # Their causes are told: lapsed, regained, stopping, standing-down.
    fx.FreezeGuest, fx.ThawGuest, fx.EndGuest,
    # `aborting` says the same, and of which session.
    ev.BulkBroken,
    # `asking` with force, and `running`.
    ev.PromoteOrdered, ev.GuestActivated,
    # Remembered for the line that follows.
    fx.SendEpoch, fx.CommitEpoch,
    # Where they count: vm-ready and vm-running.
    ev.VmLoaded, ev.VmResumed,
}  # fmt: skip


def all_kinds() -> list[type]:
    # A class with slots is made twice; the module has the one that counts.
    modules = ((ev, Event), (fx, Effect))
    found = [
        k for module, base in modules for k in base.__subclasses__() if vars(module).get(k.__name__) is k
    ]
    found.append(Sealed)
    return sorted(found, key=lambda kind: kind.__name__)


def make(kind: type) -> Any:
    """An instance with some value in each field."""
    report = MoveReport(Outcome.MOVED, "why", *[7] * (len(dataclasses.fields(MoveReport)) - 2))
    values = {
        int: 7,
        str: "why",
        bytes: b"\x01" * 16,
        bool: True,
        DowntimePolicy: DowntimePolicy(),
        MoveReport: report,
    }
    if kind is Sealed:
        return Sealed(2, 4096, b"\x02" * 16)
    hints = typing.get_type_hints(kind)
    made = {}
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        base = getattr(hint, "__supertype__", hint)
        made[field.name] = values.get(base, fx.Timer.EPOCH)
    return kind(**made)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.events"


@pytest.fixture
def chronicle(path: Path) -> Chronicle:
    return Chronicle(Journal(path), LeaseDeadline(5), SYSTEM_CLOCK)


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("kind", all_kinds(), ids=lambda kind: kind.__name__)
def test_each_event_and_effect_is_told_or_named_as_silent(
    kind: type, chronicle: Chronicle, path: Path
) -> None:
    for before in (fx.TakeOver, fx.BeginStore, fx.CommitEpoch, ev.PeerSilent):
        if before is not kind:
            chronicle.watch(make(before))
    known = len(lines_of(path))
    chronicle.watch(make(kind))
    said = lines_of(path)[known:]
    assert bool(said) is (kind not in SILENT)
    for line in said:
        fields = FIELDS[line["event"]]
        assert set(line) == {"event", "at_ns", *fields}
        assert all(type(line[name]) is wanted for name, wanted in fields.items())


def test_what_the_daemon_tells_is_known_too(chronicle: Chronicle, path: Path) -> None:
    chronicle.tell_secondary(1, b"\x01" * 16, 7, b"\x02" * 16)
    chronicle.tell_primary(Lease(2, "a", 99), promoted=True)
    chronicle.tell_running(7, 3)
    chronicle.tick("protected lag 3 ms")
    chronicle.tell_ended("stopped")
    lines = lines_of(path)
    assert [line["event"] for line in lines] == ["secondary", "primary", "running", "state", "lease", "ended"]
    for line in lines:
        assert set(line) == {"event", "at_ns", *FIELDS[line["event"]]}


def test_what_repeats_is_said_once(chronicle: Chronicle, path: Path) -> None:
    for number in range(3):
        chronicle.tick(f"protected lag {number} ms")
        chronicle.watch(ev.PeerSpoke())
        chronicle.watch(fx.TakeOver(b"s", ev.Epoch(1), force=False))
        chronicle.watch(ev.TakeOverPostponed(f"wait {number} ms"))
    chronicle.tick("degraded: the link is down")
    assert [line["event"] for line in lines_of(path)] == ["state", "lease", "asking", "postponed", "state"]


def test_output_is_said_to_be_held_once(chronicle: Chronicle, path: Path) -> None:
    for epoch in (1, 2):
        chronicle.watch(fx.PauseGuest(ev.Epoch(epoch), hold=True))
        chronicle.watch(ev.GuestPaused(ev.Epoch(epoch), 3))
    chronicle.watch(fx.PassOutput())
    chronicle.watch(fx.PauseGuest(ev.Epoch(3), hold=True))
    chronicle.watch(ev.GuestPaused(ev.Epoch(3), 3))
    said = [line["event"] for line in lines_of(path) if line["event"] in ("holding", "passing")]
    assert said == ["holding", "passing", "holding"]


def test_a_vm_is_told_apart_from_a_replica(chronicle: Chronicle, path: Path) -> None:
    """What it does, whether an epoch is one that it runs from, and which of both takes over."""
    session, epoch = b"\x01" * 16, ev.Epoch(7)
    for runs in (True, False):
        chronicle.watch(ev.EpochBegun(session, 1, epoch, ev.Epoch(6), runs))
        chronicle.watch(fx.BeginStore(1, epoch, session, full=False))
        chronicle.watch(fx.TellVmState(session, epoch, runs))
    chronicle.watch(fx.ActivateVm(epoch))
    chronicle.watch(fx.ActivateGuest(epoch))
    lines = lines_of(path)
    assert [line["event"] for line in lines] == [
        "begun", "vm-running", "begun", "vm-ready", "activating", "activating",
    ]  # fmt: skip
    assert [line["runs_vm"] for line in lines if line["event"] == "begun"] == [True, False]
    assert [line["vm"] for line in lines if line["event"] == "activating"] == [True, False]
