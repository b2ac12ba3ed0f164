"""The relay with a real TAP and real unix sockets."""

from __future__ import annotations

import os
import select
import socket
import subprocess
from collections.abc import Callable

import pytest
from output_tools import (
    TAP_NAME,
    WAIT_S,
    AnyRelay,
    GuestEnd,
    Heard,
    Network,
    Paths,
    frame_in,
    frame_out,
    number_of,
    wait_until,
)

from replicator.deadline import SharedDeadline
from replicator.engine.output import FRAME_OVERHEAD_BYTES, Frame, OutputMode
from replicator.errors import ConfigError, GuestError, InvariantError
from replicator.output.core import TURN_FRAMES_MAX, boottime_ns
from replicator.output.relay import NicEnds
from replicator.output.tap import Tap
from replicator.units import NS_PER_S, Epoch

MakeRelay = Callable[..., AnyRelay]


def pause(relay: AnyRelay, epoch: int) -> int:
    """The caller's part of a checkpoint of a guest that stands still by itself; returns input_seq."""
    relay.hold_input()
    relay.quiesce_input(0.0)
    mark = relay.drain_and_mark(Epoch(epoch))
    return mark.input_seq


def test_pass_mode_relays_both_ways_in_order(
    make_relay: MakeRelay, guest: GuestEnd, network: Network
) -> None:
    relay = make_relay()
    relay.start()
    guest.send(*(frame_out(number) for number in range(50)))
    assert network.recv_numbers(50) == list(range(50))
    network.send(frame_in(7), frame_in(8))
    assert [number_of(guest.recv()) for _ in range(2)] == [7, 8]
    assert relay.stats().connected


def test_held_output_leaves_only_on_release(make_relay: MakeRelay, guest: GuestEnd, network: Network) -> None:
    relay = make_relay(mode=OutputMode.HOLD)
    relay.start()
    guest.send(frame_out(1), frame_out(2))
    relay.hold_input()
    mark = relay.drain_and_mark(Epoch(1))
    assert (mark.held_frames, mark.held_bytes, mark.input_seq) == (2, 120, 0)
    relay.resume_input()
    guest.send(frame_out(3))
    pause(relay, 2)
    relay.resume_input()
    assert network.recv_now() == []
    assert relay.release(Epoch(1)) == 2
    assert network.recv_numbers(2) == [1, 2]
    assert relay.release(Epoch(1)) == 0
    relay.release(Epoch(2))
    assert network.recv_numbers(1) == [3]
    stats = relay.stats()
    assert (stats.output.left_frames, stats.output.held_frames, stats.output.lost_frames) == (3, 0, 0)


def test_large_frames_of_many_epochs_keep_order_without_repetition(
    make_relay: MakeRelay, guest: GuestEnd, network: Network
) -> None:
    relay = make_relay(mode=OutputMode.HOLD)
    relay.start()
    numbers = iter(range(10_000))
    sent = 0
    for epoch in range(1, 21):
        count = 37 * epoch % 60
        guest.send(*(frame_out(next(numbers), 1514) for _ in range(count)))
        sent += count
        pause(relay, epoch)
        relay.resume_input()
        if epoch > 2:
            relay.release(Epoch(epoch - 2))
    relay.release(Epoch(20))
    assert network.recv_numbers(sent) == list(range(sent))
    assert network.recv_now() == []


def test_the_mark_takes_every_frame_sent_before_the_stop(make_relay: MakeRelay, guest: GuestEnd) -> None:
    relay = make_relay(mode=OutputMode.HOLD)
    relay.start()
    wait_until(lambda: relay.stats().connected)
    for epoch in range(1, 30):
        guest.send(*(frame_out(number) for number in range(64)))
        relay.hold_input()
        assert relay.drain_and_mark(Epoch(epoch)).held_frames == 64
        relay.resume_input()


def test_going_alone_lets_everything_leave_in_order(
    make_relay: MakeRelay, guest: GuestEnd, network: Network
) -> None:
    relay = make_relay(mode=OutputMode.HOLD)
    relay.start()
    guest.send(frame_out(1))
    pause(relay, 1)
    guest.send(frame_out(2))
    wait_until(lambda: relay.stats().output.held_frames == 2)
    assert relay.set_mode(OutputMode.PASS) == 2
    guest.send(frame_out(3))
    assert network.recv_numbers(3) == [1, 2, 3]


def test_discarded_output_never_leaves(make_relay: MakeRelay, guest: GuestEnd, network: Network) -> None:
    relay = make_relay(mode=OutputMode.HOLD)
    relay.start()
    guest.send(frame_out(1))
    pause(relay, 1)
    assert relay.discard_output() == 1
    relay.release(Epoch(1))
    relay.announce([Frame(0, frame_out(99))])
    assert network.recv_numbers(1) == [99]
    assert relay.stats().output.discarded_frames == 1


