"""A connection that carries messages of `wire.frames`, lent to whoever reads and writes them faster than Python does."""

from __future__ import annotations

from typing import NamedTuple


class LentLine(NamedTuple):
    """A connection of TCP that carries the messages in the open, each behind four bytes of length."""

    fd: int
    session: bytes
    #: How many messages were sent and taken.
    sent: int
    taken: int
    #: What came in and is no whole message.
    rest: bytes


class LineBack(NamedTuple):
    """What has become of it."""

    sent: int
    taken: int
    #: Came in and was not taken.
    rest: bytes
    #: What the kernel had no room for.
    unsent: bytes
