"""What only the native relay promises: nothing that Python does, or does not do in time, delays a frame."""

from __future__ import annotations

import ctypes
import os
import select
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from output_tools import (
    CLIENT_MAC,
    GUEST_MAC,
    WAIT_S,
    GuestEnd,
    Heard,
    Network,
    Paths,
    frame_in,
    frame_out,
    number_of,
    wait_until,
)

from replicator import urgency
from replicator.deadline import SharedDeadline
from replicator.engine.output import Frame, OutputMode
from replicator.errors import GuestError
from replicator.limits import INPUT_LOG_BYTES_MAX
from replicator.output.base import RelayCallbacks
from replicator.output.native_relay import NativeRelay
from replicator.output.relay import NicEnds
from replicator.output.tap import Tap
from replicator.units import Epoch

TRIPS = 50
#: Asks `TRIPS` times through the TAP named by argv[1] and says so on stdout. The guest's socket is stdin, the relay's
#: path argv[2]: this process is both the client and the guest.
BOTH_ENDS = """
import socket, sys
sys.path.insert(0, sys.argv[3])
from output_tools import WAIT_S, Network, frame_in, frame_out
guest, network = socket.socket(fileno=0), Network(sys.argv[1])
guest.settimeout(WAIT_S)
for number in range(int(sys.argv[4])):
    network.send(frame_in(number))
    assert guest.recv(2048) == frame_in(number)
    guest.sendto(frame_out(number), sys.argv[2])
    assert network.recv() == frame_out(number)
print("done", flush=True)
"""


@pytest.fixture
def make_native(tap: Tap, paths: Paths) -> Iterator[Callable[..., NativeRelay]]:
    made: list[NativeRelay] = []

    def make(callbacks: RelayCallbacks, **options: object) -> NativeRelay:
        relay = NativeRelay([NicEnds(paths, tap)], callbacks=callbacks, **options)  # type: ignore[arg-type]
        made.append(relay)
        return relay

    yield make
    for relay in made:
        relay.stop()


def test_frames_go_both_ways_while_the_interpreter_is_locked(
    make_native: Callable[..., NativeRelay], guest: GuestEnd, paths: Paths, tap: Tap, heard: Heard
) -> None:
    relay = make_native(heard.callbacks())
    relay.start()
    wait_until(lambda: relay.stats().connected)
    tools = str(Path(__file__).parent)
    argv = [sys.executable, "-c", BOTH_ENDS, tap.name, str(paths.relay_path), tools, str(TRIPS)]
    with subprocess.Popen(argv, stdin=guest.socket.fileno(), stdout=subprocess.PIPE) as both:
        assert both.stdout is not None
        assert poll_with_the_lock(both.stdout.fileno()), "no frame got through"
        assert both.stdout.read() == b"done\n"
    heard.wait_for(lambda: len(heard.inputs) == TRIPS)


def poll_with_the_lock(fd: int) -> bool:
    """Wait until the descriptor can be read, in a call that keeps the interpreter lock."""
    poll = ctypes.PyDLL(None).poll
    wanted = (ctypes.c_byte * 8).from_buffer_copy(
        fd.to_bytes(4, sys.byteorder) + select.POLLIN.to_bytes(2, sys.byteorder) + bytes(2)
    )
    ready: int = poll(wanted, 1, int(WAIT_S * 1000))
    return ready == 1


@pytest.mark.parametrize("is_urgent", [False, True])
def test_its_thread_hurries_where_the_process_does(
    make_native: Callable[..., NativeRelay], heard: Heard, monkeypatch: pytest.MonkeyPatch, is_urgent: bool
) -> None:
    monkeypatch.setattr(urgency, "is_begun", lambda: is_urgent)
    make_native(heard.callbacks()).start()
    tasks = Path("/proc/self/task").iterdir()
    (thread,) = (int(task.name) for task in tasks if (task / "comm").read_text() == "relay\n")
    assert os.sched_getscheduler(thread) == (os.SCHED_RR if is_urgent else os.SCHED_OTHER)
    assert os.sched_getparam(thread).sched_priority == (urgency.PRIORITY if is_urgent else 0)


