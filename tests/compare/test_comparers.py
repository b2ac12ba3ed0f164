"""The built-in comparers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from comparer_hands import OLD, TCP, UDP, YOUNG, feed
from hypothesis import given, settings
from hypothesis import strategies as st

from replicator.compare import (
    Differs,
    ExactComparer,
    HttpComparer,
    IgnoreRangesComparer,
    Same,
    TcpStreamComparer,
    Wait,
    count_equal,
)
from replicator.errors import ConfigError

MIDDLE = replace(TCP, from_start=False)


@settings(deadline=None)
@given(st.binary(max_size=80), st.binary(max_size=80))
def test_the_common_beginning(one: bytes, other: bytes) -> None:
    size = count_equal(one, other)
    assert one[:size] == other[:size]
    assert size == min(len(one), len(other)) or one[size] != other[size]


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=300), st.data())
def test_a_stream_leaves_up_to_the_difference(data: bytes, draw: st.DataObject) -> None:
    at = draw.draw(st.integers(0, len(data) - 1))
    other = data[:at] + bytes((data[at] ^ 255,)) + data[at + 1 :]
    done, _, verdict = feed(TcpStreamComparer(), data, other)
    assert done == at
    assert isinstance(verdict, Differs)
    assert feed(ExactComparer(), data, other)[0] == 0
    assert feed(ExactComparer(), data, data) == (len(data), 0, None)


@pytest.mark.parametrize("kind", [TcpStreamComparer, ExactComparer, HttpComparer])
def test_datagrams_are_wholes(kind: Any) -> None:
    assert kind().compare(UDP, b"abc", b"abc", YOUNG) == Same(3)
    assert isinstance(kind().compare(UDP, b"abc", b"abd", YOUNG), Differs)
    assert isinstance(kind().compare(UDP, b"abc", b"abcd", YOUNG), Differs)


def answer(
    body: bytes = b"hi", *, date: bytes = b"10:00:00", extra: bytes = b"", status: bytes = b"200 OK"
) -> bytes:
    head = b"HTTP/1.1 " + status + b"\r\nDate: " + date + b"\r\n" + extra
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def test_http_lets_the_date_differ() -> None:
    mine = answer() + answer(b"Date: 1\r\n") + answer(b"")
    others = (
        answer(date=b"10:00:01") + answer(b"Date: 1\r\n", date=b"10:00:02") + answer(b"", date=b"10:00:03")
    )
    assert feed(HttpComparer(), mine, others) == (len(mine), 3, None)


@settings(deadline=None)
@given(st.data())
def test_http_says_the_same_however_it_is_cut(data: st.DataObject) -> None:
    mine = answer(b"body", date=b"10:00:00") + answer(b"", status=b"304 Not Modified") + answer(b"more")
    others = mine.replace(b"10:00:00", b"23:59:59")
    comparer = HttpComparer()
    done = 0
    end = 0
    while done < len(mine):
        end = data.draw(st.integers(min(end + 1, len(mine)), len(mine)))
        more, _, verdict = feed(comparer, mine[done:end], others[done:end])
        done += more
        assert verdict in (None, Wait())
    assert done == len(mine)


def test_http_compares_bodies() -> None:
    mine, others = answer(b"Date: 10:00:00\r\n"), answer(b"Date: 10:00:01\r\n")
    done, ignored, verdict = feed(HttpComparer(), mine, others)
    assert (done, ignored) == (len(mine) - 3, 0)
    assert isinstance(verdict, Differs)


@pytest.mark.parametrize(
    "others",
    [
        answer(date=b"9:00:00"),
        answer(extra=b"Etag: 2\r\n"),
        answer(status=b"404 OK"),
        answer().replace(b"Date:", b"date:"),
    ],
)
def test_http_demands_the_rest_to_be_equal(others: bytes) -> None:
    mine = answer(extra=b"Etag: 1\r\n") if b"Etag" in others else answer()
    assert isinstance(feed(HttpComparer(), mine, others)[2], Differs)


def test_http_follows_chunks() -> None:
    def chunked(date: bytes, end: bytes = b"x") -> bytes:
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nDate: " + date + b"\r\n\r\n"
        return head + b"4;a=b\r\nDate\r\n1\r\n" + end + b"\r\n0\r\nTrailer: 1\r\n\r\n"

    mine, others = chunked(b"1") + answer(date=b"1"), chunked(b"2") + answer(date=b"2")
    assert feed(HttpComparer(), mine, others) == (len(mine), 2, None)
    assert isinstance(feed(HttpComparer(), mine, chunked(b"2", b"y") + answer())[2], Differs)


def test_http_ignores_nothing_in_a_trailer() -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
    done, ignored, verdict = feed(HttpComparer(), head + b"Date: 1\r\n\r\n", head + b"Date: 2\r\n\r\n")
    assert (done, ignored, isinstance(verdict, Differs)) == (len(head), 0, True)


@pytest.mark.parametrize(
    "before",
    [
        b"SSH-2.0-banner\r\n",
        b"GET / HTTP/1.1\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\na",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n",
        b"x" * 10_000,
    ],
)
def test_what_http_cannot_follow_is_compared_to_its_end(before: bytes) -> None:
    comparer = HttpComparer()
    assert feed(comparer, before, before)[0] == len(before)
    later = answer(date=b"10:00:00")
    _, ignored, verdict = feed(comparer, later, answer(date=b"10:00:01"))
    assert (ignored, isinstance(verdict, Differs)) == (0, True)


def test_http_ignores_nothing_in_a_connection_that_was_there_before() -> None:
    assert isinstance(feed(HttpComparer(), answer(), answer(date=b"10:00:01"), MIDDLE)[2], Differs)


def test_http_keeps_its_place_over_what_is_skipped() -> None:
    comparer = HttpComparer()
    comparer.skip(TCP, answer(b"body")[:-2])
    assert feed(comparer, b"dy", b"dy") == (2, 0, None)
    comparer.skip(TCP, b"HTTP/1.1 200 OK\r\nDat")
    rest = b"e: %d\r\nContent-Length: 0\r\n\r\n"
    _, ignored, verdict = feed(comparer, rest % 1, rest % 2)
    assert (ignored, verdict) == (1, None)


def test_headers_of_http_are_configurable() -> None:
    mine, others = answer(extra=b"X-Id: 1\r\n"), answer(extra=b"X-Id: 2\r\n")
    assert isinstance(feed(HttpComparer(), mine, others)[2], Differs)
    comparer = HttpComparer(headers=["X-Id"])
    assert feed(comparer, mine, others)[2] is None
    assert comparer.ignores == ("HTTP header X-Id",)
    with pytest.raises(ConfigError, match="no name of a header"):
        HttpComparer(headers=["Date:"])


CLOCK = {"name": "clock", "pattern": r"time=\d+"}


def test_a_pattern_may_differ_at_equal_length() -> None:
    mine, others = b"a time=1234 b", b"a time=1299 b"
    assert feed(IgnoreRangesComparer([CLOCK]), mine, others) == (len(mine), 2, None)
    done, _, verdict = feed(IgnoreRangesComparer([CLOCK]), mine, b"a time=12 b!!", ages=OLD)
    assert isinstance(verdict, Differs)
    assert done <= 9


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 12))
def test_a_pattern_may_be_cut_anywhere(first: int, second: int) -> None:
    mine, others = b"a time=1234 b", b"a time=9876 b"
    comparer = IgnoreRangesComparer([CLOCK])
    done = ignored = 0
    for end in sorted((first, second)) + [len(mine)]:
        more, skipped, _ = feed(comparer, mine[done:end], others[done:end])
        done += more
        ignored += skipped
    assert (done, ignored) == (len(mine), 4)


def test_an_open_match_waits_until_nothing_more_comes() -> None:
    comparer = IgnoreRangesComparer([CLOCK])
    assert feed(comparer, b"time=1", b"time=2") == (5, 0, Wait())
    assert feed(comparer, b"1", b"2", ages=OLD) == (1, 1, None)


def test_other_differences_still_differ() -> None:
    done, _, verdict = feed(IgnoreRangesComparer([CLOCK]), b"a time=1 x", b"a time=2 y", ages=OLD)
    assert done == 9
    assert isinstance(verdict, Differs)


def test_a_range_counts_from_the_start() -> None:
    comparer = IgnoreRangesComparer([{"name": "id", "range": [2, 4]}])
    assert feed(comparer, b"a", b"a") == (1, 0, None)
    assert feed(comparer, b"aXXa", b"aYYa") == (4, 2, None)
    comparer.skip(TCP, b"more")
    assert isinstance(feed(comparer, b"a", b"b", ages=OLD)[2], Differs)
    middle = IgnoreRangesComparer([{"name": "id", "range": [0, 4]}])
    assert isinstance(feed(middle, b"a", b"b", MIDDLE, OLD)[2], Differs)


def test_ranges_of_a_datagram() -> None:
    def ask(mine: bytes, others: bytes) -> object:
        return IgnoreRangesComparer([{"name": "id", "range": [0, 2]}]).compare(UDP, mine, others, YOUNG)

    assert ask(b"12abc", b"34abc") == Same(5, 2)
    assert isinstance(ask(b"12abc", b"34abd"), Differs)
    assert isinstance(ask(b"12abc", b"34abcd"), Differs)


def test_rules_hold_on_their_ports_only() -> None:
    rule = {**CLOCK, "ports": [81]}
    assert isinstance(feed(IgnoreRangesComparer([rule]), b"time=1 ", b"time=2 ", ages=OLD)[2], Differs)
    assert feed(IgnoreRangesComparer([{**rule, "ports": [80]}]), b"time=1 ", b"time=2 ")[2] is None


def test_rules_are_named() -> None:
    rules = [{**CLOCK, "ports": [81, 80]}, {"name": "id", "range": [1, 3]}]
    assert IgnoreRangesComparer(rules).ignores == (
        "clock: pattern b'time=\\\\d+' on ports 80, 81",
        "id: bytes 1..3",
    )


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({}, "has no name"),
        ("text", "has no name"),
        ({"name": "x"}, "either a pattern or a range"),
        ({"name": "x", "pattern": "a", "range": [1, 2]}, "either a pattern or a range"),
        ({"name": "x", "pattern": "("}, "pattern"),
        ({"name": "x", "pattern": "a*"}, "matches nothing"),
        ({"name": "x", "pattern": 5}, "pattern"),
        ({"name": "x", "range": [2, 2]}, "no range"),
        ({"name": "x", "range": [True, 2]}, "no range"),
        ({"name": "x", "range": 2}, "no range"),
        ({"name": "x", "range": [0, 2], "ports": [0]}, "no ports"),
        ({"name": "x", "range": [0, 2], "port": [1]}, "port is not known"),
    ],
)
def test_rules_that_cannot_be_are_refused(rule: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        IgnoreRangesComparer([rule])
    assert caught.value.hint


def test_no_rules_are_refused() -> None:
    with pytest.raises(ConfigError, match="ignores nothing"):
        IgnoreRangesComparer()


@settings(deadline=None)
@given(st.binary(max_size=60), st.binary(max_size=60), st.booleans())
def test_no_comparer_answers_nonsense(mine: bytes, others: bytes, old: bool) -> None:
    size = min(len(mine), len(others))
    if not size:
        return
    for comparer in (ExactComparer(), TcpStreamComparer(), HttpComparer(), IgnoreRangesComparer([CLOCK])):
        verdict = comparer.compare(TCP, mine[:size], others[:size], OLD if old else YOUNG)
        assert not isinstance(verdict, Same) or 0 < verdict.size <= size
