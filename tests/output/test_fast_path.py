"""A pair's frames by the fast path against the same by the cores alone: real sockets, TCP guests, any history.

Both stands get the same steps. After each, what has left, what each guest has heard and what was asked for is the same,
and at the end the fast path has carried most of it."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import tempfile
from pathlib import Path

import pytest
from colo_tools import FOREVER, Client, Side, TcpGuest, ask, make_guard
from compare_peers import End
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from output_tools import GuestEnd, Paths

from replicator.deadline import SharedDeadline
from replicator.engine.compare.compared_output import ComparedOutput
from replicator.engine.output import OutputMode
from replicator.errors import NativeError
from replicator.link.base import LinkConfig
from replicator.link.frame_channel import FrameDialler, FrameListener
from replicator.output.base import RelayCallbacks
from replicator.output.colo_core import ColoCore
from replicator.output.core import boottime_ns
from replicator.output.fast_path import FastPath, PathEnd, PathPoll
from replicator.output.nic_socket import FrameCosts
from replicator.output.relay import RelayPort
from replicator.output.secondary_core import SecondaryCore
from replicator.units import NS_PER_MS, Epoch
from replicator.wire.frames import NICS_MAX

CLIENTS = 4
#: Of a run of the path in which nothing happens.
RUN_NS = NS_PER_MS
#: Turns of both sides, one after the other, after which nothing is under way.
ROUNDS = 4


class WireEnd:
    """One end of a pair of datagram sockets in the place of a TAP."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self.name = "tap"

    def fileno(self) -> int:
        return self._end.fileno()

    def read_frame(self) -> bytes | None:
        with contextlib.suppress(BlockingIOError):
            return self._end.recv(65_536)
        return None

    def write_frame(self, data: bytes) -> bool:
        self._end.send(data)
        return True


def _wire() -> tuple[socket.socket, socket.socket]:
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    for end in ends:
        end.setblocking(False)
    return ends


def _read_all(end: socket.socket) -> list[bytes]:
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(end.recv(65_536))
    return found


class Half:
    """One side's core with all that it reads, and a path if it is to be fast."""

    def __init__(self, core: ColoCore, port: RelayPort, *, fast: bool) -> None:
        self.core = core
        self.port = port
        self.path = FastPath(1) if fast else None
        self.poll = select.epoll()
        self.wake_fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.poll.register(self.wake_fd, select.EPOLLIN)
        port.socket.open()
        self.poll.register(port.socket, select.EPOLLIN)
        if not isinstance(core, SecondaryCore):
            self.poll.register(port.tap, select.EPOLLIN)
        self.channel_fd = -1
        #: What the path has carried, and how its runs ended.
        self.carried = 0
        self.ends: set[PathEnd] = set()
        core.before_close = lambda channel: self.poll.unregister(channel.filenos()[0])

    def attach(self, channel: FrameListener | FrameDialler) -> None:
        self.core.attach(channel)
        (self.channel_fd,) = channel.filenos()
        self.poll.register(self.channel_fd, select.EPOLLIN)

    def turn(self) -> None:
        for _ in range(8):
            if not self.take_path():
                break
        self.core.read_network(0)
        self.core.read_guest(0)
        while self.core.channel is not None and self.core.serve_channel():
            pass
        for inputs in self.core.inputs:
            inputs.deliver()
        self.core.pass_time()
        self.core.write_network(1000)
        self.core.deliver_notices()

    def take_path(self) -> bool:
        """False when the cores must do something first, or nothing has come."""
        if self.path is None or (loan := self.core.lend(boottime_ns() + RUN_NS)) is None:
            return False
        poll = PathPoll(self.poll.fileno(), self.wake_fd, self.channel_fd)
        tap_fd = -1 if self.port.tap is None else self.port.tap.fileno()
        back = self.path.run(poll, [(self.port.socket.fileno(), tap_fd)], loan)
        self.core.take_back(back)
        self.carried += len(back.inputs) + len(back.outputs) + back.compare.left_frames
        self.ends.add(back.end)
        return back.end in (PathEnd.GUEST, PathEnd.NETWORK, PathEnd.ROWS)

    def close(self) -> None:
        self.core.detach()
        self.port.socket.close()
        self.poll.close()
        os.close(self.wake_fd)


