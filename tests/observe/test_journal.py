"""The journal's file: private, appended to, whole lines, and never in the way."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from replicator.errors import FileAccessError
from replicator.observe.journal import FIELDS, FORMAT, LATER_FIELDS, ROUTINE, Journal


def lines_of(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_lines_are_appended_to_a_private_file(tmp_path: Path) -> None:
    path = tmp_path / "a.events"
    for epoch in (1, 2):
        journal = Journal(path)
        journal.begin("a", "g", has_arbiter=True)
        journal.say("released", epoch=epoch)
        journal.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    lines = lines_of(path)
    assert [line["event"] for line in lines] == ["journal", "released"] * 2
    assert {"node": "a", "guest": "g", "arbiter": True, "format": FORMAT}.items() <= lines[0].items()
    assert set(lines[0]) == {"event", "at_ns", *FIELDS["journal"]}


def test_half_a_line_of_a_killed_daemon_spoils_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "a.events"
    path.write_text('{"event": "lifted", "at_ns": 1}\n{"event": "pau')
    Journal(path).say("lifted")
    first, half, last = path.read_text().splitlines()
    assert half == '{"event": "pau' and json.loads(first)["event"] == json.loads(last)["event"] == "lifted"


def test_without_a_path_it_keeps_silent() -> None:
    journal = Journal(None)
    journal.begin("a", "g", has_arbiter=False)
    journal.say("lifted")
    assert not journal.is_open
    journal.close()


def test_a_full_disk_stops_the_journal_and_nothing_else() -> None:
    journal = Journal(Path("/dev/full"))
    assert journal.is_open
    journal.say("lifted")
    assert not journal.is_open
    journal.say("lifted")


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileAccessError, match="none/a.events cannot be written") as caught:
        Journal(tmp_path / "none" / "a.events")
    assert "--events" in caught.value.hint


def test_routine_events_are_events() -> None:
    assert set(FIELDS) >= ROUTINE


def test_later_fields_are_fields_of_their_kind() -> None:
    for event, fields in LATER_FIELDS.items():
        assert all(type(value) is FIELDS[event][name] for name, value in fields.items())
