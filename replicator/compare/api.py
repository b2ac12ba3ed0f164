"""What a comparer of outputs is.

In COLO mode two copies of a guest run on the same inputs, and what the primary's copy says leaves when the secondary's
has said the same. A comparer decides what "the same" is. It is asked with what both sides have said beyond what was
found the same before, and answers:

    Same(n)        the next n bytes of both sides are as good as equal: the primary's leave
    Differs(why)   they are not: a checkpoint makes the sides equal, and then the primary's leave
    Wait()         cannot be said before more comes; within a bound, after which it differs

Rules for a comparer: 1. Both sides go on by the same number of bytes, so what is ignored must have equal length on
both. 2. It is made for one connection and may keep what it needs of it. 3. The answer depends on its arguments and
what it was given before, never on a clock or chance. 4. It is quick: see `guard`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

from replicator.frozen import frozen


@dataclass(frozen=True, slots=True)
class Connection:
    """Who talks. The guest's end first, whoever opened it."""

    #: "tcp" or "udp".
    protocol: str
    guest: str
    guest_port: int
    peer: str
    peer_port: int
    #: Index of the guest's NIC.
    nic: int = 0
    #: VLAN tags, outer one first.
    vlans: tuple[int, ...] = ()
    #: The bytes given begin with the first ones of the connection. Never true of one that was there before.
    from_start: bool = True

    def __str__(self) -> str:
        ends = f"{self.protocol} {self.guest}:{self.guest_port} - {self.peer}:{self.peer_port}"
        return ends + "".join(f" vlan {vlan}" for vlan in self.vlans)


@frozen
class Ages:
    """For how long each side's bytes have waited without any getting on; nanoseconds."""

    primary_ns: int
    secondary_ns: int

    @property
    def newest_ns(self) -> int:
        return min(self.primary_ns, self.secondary_ns)


@frozen
class Same:
    """The next `size` bytes, at least one and at most what the shorter side has; of a datagram all of them."""

    size: int
    #: So many of them were different and ignored.
    ignored_bytes: int = 0


@frozen
class Differs:
    reason: str


@frozen
class Wait:
    pass


Verdict = Same | Differs | Wait


class OutputComparer(Protocol):
    """Made anew for each connection."""

    def compare(self, connection: Connection, primary: bytes, secondary: bytes, ages: Ages) -> Verdict:
        """What both sides said next; neither is empty. Of a stream at most COMPARE_CALL_BYTES_MAX a side, of UDP one
        datagram each. Asked again with what is left after each `Same`, and when more came."""
        ...

    def skip(self, connection: Connection, primary: bytes) -> None:
        """These next bytes of the primary left without being compared, with a checkpoint."""
        ...


#: Makes the comparer of one connection.
ComparerFactory = Callable[[], OutputComparer]


class Comparer:
    """A base for comparers without state, and of what status shows about them."""

    #: What the comparer lets differ, in words.
    ignores: ClassVar[tuple[str, ...]] = ()
    #: Equal bytes of a stream are always `Same`, and the comparer keeps nothing of them: it is then asked only from the
    #: first difference on. Never true of one that follows what is said, and not inherited.
    passes_equal: ClassVar[bool] = False

    def skip(self, connection: Connection, primary: bytes) -> None:
        """Nothing is kept that this could change."""


def count_equal(primary: bytes, secondary: bytes) -> int:
    """Length of the common beginning."""
    end = min(len(primary), len(secondary))
    if primary[:end] == secondary[:end]:
        return end
    low = 0
    while end - low > 1:
        middle = (low + end) // 2
        if primary[low:middle] == secondary[low:middle]:
            low = middle
        else:
            end = middle
    return low


def compare_stream(primary: bytes, secondary: bytes) -> Verdict:
    """The common beginning, or `Differs` when there is none."""
    equal = count_equal(primary, secondary)
    if equal:
        return Same(equal)
    return Differs(f"byte {primary[0]:#04x} against {secondary[0]:#04x}")
