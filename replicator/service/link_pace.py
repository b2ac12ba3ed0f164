"""Whether LZ4 pays: a link that is fast takes pages as they are in less time than it takes to compress them.

Looked at group by group, of parts that are encoded side by side and then sent. When encoding takes longer than sending,
the link waits for us: less is compressed. When sending takes longer, the link sets the pace and shows its rate: LZ4 pays
if it needs less time for a byte than the link does. Pure.
"""

from __future__ import annotations

from typing import NamedTuple

#: Of the time that the link needs for a byte; a change of the way must gain something.
PAYS_SHARE = 0.8


class Group(NamedTuple):
    """What was sent, and the time it took: encoding, then sending."""

    #: Of pages that are neither zero nor the same nor a difference: what LZ4 is for.
    whole_bytes: int
    wire_bytes: int
    encode_ns: int
    send_ns: int


class LinkPace:
    """Of one primary, whatever it is connected to."""

    def __init__(self) -> None:
        self.compresses = True
        #: To compress a byte, as it was when last done.
        self._compress_ns = 0.0

    def note(self, group: Group) -> None:
        """A group was sent in the present way."""
        if not group.whole_bytes:
            return
        if self.compresses:
            self._compress_ns = group.encode_ns / group.whole_bytes
        if group.send_ns <= group.encode_ns:
            self.compresses = False
            return
        link_ns = (group.encode_ns + group.send_ns) / group.wire_bytes
        self.compresses = self._compress_ns < link_ns * PAYS_SHARE