def test_past_the_deadline_it_is_mute_and_keeps_what_it_holds(
    make_relay: MakeRelay, guest: GuestEnd, network: Network, heard: Heard
) -> None:
    deadline = SharedDeadline(boottime_ns() - 1)
    relay = make_relay(mode=OutputMode.HOLD, deadline=deadline)
    relay.start()
    guest.send(frame_out(1), frame_out(2))
    pause(relay, 1)
    assert heard.said == []
    relay.release(Epoch(1))
    heard.wait_for(lambda: heard.said == ["muted"])
    stats = relay.stats()
    assert (stats.muted, stats.output.held_frames) == (True, 2)
    assert stats.oldest_held_age_ns > 0
    assert network.recv_now() == []
    deadline.deadline_ns = boottime_ns() + 60 * NS_PER_S
    assert network.recv_numbers(2) == [1, 2]
    heard.wait_for(lambda: heard.said == ["muted", "unmuted"])


def test_pass_mode_and_announcements_obey_the_deadline_too(
    make_relay: MakeRelay, guest: GuestEnd, network: Network, heard: Heard
) -> None:
    deadline = SharedDeadline(0)
    relay = make_relay(deadline=deadline)
    relay.start()
    guest.send(frame_out(1))
    heard.wait_for(lambda: heard.said == ["muted"])
    relay.announce([Frame(0, frame_out(2))])
    guest.send(frame_out(3))
    wait_until(lambda: relay.stats().output.held_frames == 3)
    assert network.recv_now() == []
    assert relay.stats().output.left_frames == 0


class SlowTap:
    """A TAP that takes a few frames and lets the next write wait until somebody reads."""

    name = "slow0"

    def __init__(self) -> None:
        self.end, self.other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        # The smallest there is; the queue's length has no bound between the two of a pair.
        self.end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        self.other.settimeout(WAIT_S)

    def fileno(self) -> int:
        return self.end.fileno()

    def read_frame(self) -> None:
        return None

    def write_frame(self, data: bytes) -> bool:
        self.end.send(data)
        return True

    def close(self) -> None:
        self.end.close()
        self.other.close()


def test_the_deadline_is_read_before_each_write(
    relay_kind: type[AnyRelay], paths: Paths, guest: GuestEnd, heard: Heard
) -> None:
    """The write that was under way when the deadline was moved is the last one, of many that were released."""
    deadline, tap = SharedDeadline(boottime_ns() + 60 * NS_PER_S), SlowTap()
    relay = relay_kind(
        [NicEnds(paths, tap)], mode=OutputMode.HOLD, deadline=deadline, callbacks=heard.callbacks()
    )
    relay.start()
    guest.send(*(frame_out(number) for number in range(64)))
    pause(relay, 1)
    relay.release(Epoch(1))
    first = tap.other.recv(2048)
    deadline.deadline_ns = 0
    left = [first]
    while not heard.said or select.select([tap.other], [], [], 0)[0]:
        if select.select([tap.other], [], [], 0)[0]:
            left.append(tap.other.recv(2048))
    assert heard.said == ["muted"]
    assert [number_of(data) for data in left] == list(range(len(left)))
    assert len(left) < TURN_FRAMES_MAX
    assert relay.stats().output.held_frames == 64 - len(left)
    relay.stop()
    tap.close()


def test_a_filling_hold_asks_for_an_early_end_and_counts_what_it_loses(
    make_relay: MakeRelay, guest: GuestEnd, network: Network, heard: Heard
) -> None:
    relay = make_relay(mode=OutputMode.HOLD, hold_bytes_max=20 * (60 + FRAME_OVERHEAD_BYTES))
    relay.start()
    guest.send(*(frame_out(number) for number in range(9)))
    wait_until(lambda: relay.stats().output.held_frames == 9)
    assert heard.said == []
    guest.send(*(frame_out(number) for number in range(9, 25)))
    heard.wait_for(lambda: heard.said == ["full"])
    wait_until(lambda: relay.stats().output.lost_frames == 5)
    pause(relay, 1)
    relay.release(Epoch(1))
    assert network.recv_numbers(20) == list(range(20))
    assert heard.said == ["full"]


def test_the_first_held_frame_of_each_epoch_is_told_once(
    make_relay: MakeRelay, guest: GuestEnd, heard: Heard
) -> None:
    relay = make_relay()
    relay.start()
    guest.send(*(frame_out(number) for number in range(3)))
    wait_until(lambda: relay.stats().output.left_frames == 3)
    assert heard.waits == 0, "what passes does not wait"
    relay.set_mode(OutputMode.HOLD)
    for epoch in (1, 2):
        guest.send(*(frame_out(number) for number in range(3)))
        heard.wait_for(lambda wanted=epoch: heard.waits == wanted)
        wait_until(lambda wanted=epoch: relay.stats().output.held_frames == 3 * wanted)
        pause(relay, epoch)
    pause(relay, 3)
    assert heard.waits == 2, "an epoch without output has none"


