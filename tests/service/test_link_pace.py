"""LZ4 against links of many rates, in a model of both."""

from __future__ import annotations

import pytest

from replicator.service.link_pace import Group, LinkPace

BYTES = 4 << 20
RATIO = 0.4
RAW_NS, LZ4_NS = 0.2, 2.0


def send_on(link_ns: float, groups: int) -> list[bool]:
    """How each group was sent over a link that needs so long for a byte."""
    pace, ways = LinkPace(), []
    for _ in range(groups):
        ways.append(pace.compresses)
        encode_ns = BYTES * (LZ4_NS if pace.compresses else RAW_NS)
        wire_bytes = BYTES * (RATIO if pace.compresses else 1)
        # Sending goes on while the next group is encoded.
        send_ns = max(0.0, wire_bytes * link_ns - encode_ns)
        pace.note(Group(BYTES, int(wire_bytes), int(encode_ns), int(send_ns)))
    return ways


@pytest.mark.parametrize("link_ns", [0.1, 0.5, 1.0, 1.5])
def test_a_fast_link_gets_pages_as_they_are(link_ns: float) -> None:
    assert send_on(link_ns, 30) == [True] + [False] * 29


@pytest.mark.parametrize("link_ns", [12.0, 80.0, 800.0])
def test_a_slow_link_gets_fewer_bytes(link_ns: float) -> None:
    assert send_on(link_ns, 30) == [True] * 30


def test_a_link_that_becomes_slow_is_noticed() -> None:
    pace = LinkPace()
    pace.note(Group(BYTES, BYTES // 2, 2 * BYTES, 0))
    assert not pace.compresses
    pace.note(Group(BYTES, BYTES, BYTES // 5, 8 * BYTES))
    assert pace.compresses


def test_a_group_without_whole_pages_says_nothing() -> None:
    pace = LinkPace()
    pace.note(Group(0, 4096, 1000, 0))
    assert pace.compresses
