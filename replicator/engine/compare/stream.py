"""What one side says on one TCP connection, put in order.

Places are counted from an origin that both sides' streams share, so that equal places mean equal bytes whatever the
sequence numbers are. `position` is how far the two have been found the same; `pending` is what this side has said
without a gap beyond it, `islands` what it has said beyond a gap.

A segment may come twice, late, early or overlapping others. What is said again before `position` is let pass: a guest's
TCP repeats what it said. Beyond it a repetition must be equal.
"""

from __future__ import annotations

from enum import Enum

from replicator.compare.api import count_equal
from replicator.engine.compare.numbers import MASK, distance
from replicator.limits import COMPARE_ISLANDS_MAX, COMPARE_SIDE_BYTES_MAX


class Taken(Enum):
    OK = "taken"
    FULL = "too many bytes that the other side has not said"
    CONTRADICTS = "says other bytes in the same place"


class Stream:
    """`seq` is the sequence number of place 0."""

    def __init__(self, seq: int, *, bytes_max: int = COMPARE_SIDE_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        #: Sequence number of `position`.
        self.seq = seq
        self.position = 0
        self.pending = bytearray()
        #: Ascending, apart from one another and from what is pending: place -> bytes.
        self._islands: list[tuple[int, bytes]] = []
        self._island_bytes = 0
        #: Pending and in islands.
        self.kept_bytes = 0
        #: Behind the last byte said; FIN is a byte more.
        self.end = 0
        #: Place of FIN.
        self.fin: int | None = None
        #: When the oldest of what is pending came, or when it last got on.
        self.since_ns = 0
        #: Something was said that could not be kept.
        self.is_lossy = False

    @property
    def has_islands(self) -> bool:
        return bool(self._islands)

    @property
    def next_seq(self) -> int:
        """Sequence number after all that was said, FIN included."""
        return (self.seq + self.end - self.position) & MASK

    def place_of(self, seq: int) -> int:
        return self.position + distance(self.seq, seq)

    def take(self, seq: int, data: bytes, now_ns: int, *, fin: bool = False) -> Taken:
        """A segment. One that is not OK makes the stream lossy."""
        place = self.place_of(seq)
        fin_place = place + len(data)
        self.end = max(self.end, fin_place + fin)
        if fin and self.fin not in (None, fin_place):
            return self._refuse(Taken.CONTRADICTS)
        if fin:
            self.fin = fin_place
        if not data:
            return Taken.OK
        taken = self._take_data(place, data, now_ns)
        self.kept_bytes = len(self.pending) + self._island_bytes
        return Taken.OK if taken is Taken.OK else self._refuse(taken)

    def note(self, seq: int, size: int) -> None:
        """A segment of which the bytes are not kept."""
        self.end = max(self.end, self.place_of(seq) + size)
        self.is_lossy = True

    def advance(self, size: int, now_ns: int) -> None:
        """The next `size` bytes are the same on both sides."""
        del self.pending[:size]
        self.kept_bytes = len(self.pending) + self._island_bytes
        self.position += size
        self.seq = (self.seq + size) & MASK
        self.since_ns = now_ns

    def is_level_with(self, other: Stream) -> bool:
        """Both are at the same place and without gaps and ends, and at most one has said more."""
        if self.fin is not None or other.fin is not None or self._islands or other.has_islands:
            return False
        return self.position == other.position and not (self.pending and other.pending)

    def go_on_from(self, seq: int, position: int, end: int, pending: bytes, since_ns: int) -> None:
        """What has become of a stream without islands elsewhere."""
        self.seq, self.position, self.end, self.since_ns = seq, position, end, since_ns
        self.pending = bytearray(pending)
        self.kept_bytes = len(pending)

    def _refuse(self, why: Taken) -> Taken:
        self.is_lossy = True
        return why

    def _take_data(self, place: int, data: bytes, now_ns: int) -> Taken:
        if place < self.position:
            data = data[self.position - place :]
            place = self.position
        edge = self.position + len(self.pending)
        if place + len(data) <= edge:
            return self._check_again(place, data)
        if place > edge:
            return self._take_island(place, data)
        overlap = edge - place
        if overlap and self._check_again(place, data[:overlap]) is not Taken.OK:
            return Taken.CONTRADICTS
        if self.kept_bytes + len(data) - overlap > self._bytes_max:
            return Taken.FULL
        if not self.pending:
            self.since_ns = now_ns
        self.pending += data[overlap:]
        return self._join_islands() if self._islands else Taken.OK

    def _check_again(self, place: int, data: bytes) -> Taken:
        """Bytes that are pending already."""
        start = place - self.position
        same = self.pending[start : start + len(data)] == data
        return Taken.OK if same or not data else Taken.CONTRADICTS

    def _take_island(self, place: int, data: bytes) -> Taken:
        """Merge with the islands that it touches."""
        end = place + len(data)
        apart: list[tuple[int, bytes]] = []
        for other in self._islands:
            other_place, other_data = other
            if other_place > end or other_place + len(other_data) < place:
                apart.append(other)
                continue
            merged = _merge(place, data, other_place, other_data)
            if merged is None:
                return Taken.CONTRADICTS
            place, data = merged
            end = place + len(data)
        kept = len(data) + sum(len(other) for _, other in apart)
        if len(apart) >= COMPARE_ISLANDS_MAX or len(self.pending) + kept > self._bytes_max:
            return Taken.FULL
        self._islands = sorted([*apart, (place, data)])
        self._island_bytes = kept
        return Taken.OK

    def _join_islands(self) -> Taken:
        """Those that what is pending has reached."""
        while self._islands:
            place, data = self._islands[0]
            edge = self.position + len(self.pending)
            if place > edge:
                break
            overlap = min(edge - place, len(data))
            if self._check_again(place, data[:overlap]) is not Taken.OK:
                return Taken.CONTRADICTS
            self.pending += data[overlap:]
            self._island_bytes -= len(data)
            del self._islands[0]
        return Taken.OK


def _merge(place: int, data: bytes, other_place: int, other: bytes) -> tuple[int, bytes] | None:
    """Two runs that touch as one; None when they contradict each other."""
    if other_place < place:
        place, data, other_place, other = other_place, other, place, data
    overlap = data[other_place - place : other_place - place + len(other)]
    if count_equal(overlap, other) < len(overlap):
        return None
    return place, data + other[len(overlap) :]
