"""What is known of one TCP connection's two sides: the parts of a `TcpFlow`, and of one in its steady state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from replicator.engine.compare.numbers import MASK
from replicator.engine.compare.shift import Shift
from replicator.engine.compare.stream import Stream
from replicator.engine.compare.tcp_options import TcpOptions


class Syn(NamedTuple):
    seq: int
    #: What a SYN-ACK acknowledges; None of a SYN.
    answers: int | None
    options: TcpOptions

    def same_as(self, other: Syn) -> bool:
        return self.answers == other.answers and self.options.offers == other.options.offers

    def shift_to(self, other: Syn) -> Shift:
        ts = 0
        if self.options.tsval is not None and other.options.tsval is not None:
            ts = (other.options.tsval - self.options.tsval) & MASK
        return Shift((other.seq - self.seq) & MASK, ts)


@dataclass(slots=True)
class Side:
    #: None until this side's numbers are known.
    stream: Stream | None = None
    syn: Syn | None = None
    has_reset: bool = False
    #: Newest acknowledgement.
    ack: int | None = None

    def forget(self) -> None:
        self.stream = self.syn = self.ack = None
        self.has_reset = False


class HeldFrame(NamedTuple):
    """Of the primary."""

    frame_id: int
    #: Place behind what it contains.
    end: int
    flags: int
    ack: int
    #: Newest input of this connection when the guest said it.
    input_seq: int


class SteadySide(NamedTuple):
    """`Stream` says what they are."""

    seq: int
    end: int
    since_ns: int
    ack: int | None


class SteadyState(NamedTuple):
    """All that bytes and acknowledgements change in a flow on which nothing else is under way."""

    #: Primary and secondary.
    sides: tuple[SteadySide, SteadySide]
    position: int
    #: The side that has said more, and what.
    ahead: int
    pending: bytes
    held: Sequence[HeldFrame]
    since_ns: int
    input_seq: int
