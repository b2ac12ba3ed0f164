"""`http`: answers of an HTTP/1 server, of which some header values (Date and the like) may differ at equal length.

The stream is followed response by response: status line, header lines, then a body whose length the headers tell. A
header line is compared when both sides have all of it. Everything else must be equal, byte by byte. What cannot be
followed (a connection that was there before, another protocol, a body that ends with the connection) is compared byte
by byte from there to its end: nothing is ever ignored because it only looks like a header.

A response to HEAD tells a length and has no body; the next response is then taken for it, and compared byte by byte.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum
from typing import Final

from replicator.compare.api import Ages, Connection, Differs, Same, Verdict, Wait, compare_stream, count_equal
from replicator.compare.plain import compare_whole
from replicator.errors import ConfigError
from replicator.limits import COMPARE_CALL_BYTES_MAX

DEFAULT_HEADERS: Final = ("Date", "Expires", "Age")
#: A longer line is no header of ours; the rest is compared byte by byte.
LINE_BYTES_MAX: Final = 8 << 10
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})[ \r\n]")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r?\n")
#: These have no body, whatever their headers say.
_BODILESS = frozenset({204, 304})


class _Phase(Enum):
    STATUS = "status line"
    HEADER = "header"
    BODY = "body"
    CHUNK_SIZE = "size of a chunk"
    CHUNK_BODY = "chunk"
    CHUNK_END = "end of a chunk"
    TRAILER = "trailer"
    #: To the end of the connection.
    PLAIN = "bytes"


_BODIES = (_Phase.BODY, _Phase.CHUNK_BODY)


class HttpComparer:
    """`headers` replaces the names of those that may differ."""

    def __init__(self, headers: Iterable[str] = DEFAULT_HEADERS) -> None:
        names = (headers,) if isinstance(headers, str) else tuple(headers)
        for name in names:
            if not isinstance(name, str) or not _TOKEN.fullmatch(name):
                raise ConfigError(
                    f"headers: {name!r} is no name of a header",
                    hint='write names only, as ["Date", "Expires"]',
                )
        self.ignores = tuple(f"HTTP header {name}" for name in names)
        self._ignored = frozenset(name.lower().encode() for name in names)
        self._phase = _Phase.STATUS
        self._started = False
        #: What has passed already of the line that comes next.
        self._begun = b""
        #: Left of the body or chunk.
        self._left = 0
        self._status = 0
        self._length: int | None = None
        self._chunked = False

    def compare(self, connection: Connection, primary: bytes, secondary: bytes, ages: Ages) -> Verdict:
        if connection.protocol != "tcp":
            return compare_whole(primary, secondary)
        self._start(connection)
        done = ignored = 0
        while True:
            end = done + self._reach()
            step = self._step(primary[done:end], secondary[done:end])
            if not isinstance(step, Same):
                return Same(done, ignored) if done else step
            done += step.size
            ignored += step.ignored_bytes
            if done >= min(len(primary), len(secondary)):
                return Same(done, ignored)

    def skip(self, connection: Connection, primary: bytes) -> None:
        self._start(connection)
        done = 0
        while done < len(primary):
            piece = primary[done : done + self._reach()]
            step = self._step(piece, piece)
            if not isinstance(step, Same):
                # The beginning of a line that is not here whole.
                self._begun += primary[done:]
                return
            done += step.size

    def _start(self, connection: Connection) -> None:
        if not self._started:
            self._started = True
            if not connection.from_start:
                self._phase = _Phase.PLAIN

    def _reach(self) -> int:
        """How many bytes the next step looks at."""
        if self._phase in _BODIES:
            return self._left
        return COMPARE_CALL_BYTES_MAX if self._phase is _Phase.PLAIN else LINE_BYTES_MAX + 1

    def _step(self, primary: bytes, secondary: bytes) -> Verdict:
        """One line, or what is here of a body. Neither side is empty."""
        if self._phase is _Phase.PLAIN:
            return compare_stream(primary, secondary)
        if self._phase in _BODIES:
            return self._body(primary, secondary)
        return self._line(primary, secondary)

    def _body(self, primary: bytes, secondary: bytes) -> Verdict:
        verdict = compare_stream(primary, secondary)
        if isinstance(verdict, Same):
            self._left -= verdict.size
            if not self._left:
                self._phase = _Phase.STATUS if self._phase is _Phase.BODY else _Phase.CHUNK_END
        return verdict

    def _line(self, primary: bytes, secondary: bytes) -> Verdict:
        end, other_end = primary.find(b"\n") + 1, secondary.find(b"\n") + 1
        if not end or not other_end:
            return self._part_of_line(primary, secondary, end or other_end)
        if end != other_end:
            return Differs(f"HTTP {self._phase.value} of {end} bytes against {other_end}")
        line, other = self._begun + primary[:end], self._begun + secondary[:end]
        if line != other and not self._may_differ(line, other):
            return Differs(f"HTTP {self._phase.value} {line[:60]!r} against {other[:60]!r}")
        equal = sum(map(int.__eq__, line, other)) if line != other else len(line)
        self._begun = b""
        self._follow(line)
        return Same(end, len(line) - equal)

    def _part_of_line(self, primary: bytes, secondary: bytes, end: int) -> Verdict:
        """At least one side's line is not here whole; `end` is the length of the other's, or 0."""
        shorter = min(len(primary), len(secondary))
        if end and shorter >= end:
            return Differs(f"HTTP {self._phase.value} ends on one side only")
        if len(self._begun) + shorter > LINE_BYTES_MAX:
            self._phase = _Phase.PLAIN
            return compare_stream(primary, secondary)
        if self._phase is _Phase.STATUS and not self._looks_like_http(primary):
            self._phase = _Phase.PLAIN
            return compare_stream(primary, secondary)
        return Wait()

    def _looks_like_http(self, primary: bytes) -> bool:
        begun = self._begun + primary
        return count_equal(begun, b"HTTP/1.") == min(len(begun), 7)

    def _may_differ(self, line: bytes, other: bytes) -> bool:
        if self._phase is not _Phase.HEADER:
            return False
        name, colon, _ = line.partition(b":")
        return bool(colon) and name.lower() in self._ignored and other.startswith(name + colon)

    def _follow(self, line: bytes) -> None:
        """The place after this line."""
        if self._phase is _Phase.STATUS:
            self._begin_response(line)
        elif self._phase is _Phase.HEADER:
            self._note_header(line)
        elif self._phase is _Phase.CHUNK_SIZE:
            self._begin_chunk(line)
        elif self._phase is _Phase.CHUNK_END:
            self._phase = _Phase.CHUNK_SIZE if not line.strip() else _Phase.PLAIN
        elif not line.strip():
            self._phase = _Phase.STATUS

    def _begin_response(self, line: bytes) -> None:
        found = _STATUS.match(line)
        self._phase = _Phase.HEADER if found else _Phase.PLAIN
        self._status = int(found[1]) if found else 0
        self._length = None
        self._chunked = False

    def _note_header(self, line: bytes) -> None:
        if not line.strip():
            self._begin_body()
            return
        name, _, value = line.partition(b":")
        key, text = name.lower(), value.strip()
        if key == b"content-length":
            # Two that contradict each other, or no number: nothing more can be followed.
            usable = text.isdigit() and len(text) < 16 and self._length in (None, int(text))
            self._length = int(text) if usable else -1
        elif key == b"transfer-encoding":
            self._chunked = text.lower().endswith(b"chunked")

    def _begin_body(self) -> None:
        if self._status in _BODILESS or (100 <= self._status < 200 and self._status != 101):
            self._phase = _Phase.STATUS
        elif self._chunked:
            self._phase = _Phase.CHUNK_SIZE
        elif self._status == 101 or self._length is None or self._length < 0:
            self._phase = _Phase.PLAIN
        else:
            self._left = self._length
            self._phase = _Phase.BODY if self._left else _Phase.STATUS

    def _begin_chunk(self, line: bytes) -> None:
        found = _CHUNK.fullmatch(line)
        if not found:
            self._phase = _Phase.PLAIN
            return
        self._left = int(found[1], 16)
        self._phase = _Phase.CHUNK_BODY if self._left else _Phase.TRAILER
