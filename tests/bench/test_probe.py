"""The client with one request under way: its echoes, its gaps, its figures."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.bench.loads import probe
from replicator.bench.loads.probe import (
    ASKERS,
    CLOCK_EVERY_NS,
    checksum,
    draw_gaps,
    encode_echo,
    exchanges,
    main,
    read_answer,
    summarize,
)

HEADER = bytes([0x45]) + bytes(19)


def test_an_echo_request_has_the_bytes_of_the_rfc():
    # The checksum of 08 00 00 00 12 34 00 01 "abcdefgh", worked out by hand.
    assert encode_echo(0x1234, 1, b"abcdefgh").hex() == "08005435123400016162636465666768"


@given(st.binary(max_size=99))
def test_a_packet_with_its_checksum_in_it_sums_to_nothing(data):
    padded = data + bytes(len(data) % 2)
    assert checksum(padded + checksum(padded).to_bytes(2, "big")) == 0


def test_the_reply_to_a_request_is_told_from_others():
    reply = HEADER + bytes([0]) + encode_echo(7, 9)[1:]
    assert read_answer(reply, 7) == 9
    assert read_answer(reply, 6) is None
    assert read_answer(HEADER + encode_echo(7, 9), 7) is None
    assert read_answer(HEADER + b"\0\0", 7) is None
    assert read_answer(b"", 7) is None


def test_gaps_are_drawn_evenly_and_the_same_for_a_seed():
    gaps = list(itertools.islice(draw_gaps(40, 5), 1000))
    assert gaps == list(itertools.islice(draw_gaps(40, 5), 1000))
    assert min(gaps) >= 0 and max(gaps) <= 0.08
    assert sum(gaps) / len(gaps) == pytest.approx(0.04, rel=0.1)


def test_each_request_waits_for_the_reply_to_the_last():
    asked = []

    class Asker:
        def ask(self):
            asked.append(len(asked))

    found = list(exchanges(Asker(), itertools.repeat(0.0), lambda: len(asked) >= 3))
    assert len(found) == len(asked) == 3
    moments = [moment for pair in found for moment in pair]
    assert moments == sorted(moments)


def test_the_clock_is_asked_for_once_a_second_and_no_more(monkeypatch):
    asked, now = [], [0]

    class Connection:
        def __init__(self, *_):
            self.socket = SimpleNamespace(settimeout=lambda _: None)

        def ask(self, *words):
            asked.append(words[0])

    monkeypatch.setattr(probe, "Connection", Connection)
    monkeypatch.setattr(probe.time, "monotonic_ns", lambda: now[0])
    asker = ASKERS["clock"]("a guest")
    after = []
    for now[0] in range(0, 3 * CLOCK_EVERY_NS, CLOCK_EVERY_NS // 4):
        asker.ask()
        after.append(asker.is_after_difference)
    assert asked == [*["INCR"] * 4, "TIME", *["INCR"] * 3, "TIME", *["INCR"] * 3]
    assert [n for n, is_after in enumerate(after) if is_after] == [5, 9]


def test_figures_of_a_run():
    seen = summarize([1.0, 2.0, 3.0, 10.0], 2.0)
    assert seen["rate"] == 2
    assert seen["latency avg"] == 4
    assert (seen["latency p50"], seen["latency max"]) == (2, 10)
    assert "latency after a difference p50" not in seen
    assert summarize([1.0, 9.0, 8.0], 1.0, [9.0, 8.0])["latency after a difference p50"] in (8.0, 9.0)
    assert summarize([], 1.0) == {}


def test_an_address_that_does_not_answer_is_exit_code_4(capsys):
    # Nobody listens at redis' port of this address of the loopback network.
    assert main(["127.255.1.2", "redis"]) == 4
    assert "cannot connect" in capsys.readouterr().err
