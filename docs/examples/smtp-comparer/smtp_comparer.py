"""A mail server greets with the time: "220 mx ESMTP ready; Thu, 26 Nov 2026 18:15:02 +0000".

Two copies of it may greet a second apart. Digits and the names of days and months of that one line may differ, at equal
length. Everything else, and every other line of the connection, must be equal.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from replicator.compare import Ages, Comparer, Connection, Differs, Same, Verdict, Wait, compare_stream
from replicator.errors import ConfigError

LINE_BYTES_MAX = 512
_TIME = re.compile(rb"; \w{3}, [ \d]\d \w{3} \d{4} \d\d:\d\d:\d\d [+-]\d{4}(?=\r?\n)")


class SmtpGreetingComparer(Comparer):
    """One for each connection. `ports` are those that the guest's mail server listens on."""

    ignores = ("time in the greeting of SMTP",)

    def __init__(self, ports: Iterable[int] = (25, 587)) -> None:
        self._ports = frozenset(ports)
        if not self._ports or not all(isinstance(port, int) for port in self._ports):
            raise ConfigError(f"ports: {ports!r} names no ports", hint="write a list, as [25, 587]")
        #: The first line has gone.
        self._has_greeted = False

    def compare(self, connection: Connection, primary: bytes, secondary: bytes, ages: Ages) -> Verdict:
        greets = (
            connection.protocol == "tcp" and connection.from_start and connection.guest_port in self._ports
        )
        if self._has_greeted or not greets:
            return compare_stream(primary, secondary)
        end = primary.find(b"\n") + 1
        if not end and len(primary) < LINE_BYTES_MAX:
            return Wait()
        self._has_greeted = True
        line, other = primary[:end], secondary[:end]
        if not end or line == other:
            return compare_stream(primary, secondary)
        if _TIME.sub(b"", line) != _TIME.sub(b"", other):
            return Differs("another greeting")
        return Same(end, sum(map(int.__ne__, line, other)))

    def skip(self, connection: Connection, primary: bytes) -> None:
        self._has_greeted = True