class Stand:
    """Context manager: both sides, their guests and the network."""

    def __init__(self, folder: Path, *, fast: bool) -> None:
        self.network, tap = _wire()
        #: What the secondary says after a take-over.
        self.later, later_tap = _wire()
        self.wires = self.network, tap, self.later, later_tap
        self.paths = [Paths(folder / f"{side}.guest", folder / f"{side}.relay") for side in "ps"]
        self.ends = [GuestEnd(paths) for paths in self.paths]
        self.guests = TcpGuest(1_000, 50_000), TcpGuest(900_000_000, 50_000)
        self.deadline = SharedDeadline(FOREVER)
        self.heard = Side(), Side()
        self.costs = FrameCosts()
        ports = RelayPort(self.paths[0], WireEnd(tap)), RelayPort(self.paths[1], WireEnd(later_tap))
        primary = ColoCore(
            [ports[0]],
            self.costs,
            self.deadline,
            RelayCallbacks(),
            self.heard[0].callbacks(),
            ComparedOutput(make_guard(), mode=OutputMode.HOLD),
        )
        self.secondary = SecondaryCore(
            [ports[1]], self.costs, RelayCallbacks(), self.heard[1].callbacks(), ComparedOutput(make_guard())
        )
        self.halves = Half(primary, ports[0], fast=fast), Half(self.secondary, ports[1], fast=fast)
        self.primary = primary
        self.clients = [Client(40_000 + number, isn=500 + 7 * number) for number in range(CLIENTS)]
        #: What each side's guest was given, and what has left, in order.
        self.given: tuple[list[bytes], list[bytes]] = [], []
        self.left: list[bytes] = []
        self.epoch = self.sessions = self.asked = 0
        #: Connections that the client has ended.
        self.ended: set[int] = set()
        #: The secondary's guest answers something of its own from now on.
        self.differs = False
        #: The secondary's relay does nothing.
        self.lags = False

    def __enter__(self) -> Stand:
        self.connect()
        self.checkpoint()
        return self

    def __exit__(self, *exc_info: object) -> None:
        for half in self.halves:
            half.close()
        for end in (*self.wires, *(end.socket for end in self.ends)):
            end.close()
        self.costs.close()

    def connect(self) -> None:
        self.lags = False
        self.sessions += 1
        session = self.sessions.to_bytes(16, "big")
        listener = FrameListener(LinkConfig("b", "127.0.0.1"), session)
        dialler = FrameDialler(LinkConfig("a", "127.0.0.1"), session, host="127.0.0.1", port=listener.port)
        self.halves[1].attach(listener)
        self.halves[0].attach(dialler)
        while self.heard[0].opened < self.sessions or self.heard[1].opened < self.sessions:
            self.settle()

    def settle(self) -> None:
        for _ in range(ROUNDS):
            for half in self.halves[: 1 if self.lags else 2]:
                half.turn()
        self.left += _read_all(self.network)

    def checkpoint(self) -> None:
        """Of guests that have read everything."""
        self.run_out()
        self.primary.hold_input()
        self.secondary.hold_input()
        self.primary.note_unread()
        self.epoch += 1
        mark = self.primary.drain_and_mark(Epoch(self.epoch))
        self.primary.resume_input()
        isn = self.guests[1].isn + 7
        self.guests[1].become(self.guests[0])
        self.guests[1].isn, self.differs = isn, False
        self.secondary.loaded(Epoch(self.epoch), mark.input_seq)
        self.secondary.resume_input()
        assert self.primary.compare(Epoch(self.epoch))
        self.settle()

    def read(self, which: int) -> list[bytes]:
        frames = self.ends[which].recv_now()
        self.given[which].extend(frames)
        return frames

    def run(self, which: int) -> bool:
        """The guest reads and answers. False when there was nothing."""
        frames = self.read(which)
        for frame in frames:
            if frame[12:14] != b"\x08\x00":
                continue
            for answer in self.guests[which].hear(frame):
                if which and self.differs and len(answer) > 80:
                    answer = answer[:-1] + b"!"
                self.ends[which].send(answer)
        return bool(frames)

    def run_out(self) -> None:
        """Nobody lags any more, and both guests read until there is nothing more."""
        self.lags = False
        is_quiet = False
        while not is_quiet:
            self.settle()
            heard = self.run(0), self.run(1)
            is_quiet = not any(heard)

    def say(self, frame: bytes) -> None:
        self.network.send(frame)
        self.settle()

    def hear(self) -> None:
        """The clients take what has left since they last did."""
        for client in self.clients:
            client.hears_all(self.left[self.asked :])
        self.asked = len(self.left)

    def is_open(self, client: Client) -> bool:
        return client.end.other_isn is not None and client.port not in self.ended

    def open(self, *clients: Client) -> None:
        new = [client for client in clients if not client.end.ts_said]
        for says in (End.opens, End.says):
            for client in new:
                self.network.send(says(client.end))
            self.settle()
            self.both()

    def both(self) -> None:
        for which in (0, 1):
            self.run(which)
            self.settle()
        self.hear()

    def play(self, step: str, count: int) -> None:
        client = self.clients[count % CLIENTS]
        match step:
            case "open":
                self.open(client)
            case "request" if self.is_open(client):
                self.say(client.end.says(b"r%d" % count))
            case "burst":
                for one in self.clients:
                    if self.is_open(one):
                        self.network.send(one.end.says(b"b" * (40 + count)))
                self.settle()
            case "acknowledge" if self.is_open(client):
                self.say(client.end.says())
            case "end" if self.is_open(client):
                self.ended.add(client.port)
                self.say(client.end.says(fin=True))
            case "datagram":
                self.say(ask(1, count))
            case "primary" | "secondary":
                self.run(step == "secondary")
                self.settle()
                self.hear()
            case "agree":
                # In time, both say that they have heard something.
                for which in (0, 1):
                    for end in self.guests[which].ends.values():
                        self.ends[which].send(end.says())
                self.settle()
            case "lag" | "catch up":
                self.lags = step == "lag"
                self.settle()
            case "differ":
                self.differs = True
            case "both":
                self.both()
            case "mute" | "unmute":
                self.deadline.deadline_ns = 0 if step == "mute" else FOREVER
            case "checkpoint":
                self.checkpoint()
                self.hear()
            case "connect":
                self.connect()
                self.checkpoint()
                self.hear()

    def take_over(self) -> list[bytes]:
        """What the survivor says to the world after the primary's death, and to each client that asks once more."""
        self.lags = False
        self.settle()
        self.run(1)
        self.halves[0].core.detach()
        self.secondary.take_over(self.deadline, OutputMode.PASS)
        self.halves[1].turn()
        for client in self.clients:
            if self.is_open(client):
                self.later.send(client.end.says(b"last"))
                self.halves[1].turn()
        self.run(1)
        self.halves[1].turn()
        return _read_all(self.later)

    def seen(self) -> object:
        """What must be the same, however it was carried. Of flows each in its order."""
        left: dict[bytes, list[bytes]] = {}
        for frame in self.left:
            left.setdefault(frame[34:38], []).append(frame)
        counters = self.primary.stats()
        status = self.primary.compare_status()
        kinds = status and {kind.value: (one.matched, one.committed) for kind, one in status.kinds.items()}
        return (
            left,
            self.given,
            [(asked.epoch, asked.reason) for asked in self.heard[0].asked],
            self.heard[0].broken,
            (counters.output.held_frames, counters.output.held_bytes, counters.output.left_frames),
            (counters.output.lost_frames, counters.input.newest_seq, counters.input.given_frames),
            self.secondary.stats().input.given_frames,
            kinds,
        )


