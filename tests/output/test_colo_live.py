"""Both relays of a COLO pair with real unix sockets, a TAP and a channel over TCP, with and without keys."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from colo_tools import make_guard
from output_tools import WAIT_S, GuestEnd, Network, Paths, frame_in, frame_out, number_of, wait_until

from replicator.deadline import SharedDeadline
from replicator.engine.compare.effects import AskCheckpoint, Reason
from replicator.engine.output import OutputMode
from replicator.errors import GuestError, InvariantError
from replicator.link.base import LinkConfig
from replicator.link.frame_channel import FrameDialler, FrameListener
from replicator.link.keys import Keys
from replicator.output.colo_base import ColoCallbacks
from replicator.output.colo_relay import ColoRelay
from replicator.output.core import boottime_ns
from replicator.output.relay import NicEnds
from replicator.output.secondary_relay import SecondaryRelay
from replicator.output.tap import Tap
from replicator.units import NS_PER_S, Epoch


class Heard:
    """Callbacks of one relay, to be waited for."""

    def __init__(self) -> None:
        self.opened = 0
        self.broken: list[str] = []
        self.asked: list[AskCheckpoint] = []
        self._changed = threading.Condition()

    def callbacks(self) -> ColoCallbacks:
        return ColoCallbacks(self._open, self._add(self.broken), self._add(self.asked))

    def wait_for(self, what: str, count: int) -> None:
        def is_there() -> bool:
            found = getattr(self, what)
            return (found if isinstance(found, int) else len(found)) >= count

        with self._changed:
            assert self._changed.wait_for(is_there, WAIT_S), f"heard only {vars(self)}"

    def _open(self) -> None:
        with self._changed:
            self.opened += 1
            self._changed.notify_all()

    def _add(self, to: list):  # type: ignore[type-arg,no-untyped-def]
        def add(one: object) -> None:
            with self._changed:
                to.append(one)
                self._changed.notify_all()

        return add


class LivePair:
    """`guest` and `other` are the two guests' ends of their NICs."""

    def __init__(
        self, folder: Path, tap: Tap, keys: tuple[Keys | None, Keys | None], *, fast: bool = True
    ) -> None:
        self.keys = keys
        for side in "ps":
            (folder / side).mkdir()
        self.paths = [Paths(folder / side / "guest.sock", folder / side / "relay.sock") for side in "ps"]
        self.guest, self.other = (GuestEnd(paths) for paths in self.paths)
        self.deadline = SharedDeadline((1 << 63) - 1)
        self.heard, self.others_heard = Heard(), Heard()
        self.primary = ColoRelay(
            [NicEnds(self.paths[0], tap)],
            make_guard(),
            deadline=self.deadline,
            colo=self.heard.callbacks(),
            mode=OutputMode.HOLD,
            fast=fast,
        )
        self.secondary = SecondaryRelay(
            [self.paths[1]], make_guard(), colo=self.others_heard.callbacks(), fast=fast
        )
        self.epoch = 0
        self.sessions = 0
        self.primary.start()
        self.secondary.start()

    def connect(self) -> None:
        self.sessions += 1
        session = self.sessions.to_bytes(16, "big")
        configs = [
            LinkConfig(name, "127.0.0.1", keys=keys) for name, keys in zip("ab", self.keys, strict=True)
        ]
        public_key = self.keys[1].public if self.keys[1] else ""
        listener = FrameListener(configs[1], session)
        dialler = FrameDialler(
            configs[0], session, host="127.0.0.1", port=listener.port, public_key=public_key
        )
        self.secondary.attach(listener)
        self.primary.attach(dialler)
        self.heard.wait_for("opened", self.sessions)
        self.others_heard.wait_for("opened", self.sessions)

    def checkpoint(self) -> bool:
        """Of guests that stand still by themselves."""
        self.primary.hold_input()
        self.secondary.suspend()
        self.epoch += 1
        mark = self.primary.drain_and_mark(Epoch(self.epoch))
        self.primary.resume_input()
        assert self.secondary.loaded(Epoch(self.epoch), mark.input_seq) == 0
        self.secondary.resume_input()
        return self.primary.compare(Epoch(self.epoch))

    def close(self) -> None:
        self.primary.stop()
        self.secondary.stop()
        self.guest.socket.close()
        self.other.socket.close()


@pytest.fixture(params=["plain", "sealed", "without fast path"])
def pair(tmp_path: Path, tap: Tap, request: pytest.FixtureRequest) -> Iterator[LivePair]:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    sealed = Keys("a", "sa"), Keys("b", "sb")
    one = LivePair(
        tmp_path, tap, sealed if request.param == "sealed" else (None, None), fast=request.param == "plain"
    )
    yield one
    one.close()


@pytest.fixture
def comparing(pair: LivePair) -> LivePair:
    wait_until(lambda: pair.primary.stats().connected and pair.secondary.stats().connected)
    pair.connect()
    assert pair.checkpoint()
    return pair


def test_both_guests_hear_all_and_what_both_say_leaves(comparing: LivePair, network: Network) -> None:
    for number in range(50):
        network.send(frame_in(number))
        assert (number_of(comparing.guest.recv()), number_of(comparing.other.recv())) == (number, number)
        comparing.guest.send(frame_out(number))
        comparing.other.send(frame_out(number))
        assert network.recv_numbers(1) == [number]
    status = comparing.primary.compare_status()
    assert status is not None and sum(counters.matched for counters in status.kinds.values()) == 50
    assert comparing.heard.asked == []


