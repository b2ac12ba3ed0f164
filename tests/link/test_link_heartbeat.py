"""Heartbeats: the judgement of silence by hand-made clocks, the thread over real TCP."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import zmq
from link_tools import acquainted, keypair, socket_that_listens, unused_port

from replicator.errors import ConfigError, TransportError
from replicator.link import (
    BadMessage,
    HeartbeatThread,
    Keys,
    LinkConfig,
    PeerAddress,
    PeerRefused,
)
from replicator.link.heartbeat import HeartbeatCallbacks, SilenceWatch
from replicator.wire.session import Heartbeat

WAIT_S = 10.0
MS = 1_000_000


def test_silence_is_reported_once_a_spell() -> None:
    watch = SilenceWatch(100, 3)
    assert not watch.check(1_000_000)  # nobody is expected
    watch.expect(0)
    assert [watch.check(now) for now in (100, 200, 299, 300, 400, 500)] == [False] * 3 + [True] + [False] * 2
    watch.hear(550)
    assert watch.silent_ns(600) == 50
    assert [watch.check(now) for now in (650, 750, 849, 850, 900)] == [False] * 3 + [True, False]


def test_nobody_is_silent_after_it_was_forgotten() -> None:
    watch = SilenceWatch(100, 3)
    watch.expect(0)
    watch.forget()
    assert not any(watch.check(now) for now in range(0, 1000, 100))
    assert watch.silent_ns(1000) == 0
    watch.hear(1000)
    assert [watch.check(now) for now in (1100, 1200, 1300)] == [False, False, True]


def test_our_own_absence_is_no_proof() -> None:
    watch = SilenceWatch(100, 3)
    watch.expect(0)
    assert not watch.check(100)
    assert not watch.check(5000)  # frozen in between: one interval more
    assert not watch.check(5099)
    assert watch.check(5100)


def test_an_absence_does_not_hide_a_peer_that_is_heard() -> None:
    watch = SilenceWatch(100, 3)
    watch.expect(0)
    watch.hear(5000)
    assert not watch.check(5000)
    assert [watch.check(now) for now in (5100, 5200, 5299, 5300)] == [False, False, False, True]


class Beats:
    """One side's thread and what it reported, as a queue to wait on."""

    def __init__(
        self,
        node: str,
        keys: Keys | None = None,
        port: int = 0,
        misses: int = 5,
        counts: Callable[[Heartbeat], bool] = lambda _: True,
    ) -> None:
        self.reports: queue.Queue[tuple[str, Any]] = queue.Queue()
        self.progress = 0
        self.thread = HeartbeatThread(
            LinkConfig(node, "127.0.0.1", heartbeat_port=port, keys=keys),
            interval_ms=20,
            misses=misses,
            callbacks=HeartbeatCallbacks(
                local=lambda: Heartbeat(node, "primary", 1, 1, self.progress, 0, 0),
                on_silent=lambda last, ns: self.reports.put(("silent", (last, ns))),
                on_alive=lambda beat: self.reports.put(("alive", beat)),
                on_refused=lambda why: self.reports.put(("refused", why)),
                counts=counts,
            ),
        )
        self.keys = keys

    @property
    def address(self) -> PeerAddress:
        return PeerAddress("127.0.0.1", 0, 0, self.thread.port, self.keys.public if self.keys else "")

    def until(self, kind: str) -> Any:
        deadline = time.monotonic() + WAIT_S
        while True:
            found, value = self.reports.get(timeout=max(0.01, deadline - time.monotonic()))
            if found == kind:
                return value


@contextmanager
def beating(*sides: Beats) -> Iterator[None]:
    try:
        for side in sides:
            side.thread.start()
        yield
    finally:
        for side in sides:
            side.thread.stop()


@pytest.mark.parametrize("keys", [(None, None), acquainted()], ids=["plain", "curve"])
def test_both_sides_hear_each_other_and_the_progress(keys: tuple[Keys | None, Keys | None]) -> None:
    a, b = Beats("host-a", keys[0]), Beats("host-b", keys[1])
    with beating(a, b):
        a.thread.connect(b.address)
        assert b.until("alive").node == "host-a"
        assert a.until("alive").node == "host-b"
        a.progress = 7
        while (beat := b.until("alive")).epoch != 7:
            pass
        assert b.until("alive").seq > beat.seq
        assert a.thread.silent_ns() < WAIT_S * 1e9


def test_both_sides_notice_that_the_other_fell_silent() -> None:
    a, b = Beats("host-a"), Beats("host-b")
    with beating(a, b):
        a.thread.connect(b.address)
        b.until("alive")
        last_b = a.until("alive")
        a.thread.stop()
        last, silent_ns = b.until("silent")
        assert last.node == "host-a"
        assert silent_ns >= 100 * MS
        assert last_b.node == "host-b"
        assert b.reports.empty()