#: A step, and how often it is drawn.
WEIGHTS = {
    "request": 8,
    "burst": 8,
    "primary": 8,
    "secondary": 8,
    "both": 10,
    "acknowledge": 4,
    "agree": 4,
    "lag": 3,
    "catch up": 6,
    "unmute": 4,
    "mute": 2,
    "checkpoint": 2,
    "datagram": 2,
    "open": 1,
    "end": 1,
    "differ": 1,
    "connect": 1,
}
KINDS = [name for name, weight in WEIGHTS.items() for _ in range(weight)]
STEPS = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 30)), min_size=4, max_size=40)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(STEPS)
def test_whatever_happens_it_carries_as_the_cores_do(steps: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        stands = []
        for name in ("fast", "plain"):
            place = Path(folder, name)
            place.mkdir()
            stands.append(stack.enter_context(Stand(place, fast=name == "fast")))
        for stand in stands:
            stand.open(*stand.clients[1:])
        for step in steps:
            for stand in stands:
                stand.play(*step)
            assert stands[0].seen() == stands[1].seen(), f"not the same after {step}"
        assert stands[0].take_over() == stands[1].take_over()


@pytest.fixture
def stand(tmp_path: Path):  # type: ignore[no-untyped-def]
    with Stand(tmp_path, fast=True) as one:
        yield one


def test_known_connections_go_by_the_fast_path(stand: Stand) -> None:
    stand.open(*stand.clients)
    before = [half.carried for half in stand.halves]
    for number in range(20):
        for client in stand.clients:
            stand.network.send(client.end.says(b"%d" % number))
        stand.settle()
        stand.both()
    heard = b"".join(b"<%d>" % number for number in range(20))
    assert all(client.end.heard == heard for client in stand.clients)
    primary, secondary = (half.carried - was for half, was in zip(stand.halves, before, strict=True))
    assert primary > 100 and secondary > 100, f"the path carried {primary} and {secondary}"
    assert not stand.heard[0].asked


def test_an_acknowledgement_waits_until_the_secondary_has_what_it_acknowledges(stand: Stand) -> None:
    stand.open(*stand.clients)
    client = stand.clients[0]
    stand.say(client.end.says(b"first"))
    stand.both()
    stand.lags = True
    before = len(stand.left)
    stand.say(client.end.says(b"second"))
    end = stand.guests[0].ends[client.port]
    for frame in stand.read(0):
        end.hears(frame)
    stand.ends[0].send(end.says())
    stand.settle()
    assert stand.left[before:] == [], "the secondary does not have it"
    assert stand.primary.stats().output.held_frames == 1
    stand.lags = False
    for _ in range(10):
        stand.settle()
    assert len(stand.left) == before + 1


def test_what_was_held_before_may_leave_by_the_path(stand: Stand) -> None:
    stand.open(*stand.clients)
    for client in stand.clients:
        stand.network.send(client.end.says(b"one"))
    stand.settle()
    stand.run(0)
    stand.settle()
    assert stand.primary.stats().output.held_frames == CLIENTS
    carried = stand.halves[0].carried
    stand.run(1)
    stand.settle()
    assert stand.primary.stats().output.held_frames == 0
    assert stand.halves[0].carried - carried >= CLIENTS


def test_a_guest_that_reads_late_gets_all_in_order(stand: Stand) -> None:
    stand.open(*stand.clients)
    for _ in range(50):
        for client in stand.clients:
            stand.network.send(client.end.says(b"x"))
        stand.settle()
    assert stand.primary.stats().input.waiting_frames > 100
    stand.run_out()
    stand.hear()
    assert all(client.end.heard == b"<x>" * 50 for client in stand.clients)
    assert stand.primary.stats().input.waiting_frames == stand.primary.stats().input.dropped_frames == 0


def test_a_channel_that_falls_is_noticed_and_everything_waits_for_its_commit(stand: Stand) -> None:
    stand.open(*stand.clients)
    stand.secondary.detach()
    stand.lags = True
    client = stand.clients[0]
    for _ in range(3):
        stand.say(client.end.says(b"alone"))
    assert stand.heard[0].broken and not stand.primary.is_comparing
    before = len(stand.left)
    stand.run(0)
    stand.settle()
    assert len(stand.left) == before and stand.primary.stats().output.held_frames == 3


def test_what_is_not_sent_at_once_is_sent_in_order(stand: Stand) -> None:
    """The other relay takes nothing for a while."""
    stand.open(*stand.clients)
    stand.lags = True
    client = stand.clients[0]
    data = bytes(1_400)
    sent = 0
    # More than the kernel keeps of a connection.
    while (line := stand.primary.channel.lend()) is not None:  # type: ignore[union-attr]
        for _ in range(20):
            stand.network.send(client.end.says(data))
        sent += 20
        stand.halves[0].turn()
        stand.run(0)
        assert sent < 20_000, line
    stand.run_out()
    assert len(stand.guests[1].ends[client.port].heard) == sent * len(data)
    assert not stand.heard[0].broken and not stand.heard[1].broken


def test_a_guest_may_have_no_nic_and_not_too_many() -> None:
    FastPath(0)
    FastPath(NICS_MAX)
    with pytest.raises(NativeError):
        FastPath(NICS_MAX + 1)
