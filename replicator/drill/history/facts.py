"""Journals of daemons and logs of clients as facts: who said what, in which file and line. Pure.

A file is a row of lives: each begins with a header (observe/journal.py). A line that cannot be understood is damage,
which is named, unless it is what a killed daemon leaves: half a line at the end of its life. This file does not know
what must be true of a history: see primary.py, secondary.py, pair.py and client.py.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from replicator.errors import ConfigError
from replicator.observe.journal import FIELDS, FORMAT, HEADER, LATER_FIELDS

#: What demo/client.py says.
CLIENT_EVENTS: Final = frozenset(
    {"connected", "progress", "gap", "broken", "report", "unreadable", "unreachable"}
)
#: Where roles begin, in a life.
SECONDARY, PRIMARY = "secondary", "primary"


@dataclass(frozen=True, slots=True)
class Fact:
    """One line."""

    file: str
    line: int
    event: str
    at_ns: int
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken rule, and the facts that show it."""

    rule: str
    text: str
    facts: tuple[Fact, ...] = ()


class Findings:
    """What was checked how often, and what was broken."""

    def __init__(self) -> None:
        self.checked: Counter[str] = Counter()
        self.violations: list[Violation] = []

    def check(self, rule: str, holds: bool, text: str, *facts: Fact | None) -> None:
        self.checked[rule] += 1
        if not holds:
            shown = tuple(fact for fact in facts if fact is not None)
            self.violations.append(Violation(rule, text, shown))


@dataclass(slots=True)
class Life:
    """One daemon process from its header on, or a part of it: one that has handed its guest over and follows begins anew."""

    header: Fact
    facts: list[Fact] = field(default_factory=list)

    @property
    def node(self) -> str:
        return str(self.header["node"])

    @property
    def boot(self) -> str:
        """Lives of one boot of a host share their clocks."""
        return str(self.header["boot"])

    @property
    def reign(self) -> list[Fact]:
        """From the moment on at which this side had a term of its own; empty if it never had."""
        return self.facts[self._turn :]

    @property
    def watch(self) -> list[Fact]:
        """What it did as a secondary."""
        before = self.facts[: self._turn]
        return before if any(fact.event == SECONDARY for fact in before) else []

    @property
    def _turn(self) -> int:
        turns = (index for index, fact in enumerate(self.facts) if fact.event == PRIMARY)
        return next(turns, len(self.facts))

    @property
    def term(self) -> int:
        """Of its reign; 0 without one."""
        return int(self.reign[0]["term"]) if self.reign else 0


@dataclass(slots=True)
class History:
    """All that is known of one pair."""

    lives: list[Life] = field(default_factory=list)
    #: One list a client.
    clients: list[list[Fact]] = field(default_factory=list)
    damages: list[Violation] = field(default_factory=list)
    #: Lines that a killed daemon left unfinished.
    cut_lines: int = 0
    lines: int = 0


def read_history(files: Mapping[str, bytes]) -> History:
    """Name -> content. ConfigError for a file that is no journal at all, or of a newer release."""
    history = History()
    for name, content in files.items():
        _read_file(history, name, content)
    return history


def _read_file(history: History, name: str, content: bytes) -> None:
    raw_lines = content.split(b"\n")
    is_ended = raw_lines[-1] == b""
    lines = raw_lines[:-1] if is_ended else raw_lines
    facts = [_parse(name, number, raw) for number, raw in enumerate(lines, 1)]
    if not any(isinstance(fact, Fact) for fact in facts):
        raise ConfigError(
            f"{name} is no journal: none of its {len(lines)} lines is an event",
            hint="name what a daemon wrote with --events, or what replicator.demo.client printed",
        )
    history.lines += len(lines)
    for index, fact in enumerate(facts):
        if isinstance(fact, Fact):
            _take(history, fact, opens=index == 0)
        elif _is_cut(facts, index, is_ended):
            history.cut_lines += 1
        else:
            history.damages.append(Violation("readable", fact, (Fact(name, index + 1, "?", 0),)))


def _is_cut(facts: Sequence[Fact | str], index: int, is_ended: bool) -> bool:
    """Whether an unreadable line is the last of its life: of the file, or before the next header."""
    if index + 1 == len(facts):
        return not is_ended
    following = facts[index + 1]
    return isinstance(following, Fact) and following.event == HEADER


def _parse(name: str, number: int, raw: bytes) -> Fact | str:
    """The fact in a line, or what is wrong with it."""
    try:
        values = json.loads(raw)
    except ValueError:
        return "not JSON"
    if not isinstance(values, dict):
        return "no JSON object"
    event, at_ns = values.pop("event", None), values.pop("at_ns", None)
    if not isinstance(event, str) or not isinstance(at_ns, int):
        return "no event with a time"
    if event not in FIELDS and event not in CLIENT_EVENTS:
        return f"unknown event {event!r}"
    values = {**LATER_FIELDS.get(event, {}), **values}
    for field_name, kind in FIELDS.get(event, {}).items():
        if type(values.get(field_name)) is not kind:
            return f"{event} without a {field_name} of type {kind.__name__}"
    return Fact(name, number, event, at_ns, values)


def _take(history: History, fact: Fact, *, opens: bool) -> None:
    if fact.event in CLIENT_EVENTS:
        if opens or not history.clients or history.clients[-1][0].file != fact.file:
            history.clients.append([])
        history.clients[-1].append(fact)
    elif fact.event == HEADER:
        if fact["format"] > FORMAT:
            raise ConfigError(
                f"{fact.place}: a journal of format {fact['format']}, this release reads {FORMAT}",
                hint="check it with the release that wrote it",
            )
        history.lives.append(Life(fact))
    elif not history.lives or history.lives[-1].header.file != fact.file:
        history.damages.append(Violation("readable", f"{fact.event} before any header", (fact,)))
    else:
        life = history.lives[-1]
        if fact.event == SECONDARY and life.reign:
            life = Life(life.header)
            history.lives.append(life)
        life.facts.append(fact)
