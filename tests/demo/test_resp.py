"""Replies are the same however the bytes are cut; nonsense is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.demo.resp import Reply, ReplyError, ReplyReader, encode_command

STREAM = b":1\r\n+OK\r\n$5\r\na\r\nbc\r\n$-1\r\n$0\r\n\r\n*3\r\n:7\r\n$1\r\nx\r\n$-1\r\n*0\r\n"
REPLIES: list[Reply] = [1, b"OK", b"a\r\nbc", None, b"", [7, b"x", None], []]


def test_at_every_cut() -> None:
    for cut in range(len(STREAM) + 1):
        reader = ReplyReader()
        assert [*reader.feed(STREAM[:cut]), *reader.feed(STREAM[cut:])] == REPLIES


def test_byte_by_byte() -> None:
    reader = ReplyReader()
    assert [reply for n in range(len(STREAM)) for reply in reader.feed(STREAM[n : n + 1])] == REPLIES


@given(st.binary(max_size=200))
def test_any_bytes_give_replies_or_a_reply_error(data: bytes) -> None:
    try:
        ReplyReader().feed(data)
    except ReplyError:
        return


@pytest.mark.parametrize(
    "data",
    [
        b"hello\r\n",
        b":x\r\n",
        b"$3\r\nabcde\r\n",
        b"$9999999\r\n",
        b"*99999\r\n",
        b"x" * 5000,
        b"-ERR no\r\n",
    ],
)
def test_nonsense_and_errors_are_refused(data: bytes) -> None:
    with pytest.raises(ReplyError):
        ReplyReader().feed(data)


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=5))
def test_commands_are_arrays_of_bulk_strings(words: list[bytes]) -> None:
    assert ReplyReader().feed(encode_command(*words)) == [list(words)]
