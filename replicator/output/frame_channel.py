"""What a relay asks of the channel to the other relay of its pair, whatever carries it.

A channel has two ends, which know the 16 bytes of its session beforehand and use them for this channel alone. It is
open once both have heard of each other, and then carries messages in order, all of them, or ends: a message that was
lost, repeated, changed or found no room is a TransportError or WireError of `send` or `receive`, after which the channel
is of no use. It never waits. An end belongs to one thread at a time: a relay calls it under its lock."""

from __future__ import annotations

from typing import Protocol

from replicator.wire.frames import FrameMessage
from replicator.wire.lent_line import LentLine, LineBack


class FrameChannel(Protocol):
    @property
    def is_open(self) -> bool: ...

    def send(self, message: FrameMessage) -> None:
        """TransportError when the channel is not open, or ends by this."""
        ...

    def receive(self) -> FrameMessage | None:
        """The next message, the opening one included; None when there is none now. TransportError or WireError when
        the channel ends by this."""
        ...

    def has_news(self) -> bool:
        """Whether `receive` is due, though no descriptor says so."""
        ...

    def filenos(self) -> tuple[int, ...]:
        """To be polled for reading; then `receive` until it returns None."""
        ...

    def lend(self) -> LentLine | None:
        """For others to use until `take_back`. None when there is no such connection, or not now."""
        ...

    def take_back(self, line: LineBack) -> None:
        """TransportError when the channel ends by this."""
        ...

    def close(self) -> None:
        """May be repeated."""
        ...
