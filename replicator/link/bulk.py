"""The bulk channel's two ends, the same for every link: what may travel there, plain or sealed.

A daemon with keys seals each bulk message and takes no other; one without keys does neither. Keys come and go with the
connections (sealing.py); what carries the frames is the link's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from replicator.errors import InvariantError, TransportError, require
from replicator.link.base import BadMessage, Received, unpack
from replicator.link.sealing import (
    BulkKeys,
    ForeignMessage,
    Opener,
    Sealer,
    StaleMessage,
    StreamBroken,
)
from replicator.wire.session import Channel

Frames = Sequence[bytes | memoryview]


@dataclass(slots=True)
class BulkDrops:
    """Bulk messages that were not taken, since the link started."""

    #: Under a key that is over: on the way when their connection broke.
    stale: int = 0
    #: Under no key of ours, or not sealed at all: a stranger's.
    foreign: int = 0
    #: The first of a connection that was changed, lost or repeated on its way; those after it count as stale.
    broken: int = 0


def _fresh_buffer(size: int) -> memoryview:
    return memoryview(bytearray(size))


class BulkSender:
    """Of one connection to a peer. `take_buffer(size)` gives the memory for a sealed payload."""

    def __init__(self, *, sealed: bool, take_buffer: Callable[[int], memoryview] = _fresh_buffer) -> None:
        self._sealed = sealed
        self._take_buffer = take_buffer
        self._sealer: Sealer | None = None

    def seal_with(self, keys: BulkKeys) -> None:
        """A second time after a second greeting."""
        require(self._sealed, "keys for a link that is not sealed")
        self._sealer = Sealer(keys, self._take_buffer)

    def check(self) -> None:
        """TransportError when nothing may be sent yet."""
        if self._sealed and self._sealer is None:
            raise TransportError("the peer has not agreed on keys for this connection yet")

    def wrap(self, frames: Frames) -> Frames:
        """The frames as they travel. What is wrapped must be sent before the next is."""
        self.check()
        return frames if self._sealer is None else self._sealer.seal(*frames)


class BulkReceiver:
    """Of one link, whoever connects to it."""

    def __init__(self, *, sealed: bool) -> None:
        self._opener = Opener() if sealed else None
        self.drops = BulkDrops()

    def open_with(self, keys: BulkKeys) -> None:
        """What is sealed with older keys is dropped from now on."""
        if self._opener is None:
            raise InvariantError("keys for a link that is not sealed")
        self._opener.renew(keys)

    def take(self, frames: list[memoryview]) -> Received | BadMessage | None:
        """The message in the frames of one arrival; None for one that is dropped silently."""
        if self._opener is None:
            return unpack(Channel.BULK, b"", frames, reply=False)
        try:
            opened = self._opener.open(frames)
        except StaleMessage:
            self.drops.stale += 1
            return None
        except ForeignMessage as error:
            self.drops.foreign += 1
            return BadMessage(Channel.BULK, b"", error)
        except StreamBroken as error:
            self.drops.broken += 1
            return BadMessage(Channel.BULK, b"", error, breaks_bulk=True)
        return unpack(Channel.BULK, b"", opened, reply=False)
