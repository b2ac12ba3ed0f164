"""What the secondary's guest said lately, in case that the primary died before it could say the same to the world.

Kept as it is, and looked at only at a take-over: TCP segments that the peer has not acknowledged, and the newest
acknowledgement of each connection, are then said again. So the peer need not wait until one side repeats itself. A
segment too many is what TCP expects of a network; one that is missing here is repeated by the guest in time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from replicator.engine.compare.numbers import MASK, distance, latest
from replicator.engine.compare.packet import ACK, FIN, RST, SYN, Kind, TcpSegment, parse_frame
from replicator.engine.compare.shift import Shift
from replicator.engine.output import Frame
from replicator.units import NS_PER_S

RECENT_FRAMES_MAX: Final = 1024
RECENT_BYTES_MAX: Final = 4 << 20
RECENT_NS: Final = NS_PER_S


@dataclass(frozen=True, slots=True)
class _Said:
    frame: Frame
    key: bytes
    segment: TcpSegment


class RecentFrames:
    def __init__(self) -> None:
        self._frames: deque[tuple[int, Frame]] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._frames)

    def note(self, frame: Frame, now_ns: int) -> None:
        """The guest's next frame."""
        self._frames.append((now_ns, frame))
        self._bytes += len(frame.data)
        while len(self._frames) > RECENT_FRAMES_MAX or self._bytes > RECENT_BYTES_MAX:
            self._bytes -= len(self._frames.popleft()[1].data)

    def clear(self) -> None:
        self._frames.clear()
        self._bytes = 0

    def unheard(
        self, inputs: Iterable[Frame], shift_of: Callable[[bytes], Shift], now_ns: int
    ) -> tuple[Frame, ...]:
        """Of the last second, what the peers' newest acknowledgements in `inputs` do not cover, in order. `shift_of` a
        connection is what the inputs' numbers are to be shifted by for this guest."""
        acks = _newest_acks(inputs, shift_of)
        said = [one for at_ns, frame in self._frames if now_ns - at_ns <= RECENT_NS and (one := _read(frame))]
        newest = {one.key: one for one in said if _is_plain_ack(one.segment)}
        return tuple(
            one.frame
            for one in said
            if newest.get(one.key) is one
            or (not _is_plain_ack(one.segment) and not _is_acked(one.segment, acks.get(one.key)))
        )


def _read(frame: Frame) -> _Said | None:
    """None for what is not repeated: no TCP, and a connection that the guest opens itself."""
    packet = parse_frame(frame.data, frame.nic, from_guest=True)
    segment = packet.tcp
    if packet.kind is not Kind.TCP or segment is None or segment.flags & (SYN | ACK) == SYN:
        return None
    return _Said(frame, packet.key, segment)


def _newest_acks(inputs: Iterable[Frame], shift_of: Callable[[bytes], Shift]) -> dict[bytes, int]:
    acks: dict[bytes, int] = {}
    for frame in inputs:
        packet = parse_frame(frame.data, frame.nic, from_guest=False)
        if packet.kind is Kind.TCP and packet.tcp is not None and packet.tcp.flags & ACK:
            ack = (packet.tcp.ack + shift_of(packet.key).seq) & MASK
            acks[packet.key] = latest(acks.get(packet.key), ack)
    return acks


def _is_plain_ack(segment: TcpSegment) -> bool:
    return not segment.payload and not segment.flags & (SYN | FIN | RST)


def _is_acked(segment: TcpSegment, ack: int | None) -> bool:
    if ack is None or segment.flags & RST:
        return False
    end = segment.seq + len(segment.payload) + bool(segment.flags & (SYN | FIN))
    return distance(end & MASK, ack) >= 0