class BlockedInputs:
    """An `on_input` that stands still at its first call."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.go_on = threading.Event()
        self.inputs: list[tuple[int, Frame]] = []

    def __call__(self, first_seq: int, frames: Sequence[Frame]) -> None:
        self.entered.set()
        assert self.go_on.wait(4 * WAIT_S)
        self.inputs += enumerate(frames, first_seq)

    @property
    def newest_seq(self) -> int:
        return self.inputs[-1][0] if self.inputs else 0


def test_a_blocked_callback_costs_mirrored_inputs_and_no_others(
    make_native: Callable[..., NativeRelay], guest: GuestEnd, network: Network
) -> None:
    blocked = BlockedInputs()
    relay = make_native(RelayCallbacks(on_input=blocked))
    relay.start()
    network.send(frame_in(1, 1500))
    guest.recv()
    assert blocked.entered.wait(WAIT_S)
    count = INPUT_LOG_BYTES_MAX // 1500 + 1000
    for number in range(2, count + 1):
        network.send(frame_in(number, 1500))
        assert number_of(guest.recv()) == number
    blocked.go_on.set()
    wait_until(lambda: relay.stats().input.newest_seq == count)
    network.send(frame_in(count + 1))
    wait_until(lambda: blocked.newest_seq == count + 1)
    numbers = [seq for seq, _ in blocked.inputs]
    assert all(number_of(frame.data) == seq for seq, frame in blocked.inputs)
    kept = len(numbers) - 1
    assert numbers == [*range(1, kept + 1), count + 1]
    assert kept < count and 1500 * kept > 0.9 * INPUT_LOG_BYTES_MAX


def test_inputs_of_an_ended_session_are_not_told_in_the_next(
    make_native: Callable[..., NativeRelay], guest: GuestEnd, network: Network, heard: Heard
) -> None:
    relay = make_native(heard.callbacks())
    relay.replay([Frame(0, frame_in(number)) for number in range(9)])
    relay.restart_inputs()
    relay.start()
    for _ in range(9):
        guest.recv()
    network.send(frame_in(77))
    heard.wait_for(lambda: len(heard.inputs) == 1)
    assert heard.inputs == [(1, Frame(0, frame_in(77)))]


def test_a_callback_that_fails_ends_the_relay(
    make_native: Callable[..., NativeRelay], guest: GuestEnd, network: Network, heard: Heard
) -> None:
    def refuse(_first_seq: int, _frames: Sequence[Frame]) -> None:
        raise GuestError("nobody takes inputs")

    relay = make_native(RelayCallbacks(on_input=refuse, on_failed=heard.callbacks().on_failed))
    relay.start()
    network.send(frame_in(1))
    heard.wait_for(lambda: len(heard.errors) == 1)
    assert "nobody takes inputs" in str(heard.errors[0])
    with pytest.raises(GuestError, match="relay has failed"):
        relay.hold_input()


def test_the_frames_in_doubt_can_be_asked_for(
    make_native: Callable[..., NativeRelay], guest: GuestEnd, network: Network, heard: Heard
) -> None:
    relay = make_native(heard.callbacks())
    relay.start()
    network.send(*(frame_in(number, 50 * number) for number in (2, 3, 4)))
    wait_until(lambda: relay.stats().input.given_frames == 3)
    relay.hold_input()
    guest.recv(), guest.recv()
    relay.drain_and_mark(Epoch(1))
    assert relay.doubtful() == [Frame(0, frame_in(number, 50 * number)) for number in (2, 3)]
    relay.resume_input()
    assert relay.doubtful() == []


def test_a_deadline_can_be_put_in_the_place_of_another(
    make_native: Callable[..., NativeRelay], guest: GuestEnd, network: Network, heard: Heard
) -> None:
    relay = make_native(heard.callbacks(), deadline=SharedDeadline(0))
    relay.start()
    guest.send(frame_out(1))
    heard.wait_for(lambda: heard.said == ["muted"])
    relay.set_deadline(SharedDeadline((1 << 63) - 1))
    assert network.recv_numbers(1) == [1]
    heard.wait_for(lambda: heard.said == ["muted", "unmuted"])


def test_what_the_guest_says_of_itself_is_known(
    make_native: Callable[..., NativeRelay], guest: GuestEnd, heard: Heard
) -> None:
    relay = make_native(heard.callbacks(), mode=OutputMode.HOLD)
    relay.start()
    guest.send((CLIENT_MAC + GUEST_MAC + b"\x08\x00" + bytes(12) + bytes([10, 0, 0, 7])).ljust(60, b"\0"))
    wait_until(lambda: relay.stats().output.held_frames == 1)
    assert [str(address) for address in relay.addresses()[0].ipv4] == ["10.0.0.7"]


def test_a_relay_that_was_never_started_leaves_nothing_open(tap: Tap, paths: Paths) -> None:
    before = len(os.listdir("/proc/self/fd"))
    relay = NativeRelay([NicEnds(paths, tap)])
    relay.stop()
    assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(GuestError, match="ended"):
        relay.hold_input()