def test_inputs_are_numbered_and_mirrored(
    make_relay: MakeRelay, guest: GuestEnd, network: Network, heard: Heard
) -> None:
    relay = make_relay()
    relay.start()
    network.send(*(frame_in(number) for number in range(1, 6)))
    received = [guest.recv() for _ in range(5)]
    heard.wait_for(lambda: len(heard.inputs) == 5)
    assert heard.inputs == [(seq, Frame(0, data)) for seq, data in enumerate(received, 1)]
    assert pause(relay, 1) == 5


def test_a_new_session_counts_from_one(
    make_relay: MakeRelay, guest: GuestEnd, network: Network, heard: Heard
) -> None:
    relay = make_relay()
    relay.start()
    network.send(frame_in(1), frame_in(2))
    guest.recv(), guest.recv()
    heard.wait_for(lambda: len(heard.inputs) == 2)
    relay.restart_inputs()
    assert pause(relay, 1) == 0
    relay.resume_input()
    network.send(frame_in(3))
    guest.recv()
    heard.wait_for(lambda: len(heard.inputs) == 3)
    assert heard.inputs[-1] == (1, Frame(0, frame_in(3)))
    assert pause(relay, 2) == 1


def test_inputs_wait_while_held(
    make_relay: MakeRelay, guest: GuestEnd, network: Network, heard: Heard
) -> None:
    relay = make_relay()
    relay.start()
    relay.hold_input()
    network.send(frame_in(1))
    heard.wait_for(lambda: len(heard.inputs) == 1)
    assert relay.quiesce_input(0.0) == 0
    assert relay.drain_and_mark(Epoch(1)).input_seq == 0
    assert guest.recv_now() == []
    relay.resume_input()
    assert number_of(guest.recv()) == 1
    assert pause(relay, 2) == 1


def test_what_the_guest_did_not_read_counts_as_after_the_checkpoint(
    make_relay: MakeRelay, guest: GuestEnd, network: Network, heard: Heard
) -> None:
    relay = make_relay()
    relay.start()
    for number, size in enumerate((60, 1514, 700, 61, 1000), 1):
        network.send(frame_in(number, size))
    heard.wait_for(lambda: len(heard.inputs) == 5)
    wait_until(lambda: relay.stats().input.given_frames == 5)
    assert [number_of(guest.recv()) for _ in range(2)] == [1, 2]
    relay.hold_input()
    assert relay.quiesce_input(0.001) == 3
    mark = relay.drain_and_mark(Epoch(1))
    assert mark.input_seq == 2
    relay.resume_input()
    assert [number_of(guest.recv()) for _ in range(3)] == [3, 4, 5]
    assert guest.recv_now() == [], "what lay in the guest's queue all the time needs no repetition"
    assert relay.stats().input.repeated_frames == 0


def test_what_left_the_queue_around_the_stop_is_given_again(
    make_relay: MakeRelay, guest: GuestEnd, network: Network, heard: Heard
) -> None:
    relay = make_relay()
    relay.start()
    network.send(*(frame_in(number) for number in (1, 2, 3)))
    heard.wait_for(lambda: len(heard.inputs) == 3)
    wait_until(lambda: relay.stats().input.given_frames == 3)
    relay.hold_input()
    assert relay.quiesce_input(0.0) == 3
    thrown_away = number_of(guest.recv())
    assert thrown_away == 1
    assert relay.drain_and_mark(Epoch(1)).input_seq == 0
    relay.resume_input()
    assert [number_of(guest.recv()) for _ in range(3)] == [2, 3, 1]
    assert relay.stats().input.repeated_frames == 1
    assert pause(relay, 2) == 3


def test_quiesce_waits_for_a_guest_that_reads(
    make_relay: MakeRelay, guest: GuestEnd, network: Network, heard: Heard
) -> None:
    relay = make_relay()
    relay.start()
    network.send(*(frame_in(number) for number in range(1, 9)))
    heard.wait_for(lambda: len(heard.inputs) == 8)
    relay.hold_input()
    subprocess.run(
        ["python3", "-c", "import socket; s = socket.socket(fileno=0); [s.recv(65536) for _ in range(8)]"],
        stdin=guest.socket.fileno(),
        check=True,
    )
    assert relay.quiesce_input(5.0) == 0
    assert relay.drain_and_mark(Epoch(1)).input_seq == 8


