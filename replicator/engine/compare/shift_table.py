"""The secondary's side: what every frame to and from its guest is shifted by, before and after a take-over.

While the other side speaks, frames of the world come for the primary's guest and are shifted to this one's by what
`TellShift` told; a checkpoint takes all that back, for the guest is the primary's then. At a take-over the shifts of
that instant stay: the world goes on with the numbers of a guest that is gone, until each connection closes. A guest
that was taken over and has a new secondary passes its lasting shifts on (`export`, `adopt`): every frame is shifted
by them at the border to the world, and by those since the checkpoint on the way to the secondary.

The world must not see a timestamp go back. It has seen at least those that it echoed; what it saw since is bounded by
how far the guests' clocks can be apart, for which `TS_LEAD_TICKS` is added.

Bounded: connections that closed go first, then those that nothing is to be shifted for. A shift that finds no room is
not learnt and never confirmed, so the connection does not open before the next checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from replicator.engine.compare.numbers import MASK, latest
from replicator.engine.compare.packet import ACK, FIN, RST, SYN, Kind, TcpSegment, parse_frame
from replicator.engine.compare.shift import NO_SHIFT, Shift, shift_input, shift_output
from replicator.limits import COMPARE_CONNECTIONS_MAX

#: A second of Linux's clock of a millisecond.
TS_LEAD_TICKS: Final = 1000


@dataclass(slots=True)
class _Entry:
    #: From the numbers the world knows to those of the primary's guest, since a take-over before.
    lasting: Shift = NO_SHIFT
    #: From the primary's guest to this one, since the last checkpoint.
    recent: Shift = NO_SHIFT
    #: Number of the SYN that opened it, if that was seen here.
    opened_by: int | None = None
    #: Newest timestamp that the world has seen, in its numbers, and that this guest has said, in its own.
    ts_seen: int | None = None
    ts_said: int | None = None
    guest_ended: bool = False
    peer_ended: bool = False

    @property
    def is_closed(self) -> bool:
        return self.guest_ended and self.peer_ended

    @property
    def is_shifted(self) -> bool:
        return self.lasting != NO_SHIFT or self.recent != NO_SHIFT


class ShiftTable:
    """All connections of one guest."""

    def __init__(self, *, connections_max: int = COMPARE_CONNECTIONS_MAX) -> None:
        self._connections_max = connections_max
        #: Least recently used first.
        self._entries: dict[bytes, _Entry] = {}
        self._has_taken_over = False

    def __len__(self) -> int:
        return len(self._entries)

    def learn(self, key: bytes, shift: Shift) -> bool:
        """Of `TellShift`. Only when this returns True may it be confirmed."""
        entry = self._use(key)
        if entry is None:
            return False
        entry.recent = shift
        return True

    def to_guest(self, frame: bytes, nic: int) -> bytes:
        """The frame as this guest must get it."""
        packet = parse_frame(frame, nic, from_guest=False)
        if packet.kind is not Kind.TCP or packet.tcp is None:
            return frame
        segment = packet.tcp
        entry = self._hear(packet.key, segment, opens=segment.flags & (SYN | ACK) == SYN)
        if entry is None:
            return frame
        if segment.flags & ACK:
            self._note_echo(entry, segment, frame)
        entry.peer_ended = entry.peer_ended or bool(segment.flags & (FIN | RST))
        entry.guest_ended = entry.guest_ended or bool(segment.flags & RST)
        return shift_input(frame, segment, self._to_guest_shift(entry), ts_newest=entry.ts_said)

    def from_guest(self, frame: bytes, nic: int) -> bytes:
        """The frame as the world must get it after the take-over; before, only looked at."""
        packet = parse_frame(frame, nic, from_guest=True)
        if packet.kind is not Kind.TCP or packet.tcp is None:
            return frame
        segment = packet.tcp
        entry = self._hear(packet.key, segment, opens=segment.flags & (SYN | ACK) == SYN)
        if entry is None:
            return frame
        stamp = segment.options(frame).tsval
        if stamp is not None:
            entry.ts_said = latest(entry.ts_said, stamp)
        entry.guest_ended = entry.guest_ended or bool(segment.flags & (FIN | RST))
        entry.peer_ended = entry.peer_ended or bool(segment.flags & RST)
        if not self._has_taken_over:
            return frame
        return self._say(entry, frame, segment, stamp)

    def recent_of(self, key: bytes) -> Shift:
        """Of a connection since the last checkpoint."""
        entry = self._entries.get(key)
        return NO_SHIFT if entry is None else entry.recent

    def commit(self) -> None:
        """A checkpoint: this guest is the primary's now."""
        for entry in self._entries.values():
            entry.recent, entry.ts_said = NO_SHIFT, None

    def take_over(self) -> None:
        """This guest speaks to the world from now on."""
        for entry in self._entries.values():
            entry.lasting = entry.lasting + entry.recent + Shift(ts=-TS_LEAD_TICKS & MASK)
            entry.recent = NO_SHIFT
        self._has_taken_over = True

    def export(self) -> tuple[tuple[bytes, Shift], ...]:
        """Lasting shifts, for a new secondary."""
        return tuple(
            (key, entry.lasting) for key, entry in self._entries.items() if entry.lasting != NO_SHIFT
        )

    def forget_lasting(self) -> None:
        """The primary tells anew which shifts last."""
        for entry in self._entries.values():
            entry.lasting = NO_SHIFT

    def adopt(self, lasting: Iterable[tuple[bytes, Shift]]) -> bool:
        """Of the primary's `export`. False when there is no room for all: a take-over would break some."""
        for key, shift in lasting:
            entry = self._use(key)
            if entry is None:
                return False
            entry.lasting = shift
        return True

    def _to_guest_shift(self, entry: _Entry) -> Shift:
        """Before a take-over, frames come in the numbers of the primary's guest."""
        return entry.lasting if self._has_taken_over else entry.recent

    def _say(self, entry: _Entry, frame: bytes, segment: TcpSegment, stamp: int | None) -> bytes:
        out = shift_output(frame, segment, entry.lasting, ts_floor=entry.ts_seen)
        if stamp is not None:
            entry.ts_seen = latest(entry.ts_seen, (stamp - entry.lasting.ts) & MASK)
        return out

    def _note_echo(self, entry: _Entry, segment: TcpSegment, frame: bytes) -> None:
        options = segment.options(frame)
        if options.tsval is None or not options.tsecr:
            return
        seen = options.tsecr if self._has_taken_over else (options.tsecr - entry.lasting.ts) & MASK
        entry.ts_seen = latest(entry.ts_seen, seen)

    def _hear(self, key: bytes, segment: TcpSegment, *, opens: bool) -> _Entry | None:
        """The entry of a segment; a SYN with a number of its own opens another connection. None without room."""
        if opens:
            entry = self._entries.get(key)
            if entry is not None and entry.opened_by != segment.seq:
                del self._entries[key]
        entry = self._use(key)
        if entry is not None and opens:
            entry.opened_by = segment.seq
        return entry

    def _use(self, key: bytes) -> _Entry | None:
        entry = self._entries.pop(key, None)
        if entry is None:
            if len(self._entries) >= self._connections_max and not self._make_room():
                return None
            entry = _Entry()
        self._entries[key] = entry
        return entry

    def _make_room(self) -> bool:
        most = max(1, self._connections_max // 8)
        over = [key for key, entry in self._entries.items() if entry.is_closed]
        plain = [key for key, entry in self._entries.items() if not entry.is_closed and not entry.is_shifted]
        chosen = (over + plain)[:most]
        for key in chosen:
            del self._entries[key]
        return bool(chosen)
