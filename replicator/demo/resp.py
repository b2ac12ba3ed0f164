"""Redis' wire protocol (RESP 2), as much as the demonstration's client speaks: requests out, replies in. No I/O."""

from __future__ import annotations

from replicator.errors import TransportError

#: Longest line and bulk the client expects from its own guest; more is a broken stream.
LINE_BYTES_MAX = 4096
BULK_BYTES_MAX = 1 << 20
ARRAY_LENGTH_MAX = 4096


class ReplyError(TransportError):
    """Bytes that no redis sends, or an error reply."""


#: Integer, status or bulk string, absent bulk string, array.
Reply = int | bytes | None | list["Reply"]


def encode_command(*words: str | bytes) -> bytes:
    """A request as an array of bulk strings."""
    parts = [word.encode() if isinstance(word, str) else word for word in words]
    body = b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
    return b"*%d\r\n%s" % (len(parts), body)


class Incomplete(Exception):
    """The reply goes on in bytes that have not come yet."""


class ReplyReader:
    """Turns a byte stream, cut anywhere, into replies."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> list[Reply]:
        """Replies that are whole now. Raises ReplyError on an error reply or on nonsense."""
        self._buffer += data
        replies: list[Reply] = []
        while True:
            try:
                reply, end = self._parse(0)
            except Incomplete:
                return replies
            replies.append(reply)
            self._buffer = self._buffer[end:]

    def _line(self, start: int) -> tuple[bytes, int]:
        end = self._buffer.find(b"\r\n", start)
        if end >= 0:
            return self._buffer[start:end], end + 2
        if len(self._buffer) - start > LINE_BYTES_MAX:
            raise ReplyError("a reply line does not end")
        raise Incomplete

    def _parse(self, start: int) -> tuple[Reply, int]:
        line, at = self._line(start)
        kind, rest = line[:1], line[1:]
        if kind == b"+":
            return rest, at
        if kind == b"-":
            raise ReplyError(f"redis refused: {rest.decode(errors='replace')}")
        if kind == b":":
            return parse_number(rest, None), at
        if kind == b"$":
            return self._parse_bulk(parse_number(rest, BULK_BYTES_MAX), at)
        if kind == b"*":
            return self._parse_array(parse_number(rest, ARRAY_LENGTH_MAX), at)
        raise ReplyError(f"not a redis reply: {line[:40]!r}")

    def _parse_bulk(self, length: int, at: int) -> tuple[Reply, int]:
        if length < 0:
            return None, at
        end = at + length
        if len(self._buffer) < end + 2:
            raise Incomplete
        if self._buffer[end : end + 2] != b"\r\n":
            raise ReplyError("a bulk reply does not end where it should")
        return self._buffer[at:end], end + 2

    def _parse_array(self, length: int, at: int) -> tuple[Reply, int]:
        if length < 0:
            return None, at
        items: list[Reply] = []
        for _ in range(length):
            item, at = self._parse(at)
            items.append(item)
        return items, at


def parse_number(text: bytes, most: int | None) -> int:
    """A decimal of a reply; raise ReplyError when it is none or beyond `most`."""
    try:
        number = int(text)
    except ValueError:
        raise ReplyError(f"not a number in a redis reply: {text[:40]!r}") from None
    if most is not None and not -1 <= number <= most:
        raise ReplyError(f"a redis reply claims length {number}")
    return number