def test_a_guest_that_never_reads_costs_counted_drops_and_bounded_memory(
    make_relay: MakeRelay, guest: GuestEnd, network: Network
) -> None:
    relay = make_relay()
    relay.start()
    for first in range(0, 4200, 100):
        _send_until_accounted(relay, network, first, first + 100)
    stats = relay.stats().input
    assert stats.waiting_frames <= 4096
    assert stats.dropped_frames + stats.newest_seq == 4200
    received = []
    while len(received) < stats.newest_seq:
        received.append(number_of(guest.recv()))
    assert received == list(range(1, stats.newest_seq + 1))
    wait_until(lambda: relay.stats().input.waiting_frames == 0)


def _send_until_accounted(relay: AnyRelay, network: Network, first: int, end: int) -> None:
    def accounted() -> int:
        stats = relay.stats().input
        return stats.newest_seq + stats.dropped_frames

    network.send(*(frame_in(number + 1) for number in range(first, end)))
    wait_until(lambda: accounted() >= end)


def test_replayed_frames_come_first_and_are_numbered(
    make_relay: MakeRelay, guest: GuestEnd, network: Network, heard: Heard
) -> None:
    relay = make_relay()
    network.send(frame_in(30))
    relay.replay([Frame(0, frame_in(number)) for number in range(20)])
    relay.start()
    assert [number_of(guest.recv()) for _ in range(21)] == [*range(20), 30]
    heard.wait_for(lambda: len(heard.inputs) == 21)
    assert heard.inputs[0] == (1, Frame(0, frame_in(0)))


def test_a_guest_that_comes_later_and_another_in_its_place(
    make_relay: MakeRelay, paths: Paths, network: Network, heard: Heard
) -> None:
    relay = make_relay()
    relay.start()
    assert not relay.stats().connected
    network.send(frame_in(1))
    heard.wait_for(lambda: len(heard.inputs) == 1)
    first = GuestEnd(paths)
    assert number_of(first.recv()) == 1
    first.socket.close()
    second = GuestEnd(paths)
    network.send(frame_in(2))
    assert number_of(second.recv()) == 2
    second.send(frame_out(3))
    assert network.recv_numbers(1) == [3]
    second.socket.close()


def test_our_restart_takes_the_place_of_a_socket_left_behind(
    make_relay: MakeRelay, guest: GuestEnd, paths: Paths, network: Network
) -> None:
    first = make_relay()
    first.start()
    guest.send(frame_out(1))
    assert network.recv_numbers(1) == [1]
    first.stop()
    assert not paths.relay_path.exists()
    GuestEnd(Paths(paths.relay_path, paths.relay_path)).socket.close()
    second = make_relay()
    second.start()
    guest.send(frame_out(2))
    assert network.recv_numbers(1) == [2]
    assert paths.relay_path.stat().st_mode & 0o777 == 0o600


def test_a_tap_that_goes_away_ends_the_relay_and_says_so(
    make_relay: MakeRelay, guest: GuestEnd, heard: Heard, tap: Tap
) -> None:
    relay = make_relay(mode=OutputMode.HOLD)
    relay.start()
    guest.send(frame_out(1))
    pause(relay, 1)
    subprocess.run(["ip", "link", "del", TAP_NAME], check=True)
    heard.wait_for(lambda: len(heard.errors) == 1)
    assert TAP_NAME in str(heard.errors[0])
    with pytest.raises(GuestError, match="relay has failed"):
        relay.release(Epoch(1))
    assert relay.discard_output() == 1


def test_a_tap_that_is_down_loses_frames_and_counts_them(
    make_relay: MakeRelay, guest: GuestEnd, tap: Tap
) -> None:
    relay = make_relay()
    relay.start()
    subprocess.run(["ip", "link", "set", TAP_NAME, "down"], check=True)
    guest.send(frame_out(1))
    wait_until(lambda: relay.stats().output.lost_frames == 1)


def test_the_order_of_calls_is_checked(make_relay: MakeRelay, guest: GuestEnd) -> None:
    relay = make_relay()
    relay.start()
    with pytest.raises(InvariantError):
        relay.drain_and_mark(Epoch(1))
    with pytest.raises(InvariantError):
        relay.quiesce_input(0.0)
    with pytest.raises(InvariantError):
        relay.start()
    relay.stop()
    with pytest.raises(GuestError):
        relay.hold_input()


def test_stop_leaves_nothing_open(make_relay: MakeRelay, guest: GuestEnd) -> None:
    before = len(os.listdir("/proc/self/fd"))
    relay = make_relay()
    relay.start()
    relay.stop()
    relay.stop()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_path_too_long_for_a_socket_is_a_clear_error(
    relay_kind: type[AnyRelay], tap: Tap, paths: Paths
) -> None:
    long = Paths(paths.guest_path, paths.relay_path.parent / ("x" * 120))
    relay = relay_kind([NicEnds(long, tap)])
    with pytest.raises(ConfigError, match="too long"):
        relay.start()
    relay.stop()