def test_a_peer_that_comes_back_is_heard_and_can_fall_silent_again() -> None:
    a, b = Beats("host-a"), Beats("host-b")
    with beating(a, b):
        a.thread.connect(b.address)
        a.until("alive")
        port = b.thread.port
        b.thread.stop()
        assert a.until("silent")[0].node == "host-b"
        again = Beats("host-b", port=port)
        with beating(again):
            again.until("alive")
            a.until("alive")
        assert a.until("silent")[0].node == "host-b"


def test_a_peer_that_never_beat_is_silent_without_a_last_beat() -> None:
    a = Beats("host-a")
    with socket_that_listens() as port, beating(a):
        a.thread.connect(PeerAddress("127.0.0.1", 0, 0, port))
        last, _ = a.until("silent")
        assert last is None


def test_who_is_not_connected_waits_for_nobody() -> None:
    a, b = Beats("host-a"), Beats("host-b")
    with beating(a, b):
        a.thread.connect(b.address)
        b.until("alive")
        a.until("alive")
        a.thread.disconnect()
        # The other side was not told, so it reports; by then this side has had time to do so as well.
        b.until("silent")
        assert all(kind == "alive" for kind, _ in list(a.reports.queue))


def test_a_peer_that_said_goodbye_is_not_missed() -> None:
    a, b, c = Beats("host-a"), Beats("host-b"), Beats("host-c")
    with beating(a, b, c):
        a.thread.connect(b.address)
        b.until("alive")
        a.thread.stop()
        b.thread.forget_peer()
        c.thread.connect(PeerAddress("127.0.0.1", 0, 0, unused_port()))
        c.until("silent")
        # c's whole spell of silence passed: b would have reported by now.
        assert all(kind == "alive" for kind, _ in list(b.reports.queue))


def test_our_own_beats_are_no_life() -> None:
    a = Beats("host-a")
    with beating(a):
        a.thread.connect(a.address)
        last, _ = a.until("silent")
        assert last is None


def test_a_wrong_key_is_silent_and_reported() -> None:
    a_keys, b_keys = acquainted()
    stranger = keypair()
    a, b = Beats("host-a", stranger), Beats("host-b", b_keys)
    with beating(a, b):
        a.thread.connect(b.address)
        refused = b.until("refused")
        assert isinstance(refused, PeerRefused)
        assert stranger.public in refused.reason
        assert a.until("silent")[0] is None
        assert not any(kind == "alive" for kind, _ in list(b.reports.queue))
    assert a_keys.public not in refused.reason


def test_garbage_is_reported_and_no_life() -> None:
    b = Beats("host-b")
    context = zmq.Context()
    with beating(b), context.socket(zmq.DEALER) as stranger:
        stranger.linger = 0
        stranger.connect(f"tcp://127.0.0.1:{b.thread.port}")
        stranger.send(b"\xc1garbage")
        bad = b.until("refused")
        assert isinstance(bad, BadMessage)
        assert "not a msgpack message" in str(bad.error)
    context.term()
    assert not any(kind == "alive" for kind, _ in list(b.reports.queue))


def test_a_loop_that_holds_the_interpreter_is_not_taken_for_silence() -> None:
    a, b = Beats("host-a", misses=10), Beats("host-b", misses=10)
    stop = threading.Event()

    def burn() -> None:
        while not stop.is_set():
            sum(range(10_000))

    burner = threading.Thread(target=burn)
    with beating(a, b):
        a.thread.connect(b.address)
        a.until("alive")
        burner.start()
        try:
            for _ in range(25):
                assert a.until("alive").node == "host-b"
        finally:
            stop.set()
            burner.join()
        assert not any(kind == "silent" for kind, _ in [*a.reports.queue, *b.reports.queue])


def test_a_taken_port_is_an_error() -> None:
    a = Beats("host-a")
    with beating(a):
        b = Beats("host-b", port=a.thread.port)
        with pytest.raises(
            TransportError, match=f"heartbeat on 127.0.0.1 port {a.thread.port}: Address already"
        ):
            b.thread.start()
        b.thread.stop()


def test_numbers_that_cannot_work_are_refused() -> None:
    beat = Heartbeat("host-a", "idle", 0, 1, 0, 0, 0)
    for wrong in ({"interval_ms": 0, "misses": 3}, {"interval_ms": 10, "misses": 1}):
        with pytest.raises(ConfigError, match="misses"):
            HeartbeatThread(
                LinkConfig("host-a", "127.0.0.1"),
                callbacks=HeartbeatCallbacks(
                    local=lambda: replace(beat), on_silent=lambda *_: None, on_alive=lambda _: None
                ),
                **wrong,
            )


def test_only_beats_that_count_are_a_sign_of_life_and_a_hello_is_one_too() -> None:
    a = Beats("host-a", counts=lambda beat: beat.role == "secondary")
    b = Beats("host-b")
    with beating(a, b):
        a.thread.connect(b.address)
        b.until("alive")
        assert a.until("silent")[0] is None
        a.thread.expect_peer()
        assert a.until("silent")[0] is None
