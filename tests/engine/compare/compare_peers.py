"""A guest's TCP and its peer's, as far as they check what they are given: places, acknowledgements, timestamps."""

from __future__ import annotations

from dataclasses import dataclass, field

from compare_frames import ACK, FIN, SYN, SYN_OPTIONS, Ends, Segment, read_segment, sacks, tcp_frame, times

MASK = 0xFFFFFFFF


def ahead(start: int, end: int) -> int:
    """From `start` to `end`, the shorter way."""
    return ((end - start + (1 << 31)) & MASK) - (1 << 31)


@dataclass
class End:
    """One end of a connection. `clock` is what its timestamps say."""

    ends: Ends
    isn: int
    clock: int
    said: bytes = b""
    heard: bytes = b""
    #: The first number of the other end.
    other_isn: int | None = None
    #: How much of `said` was acknowledged.
    acked: int = 0
    ts_recent: int = 0
    ts_said: list[int] = field(default_factory=list)
    ended: bool = False

    def opens(self) -> bytes:
        return self._frame(self.isn, flags=SYN, options=SYN_OPTIONS)

    def says(self, data: bytes = b"", *, fin: bool = False, sack: tuple[int, int] | None = None) -> bytes:
        """New data. `sack` names places of what it heard."""
        seq = self.isn + 1 + len(self.said)
        self.said += data
        edges = b"" if sack is None else sacks(self._sacked(sack))
        return self._frame(seq, flags=FIN if fin else 0, data=data, options=edges)

    def says_again(self, start: int) -> bytes:
        return self._frame(self.isn + 1 + start, data=self.said[start:])

    def _sacked(self, sack: tuple[int, int]) -> tuple[int, int]:
        assert self.other_isn is not None
        return self.other_isn + 1 + sack[0], self.other_isn + 1 + sack[1]

    def _frame(self, seq: int, *, flags: int = 0, data: bytes = b"", options: bytes = b"") -> bytes:
        ack = None if self.other_isn is None else self.other_isn + 1 + len(self.heard) + self.ended
        self.ts_said.append(self.clock & MASK)
        stamp = times(self.clock, self.ts_recent)
        return tcp_frame(self.ends, seq, ack=ack, flags=flags, data=data, options=options + stamp)

    def hears(self, frame: bytes) -> Segment:
        """Asserts that a real one would accept it."""
        segment = read_segment(frame)
        assert segment.tsval is not None and segment.tsecr is not None
        if segment.flags & SYN:
            self.other_isn = segment.seq
            self.ts_recent = segment.tsval
        assert self.other_isn is not None
        if segment.flags & ACK:
            self._check_ack(segment)
        # PAWS (RFC 7323, 5.3).
        assert ahead(self.ts_recent, segment.tsval) >= 0, "an old duplicate"
        self.ts_recent = segment.tsval
        if not segment.flags & SYN:
            self._take(segment)
        return segment

    def _check_ack(self, segment: Segment) -> None:
        acked = ahead(self.isn + 1, segment.ack)
        assert self.acked <= acked <= len(self.said) + 1, "an acknowledgement of what was never said"
        self.acked = min(acked, len(self.said))
        for left, right in segment.sacks:
            assert 0 <= ahead(self.isn + 1, left) < ahead(self.isn + 1, right) <= len(self.said)
        # Nobody takes 0 for an echo.
        assert not segment.tsecr or ahead(segment.tsecr, self.ts_said[-1]) >= 0, "an echo from the future"

    def _take(self, segment: Segment) -> None:
        assert self.other_isn is not None
        place = ahead((self.other_isn + 1) & MASK, segment.seq)
        assert place <= len(self.heard), "bytes are missing before it"
        assert place + len(segment.data) >= len(self.heard), "an old segment"
        self.heard = self.heard[:place] + segment.data
        self.ended = self.ended or bool(segment.flags & FIN)
