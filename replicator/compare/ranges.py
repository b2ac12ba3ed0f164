"""`ignore-ranges`: places that may differ, because whoever runs the guest says so.

A rule names either a range of bytes, counted from the start of the connection or of the datagram, or a pattern. What
is ignored has equal length on both sides and lies at the same place; a pattern must match on both. A match may begin in
bytes that have left already: the newest ones of each side are kept for that. A match that ends where the bytes end
may still grow: it waits for the next byte, or until nothing came for `SETTLE_NS`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from replicator.compare.api import Ages, Connection, Differs, Same, Verdict, Wait, count_equal
from replicator.errors import ConfigError
from replicator.units import NS_PER_MS

#: Longest match of a pattern.
REACH_BYTES: Final = 256
#: When no more bytes came for so long, what is here is what was said.
SETTLE_NS: Final = 50 * NS_PER_MS
_HINT = 'a rule is {name = "clock", pattern = "time=\\\\d+", ports = [80]} or {name = "id", range = [4, 12]}'


@dataclass(frozen=True, slots=True)
class Rule:
    name: str
    #: Of the guest's side; empty for all.
    ports: frozenset[int]
    pattern: re.Pattern[bytes] | None = None
    #: First and past-the-last byte; of no use beside a pattern.
    first: int = 0
    end: int = 0

    def __str__(self) -> str:
        where = f"pattern {self.pattern.pattern!r}" if self.pattern else f"bytes {self.first}..{self.end}"
        ports = f" on ports {', '.join(map(str, sorted(self.ports)))}" if self.ports else ""
        return f"{self.name}: {where}{ports}"

    def covers(self, connection: Connection) -> bool:
        return not self.ports or connection.guest_port in self.ports


class IgnoreRangesComparer:
    """`rules`: tables as in `_HINT`, one at least."""

    def __init__(self, rules: Iterable[Mapping[str, Any]] = ()) -> None:
        self._rules = tuple(map(_parse_rule, rules))
        if not self._rules:
            raise ConfigError("ignore-ranges without rules ignores nothing", hint=_HINT)
        self.ignores = tuple(map(str, self._rules))
        #: The newest bytes that have passed, of equal length, and how many passed in all.
        self._tails = (b"", b"")
        self._passed = 0

    def compare(self, connection: Connection, primary: bytes, secondary: bytes, ages: Ages) -> Verdict:
        if connection.protocol == "tcp":
            settled = ages.newest_ns >= SETTLE_NS
            verdict = self._compare_from_here(connection, primary, secondary, settled)
            if isinstance(verdict, Same):
                self._pass(primary[: verdict.size], secondary[: verdict.size])
            return verdict
        return self._compare_datagram(connection, primary, secondary)

    def skip(self, connection: Connection, primary: bytes) -> None:
        if connection.protocol == "tcp":
            self._pass(primary, primary)

    def _compare_datagram(self, connection: Connection, primary: bytes, secondary: bytes) -> Verdict:
        if len(primary) != len(secondary):
            return Differs(f"{len(primary)} bytes against {len(secondary)}")
        verdict = self._compare_from_here(connection, primary, secondary, settled=True)
        if isinstance(verdict, Same) and verdict.size < len(primary):
            return Differs(f"byte {verdict.size} of {len(primary)}")
        return verdict

    def _pass(self, primary: bytes, secondary: bytes) -> None:
        self._passed += len(primary)
        mine, others = self._tails
        self._tails = ((mine + primary)[-REACH_BYTES:], (others + secondary)[-REACH_BYTES:])

    def _compare_from_here(
        self, connection: Connection, primary: bytes, secondary: bytes, settled: bool
    ) -> Verdict:
        """Same up to the first byte that differs and may not, or may not yet."""
        behind = len(self._tails[0])
        mine, others = self._tails[0] + primary, self._tails[1] + secondary
        both = min(len(mine), len(others))
        place, ignored = behind, 0
        while True:
            place += count_equal(mine[place:both], others[place:both])
            if place == both:
                return Same(place - behind, ignored)
            end, may_grow = self._find_end(connection, mine, others, place)
            if may_grow and not settled and both - place < REACH_BYTES:
                return Same(place - behind, ignored) if place > behind else Wait()
            if end == 0:
                what = Differs(f"byte {mine[place]:#04x} against {others[place]:#04x}, which no rule ignores")
                return Same(place - behind, ignored) if place > behind else what
            ignored += sum(map(int.__ne__, mine[place:end], others[place:end]))
            place = end

    def _find_end(self, connection: Connection, mine: bytes, others: bytes, place: int) -> tuple[int, bool]:
        """Where the bytes end that a rule lets differ around `place`, or 0; and whether more bytes may change that."""
        both = min(len(mine), len(others))
        may_grow = False
        for rule in self._rules:
            if not rule.covers(connection):
                continue
            if rule.pattern is None:
                if end := self._range_end(rule, connection, place):
                    return min(end, both), False
                continue
            may_grow = True
            if end := _match_end(rule.pattern, mine, others, place):
                return end, end == both
        return 0, may_grow

    def _range_end(self, rule: Rule, connection: Connection, place: int) -> int:
        if not connection.from_start and connection.protocol == "tcp":
            return 0
        start = self._passed - len(self._tails[0])
        return rule.end - start if rule.first <= start + place < rule.end else 0


def _match_end(pattern: re.Pattern[bytes], mine: bytes, others: bytes, place: int) -> int:
    """End of a match on both sides that covers `place`; 0 when there is none."""
    for found in pattern.finditer(mine, max(0, place - REACH_BYTES), place + REACH_BYTES):
        if found.start() > place:
            return 0
        if found.end() > place:
            other = pattern.match(others, found.start(), place + REACH_BYTES)
            if other and other.end() == found.end() and found.end() - found.start() <= REACH_BYTES:
                return found.end()
    return 0


def _parse_rule(table: Mapping[str, Any]) -> Rule:
    """ConfigError for what is no rule."""
    if not isinstance(table, Mapping) or not isinstance(table.get("name"), str) or not table["name"]:
        raise ConfigError(f"rules: {table!r} has no name", hint=_HINT)
    where = f"rules: {table['name']}"
    if unknown := sorted(set(table) - {"name", "pattern", "range", "ports"}):
        raise ConfigError(f"{where}: {unknown[0]} is not known", hint=_HINT)
    if ("pattern" in table) == ("range" in table):
        raise ConfigError(f"{where} needs either a pattern or a range", hint=_HINT)
    ports = _parse_ports(where, table.get("ports", ()))
    if "pattern" in table:
        return Rule(table["name"], ports, _parse_pattern(where, table["pattern"]))
    first, end = _parse_range(where, table["range"])
    return Rule(table["name"], ports, None, first, end)


def _parse_ports(where: str, ports: Any) -> frozenset[int]:
    if not isinstance(ports, list | tuple) or not all(
        type(port) is int and 0 < port < 65536 for port in ports
    ):
        raise ConfigError(f"{where}: ports = {ports!r} are no ports", hint="write a list, as [80, 8080]")
    return frozenset(ports)


def _parse_pattern(where: str, text: Any) -> re.Pattern[bytes]:
    try:
        pattern = re.compile(text.encode("latin-1"))
    except (AttributeError, UnicodeEncodeError, re.error) as error:
        raise ConfigError(
            f"{where}: pattern {text!r}: {error}",
            hint="write a regular expression of bytes, as in Python's re",
        ) from error
    if pattern.match(b""):
        raise ConfigError(
            f"{where}: pattern {text!r} matches nothing at all", hint="it must match a byte at least"
        )
    return pattern


def _parse_range(where: str, value: Any) -> tuple[int, int]:
    if (
        not isinstance(value, list | tuple)
        or len(value) != 2
        or not all(type(number) is int for number in value)
        or not 0 <= value[0] < value[1]
    ):
        raise ConfigError(
            f"{where}: range = {value!r} is no range", hint="write [FIRST, PAST_THE_LAST], as [4, 12]"
        )
    return value[0], value[1]
