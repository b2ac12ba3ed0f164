"""The two comparers that ignore nothing."""

from __future__ import annotations

from replicator.compare.api import (
    Ages,
    Comparer,
    Connection,
    Differs,
    Same,
    Verdict,
    compare_stream,
    count_equal,
)


class TcpStreamComparer(Comparer):
    """`tcp-stream`: what a stream contains, wherever its segments begin and end. All bytes before a difference leave;
    a datagram is a whole."""

    passes_equal = True

    def compare(self, connection: Connection, primary: bytes, secondary: bytes, ages: Ages) -> Verdict:
        if connection.protocol == "tcp":
            return compare_stream(primary, secondary)
        return compare_whole(primary, secondary)


class ExactComparer(Comparer):
    """`exact`: as far as both have spoken, all must be equal; otherwise none of it leaves before the checkpoint."""

    passes_equal = True

    def compare(self, connection: Connection, primary: bytes, secondary: bytes, ages: Ages) -> Verdict:
        if connection.protocol != "tcp":
            return compare_whole(primary, secondary)
        both = min(len(primary), len(secondary))
        return compare_whole(primary[:both], secondary[:both])


def compare_whole(primary: bytes, secondary: bytes) -> Verdict:
    """Equal or not, as one piece."""
    if primary == secondary:
        return Same(len(primary))
    if len(primary) != len(secondary):
        return Differs(f"{len(primary)} bytes against {len(secondary)}")
    return Differs(f"byte {count_equal(primary, secondary)} of {len(primary)}")