def test_what_one_side_says_waits_for_the_other_or_the_commit(comparing: LivePair, network: Network) -> None:
    comparing.guest.send(frame_out(1))
    wait_until(lambda: comparing.primary.stats().output.held_frames == 1)
    comparing.other.send(frame_out(1))
    assert network.recv_numbers(1) == [1]
    comparing.guest.send(frame_out(2))
    comparing.other.send(frame_out(3))
    comparing.heard.wait_for("asked", 1)
    assert comparing.heard.asked[0].reason is Reason.DIFFERS
    assert network.recv_now() == []
    assert comparing.checkpoint()
    assert network.recv_numbers(1) == [2]


def test_silence_is_noticed_without_any_other_event(comparing: LivePair) -> None:
    comparing.guest.send(frame_out(1))
    comparing.heard.wait_for("asked", 1)
    assert comparing.heard.asked[0].reason is Reason.TIMEOUT


def test_a_burst_comes_through_in_order(comparing: LivePair, network: Network) -> None:
    def say_all() -> None:
        for number in range(500):
            comparing.other.send(frame_out(number, 1500))

    other = threading.Thread(target=say_all)
    other.start()
    for number in range(500):
        comparing.guest.send(frame_out(number, 1500))
    other.join()
    assert network.recv_numbers(500) == list(range(500))
    wait_until(lambda: comparing.primary.stats().output.held_frames == 0)


def test_a_secondary_that_goes_leaves_all_to_the_commits(comparing: LivePair, network: Network) -> None:
    comparing.guest.send(frame_out(1))
    comparing.secondary.stop()
    comparing.heard.wait_for("broken", 1)
    comparing.guest.send(frame_out(2))
    wait_until(lambda: comparing.primary.stats().output.held_frames == 2)
    assert comparing.primary.compare_status() is None
    comparing.primary.hold_input()
    comparing.primary.drain_and_mark(Epoch(2))
    comparing.primary.resume_input()
    assert not comparing.primary.compare(Epoch(2))
    assert network.recv_numbers(2) == [1, 2]


def test_a_primary_that_goes_and_a_guest_that_goes_on_alone(
    comparing: LivePair, network: Network, tap: Tap
) -> None:
    network.send(frame_in(1))
    comparing.guest.recv(), comparing.other.recv()
    comparing.other.send(frame_out(1))
    comparing.primary.stop()
    deadline = SharedDeadline(0)
    comparing.secondary.take_over([tap], deadline=deadline)
    network.send(frame_in(2))
    assert number_of(comparing.other.recv()) == 2
    comparing.other.send(frame_out(2))
    wait_until(lambda: comparing.secondary.stats().muted)
    assert network.recv_now() == []
    deadline.deadline_ns = boottime_ns() + 100 * NS_PER_S
    assert network.recv_numbers(1) == [2]
    assert not comparing.secondary.standing_by
    # A primary like any other.
    comparing.secondary.set_mode(OutputMode.HOLD)
    comparing.other.send(frame_out(3))
    wait_until(lambda: comparing.secondary.stats().output.held_frames == 1)
    comparing.secondary.hold_input()
    comparing.secondary.drain_and_mark(Epoch(9))
    comparing.secondary.resume_input()
    comparing.secondary.release(Epoch(9))
    assert network.recv_numbers(1) == [3]


def test_another_process_may_take_the_guests_place_at_a_checkpoint(
    comparing: LivePair, network: Network
) -> None:
    comparing.primary.hold_input()
    comparing.secondary.suspend()
    mark = comparing.primary.drain_and_mark(Epoch(2))
    comparing.primary.resume_input()
    network.send(frame_in(7))
    assert number_of(comparing.guest.recv()) == 7
    comparing.other.send(frame_out(66))
    comparing.other.socket.close()
    comparing.other = GuestEnd(comparing.paths[1])
    comparing.secondary.loaded(Epoch(2), mark.input_seq)
    comparing.secondary.resume_input()
    comparing.primary.compare(Epoch(2))
    assert number_of(comparing.other.recv()) == 7
    comparing.other.send(frame_out(7))
    comparing.guest.send(frame_out(7))
    assert network.recv_numbers(1) == [7]


def test_a_new_channel_takes_an_older_ones_place(comparing: LivePair, network: Network) -> None:
    comparing.guest.send(frame_out(1))
    wait_until(lambda: comparing.primary.stats().output.held_frames == 1)
    comparing.connect()
    assert comparing.primary.compare_status() is None
    assert comparing.checkpoint()
    assert network.recv_numbers(1) == [1]
    comparing.guest.send(frame_out(2))
    comparing.other.send(frame_out(2))
    assert network.recv_numbers(1) == [2]


def test_before_the_take_over_there_is_nothing_to_say(pair: LivePair, network: Network) -> None:
    with pytest.raises(InvariantError):
        pair.secondary.set_mode(OutputMode.PASS)
    pair.other.send(frame_out(1))
    wait_until(lambda: pair.secondary.stats().connected)
    assert network.recv_now() == []


def test_stopped_relays_leave_nothing_open_and_refuse(comparing: LivePair) -> None:
    comparing.primary.stop()
    comparing.primary.detach()
    with pytest.raises(GuestError):
        comparing.primary.compare(Epoch(5))
    with pytest.raises(GuestError):
        comparing.primary.stop_comparing()
