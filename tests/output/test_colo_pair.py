"""Both relays of a COLO pair in memory: what leaves, what a checkpoint and a take-over make of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import pytest
from colo_tools import (
    FOREVER,
    AnsweringGuest,
    Client,
    ColoPair,
    Side,
    TcpGuest,
    ask,
    flow_of,
    left,
    tell,
)
from compare_frames import arp_frame
from hypothesis import given, settings
from hypothesis import strategies as st

from replicator.deadline import SharedDeadline
from replicator.engine.compare.effects import Reason
from replicator.engine.compare.machine import TICK_NS
from replicator.engine.compare.packet import parse_frame
from replicator.engine.output import OutputMode
from replicator.errors import InvariantError
from replicator.limits import FRAME_BYTES_MAX
from replicator.output.colo_memory import MemoryColo
from replicator.output.frame_channel_memory import MemoryFrameChannel
from replicator.output.late_copies import LATE_NS
from replicator.output.secondary_core import CONFIRM_NS
from replicator.units import NS_PER_MS, Epoch
from replicator.wire import frames as wire


def comparing(**options: int) -> ColoPair:
    pair = ColoPair(**options)
    pair.connect()
    assert pair.checkpoint()
    return pair


def answer(relay: MemoryColo, guest: AnsweringGuest, entropy: bytes = b"") -> None:
    """The guest reads all and answers."""
    for frame in relay.guest_reads():
        relay.guest_sends(guest.hear(frame, entropy))


def test_an_answer_of_both_leaves_and_one_of_one_side_waits() -> None:
    pair = comparing()
    guests = AnsweringGuest(), AnsweringGuest()
    pair.primary.network_sends(ask(0, 1))
    answer(pair.primary, guests[0])
    assert left(pair.primary) == []
    answer(pair.secondary, guests[1])
    assert left(pair.primary) == [tell(0, bytes([0, 0, 0, 1, 0, 0, 0, 1]))]
    assert (pair.heard[0].opened, pair.heard[1].opened) == (1, 1)
    assert pair.secondary.ports[0].left == []


def test_a_difference_is_told_and_ends_with_the_checkpoint() -> None:
    pair = comparing()
    guests = AnsweringGuest(), AnsweringGuest()
    pair.primary.network_sends(ask(0, 1))
    answer(pair.primary, guests[0])
    answer(pair.secondary, guests[1], b"mine")
    (asked,) = pair.heard[0].asked
    assert (asked.epoch, asked.reason) == (2, Reason.DIFFERS)
    assert left(pair.primary) == []
    assert pair.checkpoint(lambda: guests[1].become(guests[0]))
    assert left(pair.primary) == guests[0].said[0]
    pair.primary.network_sends(ask(0, 2))
    answer(pair.secondary, guests[1])
    answer(pair.primary, guests[0])
    assert left(pair.primary) == guests[0].said[0][1:]


def test_inputs_are_confirmed_in_time_though_the_secondary_says_nothing() -> None:
    pair = comparing()
    pair.primary.network_sends(ask(0, 1))
    pair.primary.guest_sends(arp_frame())
    assert left(pair.primary) == []
    assert pair.secondary.look_in_ns == CONFIRM_NS
    pair.pass_time(CONFIRM_NS / NS_PER_MS)
    assert left(pair.primary) == [arp_frame()]
    assert pair.secondary.look_in_ns is None


def test_inputs_in_the_channel_reach_the_replicas_log_late_but_all_and_in_order() -> None:
    pair = comparing()
    inputs = pair.mirrored
    before = len(inputs)
    frames = [ask(0, number) for number in range(40)]
    for frame in frames[:20]:
        pair.primary.network_sends(frame)
    assert inputs[before:] == []
    assert pair.primary.look_in_ns is not None
    pair.pass_time(LATE_NS / NS_PER_MS)
    for frame in frames[20:30]:
        pair.primary.network_sends(frame)
    assert [frame.data for _, frame in inputs[before:]] == frames[:20]
    pair.primary.detach()
    for frame in frames[30:]:
        pair.primary.network_sends(frame)
    assert [frame.data for _, frame in inputs[before:]] == frames
    numbers = [seq for seq, _ in inputs]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def test_inputs_that_wait_for_the_replicas_log_are_bounded() -> None:
    pair = comparing()
    inputs = pair.mirrored
    for number in range(300):
        pair.primary.network_sends(ask(0, number))
    assert 200 < len(inputs) < 300


def test_no_input_of_an_older_session_is_mirrored_in_a_new_one() -> None:
    pair = comparing()
    pair.primary.network_sends(ask(0, 1))
    before = len(pair.mirrored)
    pair.primary.restart_inputs()
    pair.pass_time(LATE_NS / NS_PER_MS)
    assert len(pair.mirrored) == before


def test_words_of_the_secondary_confirm_inputs_too() -> None:
    pair = comparing()
    pair.primary.network_sends(ask(0, 1))
    pair.primary.guest_sends(arp_frame())
    pair.secondary.guest_sends(arp_frame())
    assert left(pair.primary) == [arp_frame()]


def test_silence_of_the_secondary_asks_for_a_checkpoint() -> None:
    pair = comparing()
    pair.primary.guest_sends(tell(0, b"x"))
    assert pair.primary.look_in_ns == TICK_NS
    pair.pass_time(10)
    pair.pass_time(600)
    assert [asked.reason for asked in pair.heard[0].asked] == [Reason.TIMEOUT]


def test_words_of_an_older_execution_are_not_told() -> None:
    pair = comparing()
    pair.suspend()
    pair.epoch += 1
    mark = pair.primary.drain_and_mark(Epoch(2))
    pair.primary.resume_input()
    pair.secondary.ports[0].from_guest.append(tell(0, b"old"))
    pair.secondary.loaded(Epoch(2), mark.input_seq)
    pair.secondary.resume_input()
    pair.primary.compare(Epoch(2))
    pair.primary.guest_sends(tell(0, b"old"))
    assert left(pair.primary) == []
    pair.secondary.guest_sends(tell(0, b"old"))
    assert left(pair.primary) == [tell(0, b"old")]


def test_the_primary_may_run_on_before_the_secondary_is_loaded() -> None:
    pair = comparing()
    pair.suspend()
    mark = pair.primary.drain_and_mark(Epoch(2))
    pair.primary.resume_input()
    pair.primary.network_sends(ask(0, 1))
    guests = AnsweringGuest(), AnsweringGuest()
    answer(pair.primary, guests[0])
    pair.secondary.loaded(Epoch(2), mark.input_seq)
    pair.secondary.resume_input()
    answer(pair.secondary, guests[1])
    assert left(pair.primary) == []
    pair.primary.compare(Epoch(2))
    assert left(pair.primary) == guests[0].said[0]


def test_a_checkpoint_that_came_to_nothing_costs_no_input() -> None:
    pair = comparing()
    pair.primary.network_sends(ask(0, 1))
    pair.secondary.suspend()
    pair.primary.network_sends(ask(0, 2))
    pair.secondary.ports[0].unread.clear()
    pair.secondary.resume_input()
    assert pair.secondary.guest_reads() == [ask(0, 1), ask(0, 2)]


def test_inputs_after_the_checkpoint_are_given_after_it() -> None:
    pair = comparing()
    pair.primary.network_sends(ask(0, 1))
    pair.secondary.guest_reads()
    pair.suspend()
    pair.primary.network_sends(ask(0, 2))
    mark = pair.primary.drain_and_mark(Epoch(2))
    assert mark.input_seq == 0
    pair.primary.resume_input()
    assert pair.secondary.loaded(Epoch(2), mark.input_seq) == 0
    assert pair.secondary.guest_reads() == []
    pair.secondary.resume_input()
    assert pair.secondary.guest_reads() == [ask(0, 1), ask(0, 2)]


def test_inputs_may_come_after_the_checkpoint_that_contains_them() -> None:
    pair = ColoPair()
    carrier = Carrier()
    pair.connect(carrier)
    carrier.deliver(100)
    assert pair.checkpoint()
    carrier.deliver(100)
    for number in (1, 2):
        pair.primary.network_sends(ask(0, number))
    pair.primary.guest_reads()
    assert pair.checkpoint()
    pair.primary.network_sends(ask(0, 3))
    carrier.deliver(100)
    assert pair.secondary.guest_reads() == [ask(0, 3)]
    assert pair.heard[1].broken == []


def test_a_shift_of_an_older_epoch_is_not_learnt() -> None:
    stand = TcpStand()
    client = Client(40_000)
    stand.open(client)
    stand.checkpoint()
    key = parse_frame(client.end.says(), 0, from_guest=False).key
    inject(stand.pair, wire.ShiftTold(2, 9, key, 77, 77))
    stand.request(client, b"one")


def test_inputs_that_wait_are_not_given_when_the_checkpoint_contains_them() -> None:
    pair = comparing()
    for number in range(15):
        pair.primary.network_sends(ask(0, number))
        pair.primary.guest_reads()
    assert pair.secondary.stats().input.waiting_frames == 5
    assert pair.checkpoint()
    assert pair.secondary.guest_reads() == [ask(0, number) for number in range(10)]
    assert pair.secondary.guest_reads() == []


def test_what_an_older_channel_confirmed_counts_no_more() -> None:
    pair = comparing()
    pair.primary.network_sends(ask(0, 1))
    pair.pass_time(1)
    carrier = Carrier()
    pair.connect(carrier)
    carrier.deliver(100)
    assert pair.checkpoint()
    pair.primary.guest_sends(arp_frame())
    assert left(pair.primary) == []
    carrier.deliver(100)
    assert left(pair.primary) == [arp_frame()]


def test_what_the_checkpoint_contains_needs_no_other_confirmation() -> None:
    pair = ColoPair()
    carrier = Carrier()
    pair.connect(carrier)
    carrier.deliver(100)
    pair.primary.network_sends(ask(0, 1))
    pair.primary.guest_reads()
    assert pair.checkpoint()
    pair.primary.guest_sends(arp_frame())
    assert left(pair.primary) == [arp_frame()]


def test_after_a_break_nothing_is_confirmed_before_the_next_checkpoint() -> None:
    pair = comparing()
    pair.primary.detach()
    pair.primary.network_sends(ask(0, 1))
    pair.connect()
    pair.primary.network_sends(ask(0, 2))
    assert pair.secondary.guest_reads() == [ask(0, 2)]
    assert (pair.heard[1].broken, pair.secondary.look_in_ns) == ([], None)
    pair.primary.guest_reads()
    assert pair.checkpoint()
    pair.primary.network_sends(ask(0, 3))
    assert pair.secondary.look_in_ns == CONFIRM_NS


def test_inputs_of_before_the_take_over_count_for_no_session_of_the_survivor() -> None:
    pair = comparing()
    for number in range(3):
        pair.primary.network_sends(ask(0, number))
    for _ in range(2):
        pair.secondary.ports[0].unread.popleft()
    pair.secondary.take_over(deadline=pair.deadline)
    marks = []
    for epoch in (1, 2):
        pair.secondary.hold_input()
        pair.secondary.quiesce_input(0.0)
        marks.append(pair.secondary.drain_and_mark(Epoch(epoch)).input_seq)
        pair.secondary.resume_input()
        pair.secondary.network_sends(ask(0, 9))
        pair.secondary.guest_reads()
    assert marks == [0, 1]


def test_missing_inputs_are_counted_and_break_the_channel() -> None:
    pair = ColoPair(log_bytes_max=1000)
    pair.connect()
    for number in range(20):
        pair.primary.network_sends(ask(0, number))
    assert pair.secondary.loaded(Epoch(1), 0) > 0
    assert "missing" in pair.heard[1].broken[0]


def lose(which: int) -> Callable[[bytes, Callable[[bytes], None]], None]:
    """A carrier that loses the message of this number, both ways together."""
    count = [0]

    def carry(data: bytes, deliver: Callable[[bytes], None]) -> None:
        count[0] += 1
        if count[0] != which:
            deliver(data)

    return carry


@pytest.mark.parametrize("which", range(6, 12))
def test_a_lost_message_breaks_the_channel_and_what_is_held_waits_for_the_commit(which: int) -> None:
    pair = ColoPair()
    pair.connect(lose(which))
    pair.checkpoint()
    guests = AnsweringGuest(), AnsweringGuest()
    for number in range(6):
        pair.primary.network_sends(ask(0, number))
        answer(pair.primary, guests[0])
        answer(pair.secondary, guests[1])
    assert pair.heard[0].broken or pair.heard[1].broken
    gone = left(pair.primary)
    assert gone == guests[1].said[0][: len(gone)]
    assert len(gone) < 6
    pair.connect()
    assert pair.checkpoint(lambda: guests[1].become(guests[0]))
    assert gone + left(pair.primary) == guests[0].said[0]


def test_without_a_channel_everything_waits_for_its_commit() -> None:
    pair = comparing()
    pair.primary.detach()
    pair.primary.guest_sends(tell(0, b"1"))
    pair.secondary.guest_sends(tell(0, b"1"))
    assert left(pair.primary) == []
    assert not pair.checkpoint()
    assert left(pair.primary) == [tell(0, b"1")]


def test_nothing_leaves_past_the_deadline() -> None:
    pair = comparing()
    pair.deadline.deadline_ns = 0
    pair.primary.guest_sends(tell(0, b"1"))
    pair.secondary.guest_sends(tell(0, b"1"))
    assert left(pair.primary) == [] and pair.primary.muted
    pair.deadline.deadline_ns = FOREVER
    pair.primary.pump()
    assert left(pair.primary) == [tell(0, b"1")]


def test_nothing_can_leave_the_secondary_before_it_takes_over() -> None:
    pair = comparing()
    pair.secondary.guest_sends(tell(0, b"1"))
    pair.secondary.network_sends(ask(0, 1))
    for call in (
        lambda: pair.secondary.set_mode(OutputMode.PASS),
        lambda: pair.secondary.announce([]),
        lambda: pair.secondary.release(Epoch(1)),
        lambda: pair.secondary.replay([]),
        lambda: pair.secondary.drain_and_mark(Epoch(9)),
    ):
        with pytest.raises(InvariantError):
            call()
    pair.secondary.set_deadline(SharedDeadline(FOREVER))
    pair.secondary.pump()
    assert pair.secondary.ports[0].left == [] and pair.secondary.guest_reads() == []


def test_a_guest_that_was_never_loaded_takes_nothing_over() -> None:
    pair = ColoPair()
    with pytest.raises(InvariantError):
        pair.secondary.take_over(deadline=pair.deadline)


def test_the_survivor_speaks_under_its_own_deadline_and_hears_what_was_logged() -> None:
    pair = comparing()
    pair.secondary.suspend()
    pair.primary.network_sends(ask(0, 1))
    deadline = SharedDeadline(0)
    pair.secondary.take_over(deadline=deadline)
    assert not pair.secondary.standing_by
    pair.secondary.resume_input()
    assert pair.secondary.guest_reads() == [ask(0, 1)]
    pair.secondary.network_sends(ask(0, 2))
    assert pair.secondary.guest_reads() == [ask(0, 2)]
    pair.secondary.guest_sends(tell(0, b"1"))
    assert left(pair.secondary) == [] and pair.secondary.muted
    deadline.deadline_ns = FOREVER
    pair.secondary.pump()
    assert left(pair.secondary) == [tell(0, b"1")]
    assert pair.secondary.stats().input.newest_seq == 1, "a session of its own"


def test_a_guest_that_takes_no_inputs_breaks_the_channel_within_bounds() -> None:
    pair = comparing()
    sent = 0
    while not pair.heard[1].broken:
        pair.primary.network_sends(ask(0, sent))
        pair.primary.guest_reads()
        sent += 1
        assert sent < 10_000
    assert pair.secondary.stats().input.waiting_frames <= 4096


def inject(pair: ColoPair, message: wire.FrameMessage) -> None:
    """As if the primary's relay had sent it."""
    channel = pair.primary._colo.channel
    assert isinstance(channel, MemoryFrameChannel)
    channel.send(message)


@pytest.mark.parametrize(
    "message",
    [
        wire.InputBatch(1, ((9, b"x"),)),
        wire.InputBatch(77, ((0, b"x"),)),
        wire.ShiftTold(99, 1, b"k", 1, 1),
        wire.ShiftTold(2, 1, b"k", 1, 1),
        wire.LastingShifts(True, ((b"k", 1, 1),)),
        wire.InputBatch(1, ((0, b"x"),)),
        wire.InputBatch(1, ((0, bytes(FRAME_BYTES_MAX)),)),
    ],
    ids=repr,
)
def test_whatever_comes_through_the_channel_harms_nobody(message: wire.FrameMessage) -> None:
    pair = comparing()
    inject(pair, message)
    pair.primary.guest_sends(tell(0, b"1"))
    pair.secondary.guest_sends(tell(0, b"1"))
    assert left(pair.primary) == ([] if pair.heard[1].broken else [tell(0, b"1")])
    pair.connect()
    assert pair.checkpoint()


EPOCHS = st.sampled_from([1, 2, 3, 99, wire.INT_MAX])
SEQS = st.sampled_from([1, 2, 3, 50, wire.INT_MAX])
KEYS = st.binary(min_size=1, max_size=20)
WORDS = st.integers(0, (1 << 32) - 1)
ROWS = st.lists(st.tuples(st.integers(0, 2), st.binary(min_size=1, max_size=70)), min_size=1, max_size=3).map(
    tuple
)
FOREIGN = st.one_of(
    st.builds(wire.InputBatch, SEQS, ROWS),
    st.builds(wire.ShiftTold, EPOCHS, SEQS, KEYS, WORDS, WORDS),
    st.builds(
        wire.LastingShifts, st.booleans(), st.lists(st.tuples(KEYS, WORDS, WORDS), max_size=2).map(tuple)
    ),
    st.builds(wire.OutputBatch, EPOCHS, SEQS, ROWS),
    st.builds(wire.InputsLogged, SEQS),
    st.builds(wire.ShiftsKnown, SEQS),
)


@given(st.lists(FOREIGN, max_size=12))
def test_whatever_a_peer_says_in_form_harms_nobody(messages: list[wire.FrameMessage]) -> None:
    pair = comparing()
    for message in messages:
        side = pair.secondary if wire.is_for_primary(message) else pair.primary
        channel = side._colo.channel
        if channel is not None and channel.is_open:
            channel.send(message)
        pair.primary.guest_sends(tell(0, b"mine"))
    assert pair.secondary.ports[0].left == []
    pair.primary.restart_inputs()
    pair.secondary.restart_inputs()
    pair.connect()
    assert pair.checkpoint()
    left(pair.primary)
    pair.primary.guest_sends(tell(0, b"1"))
    pair.secondary.guest_sends(tell(0, b"1"))
    assert left(pair.primary) == [tell(0, b"1")]


@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=80)), max_size=20))
def test_guests_may_say_anything(words: list[tuple[bool, bytes]]) -> None:
    pair = comparing()
    for is_primary, frame in words:
        (pair.primary if is_primary else pair.secondary).guest_sends(frame)
    pair.checkpoint()
    wanted = sorted(frame for is_primary, frame in words if is_primary and frame)
    assert sorted(left(pair.primary)) == wanted


# TCP.


class TcpStand:
    """A pair with TCP guests and one client at least."""

    def __init__(self) -> None:
        self.pair = ColoPair()
        self.pair.connect()
        self.guests = TcpGuest(1_000, 50_000), TcpGuest(900_000_000, 50_000)
        self.asked = 0
        self.pair.checkpoint(self.copy)

    def copy(self) -> None:
        isn = self.guests[1].isn + 7
        self.guests[1].become(self.guests[0])
        self.guests[1].isn = isn

    def checkpoint(self) -> None:
        assert self.pair.checkpoint(self.copy)

    def run(self, which: int) -> None:
        """The guest reads and answers until it has nothing to do."""
        relay = (self.pair.primary, self.pair.secondary)[which]
        while frames := relay.guest_reads():
            for frame in frames:
                for answered in self.guests[which].hear(frame):
                    relay.guest_sends(answered)

    def both(self, client: Client, frame: bytes) -> None:
        """A frame of the client, and what both guests make of it."""
        self.pair.primary.network_sends(frame)
        self.run(0)
        self.run(1)
        self.hear(client, self.pair.primary)

    def hear(self, client: Client, relay: MemoryColo) -> None:
        client.hears_all(left(relay))

    def open(self, client: Client) -> None:
        self.both(client, client.end.opens())
        assert client.end.other_isn is not None, "the connection did not open"
        self.both(client, client.end.says())

    def request(self, client: Client, data: bytes) -> None:
        self.both(client, client.end.says(data))
        assert client.end.heard.endswith(b"<" + data + b">")
        self.both(client, client.end.says())


def test_a_connection_lives_on_through_checkpoint_and_take_over() -> None:
    stand = TcpStand()
    old, new = Client(40_000), Client(40_001, isn=99_000)
    stand.open(old)
    stand.request(old, b"one")
    stand.checkpoint()
    stand.request(old, b"two")
    stand.open(new)
    stand.request(new, b"uno")
    stand.guests[1].tick(300)
    stand.request(new, b"due")
    for which in (0, 1):
        # Now the one's clock is ahead, now the other's.
        stand.guests[which].tick(700 * (1 + which))
        for client, data in ((old, b"again"), (new, b"ancora")):
            client.end.clock += 10
            stand.request(client, data)
    assert stand.pair.heard[0].asked == []
    # The primary dies while the answers are under way: the secondary has given them, the world has not seen them.
    for client, data in ((old, b"three"), (new, b"tre")):
        stand.pair.primary.network_sends(client.end.says(data))
    stand.run(1)
    stand.pair.secondary.take_over(deadline=SharedDeadline(FOREVER))
    again = left(stand.pair.secondary)
    for client in (old, new):
        client.hears_all(again)
    assert (old.end.heard, new.end.heard) == (
        b"<one><two><again><again><three>",
        b"<uno><due><ancora><ancora><tre>",
    )
    go_on(stand, (old, new))


def go_on(stand: TcpStand, clients: tuple[Client, ...]) -> None:
    """With the survivor alone: each client asks, and ends."""
    for client in clients:
        client.end.clock += 50
        for frame in (client.end.says(), client.end.says(b"last"), client.end.says(fin=True)):
            stand.pair.secondary.network_sends(frame)
            stand.run(1)
            client.hears_all(left(stand.pair.secondary))
        assert client.end.heard.endswith(b"<last>") and client.end.ended


def test_what_the_world_has_acknowledged_is_not_said_again() -> None:
    stand = TcpStand()
    client = Client(40_000)
    stand.open(client)
    stand.request(client, b"one")
    stand.request(client, b"two")
    stand.pair.secondary.take_over(deadline=SharedDeadline(FOREVER))
    assert left(stand.pair.secondary) == []


def test_what_was_said_long_ago_is_the_guests_to_repeat() -> None:
    stand = TcpStand()
    client = Client(40_000)
    stand.open(client)
    stand.pair.primary.network_sends(client.end.says(b"one"))
    stand.run(1)
    stand.pair.now_ns += 2_000_000_000
    stand.pair.secondary.take_over(deadline=SharedDeadline(FOREVER))
    assert left(stand.pair.secondary) == []


def test_a_second_take_over_keeps_the_numbers_that_the_world_knows() -> None:
    stand = TcpStand()
    client = Client(40_000)
    stand.open(client)
    stand.request(client, b"one")
    pair = stand.pair
    pair.secondary.take_over(deadline=SharedDeadline(FOREVER), mode=OutputMode.HOLD)
    assert left(pair.secondary) == []
    # The survivor is a primary now, with a new secondary.
    survivor = stand.guests[1]
    pair.primary, pair.secondary = pair.secondary, pair.make_secondary(Side())
    stand.guests = survivor, TcpGuest(500_000, 90_000)
    pair.primary.restart_inputs()
    pair.connect()
    stand.checkpoint()
    client.end.clock += 50
    stand.request(client, b"two")
    fresh = Client(40_002)
    stand.open(fresh)
    stand.request(fresh, b"eins")
    pair.secondary.take_over(deadline=SharedDeadline(FOREVER))
    client.end.clock += 50
    go_on(stand, (client, fresh))


# Any history.


class Carrier:
    """Keeps what is under way until it is let go."""

    def __init__(self) -> None:
        self.under_way: deque[tuple[bytes, Callable[[bytes], None]]] = deque()

    def __call__(self, data: bytes, deliver: Callable[[bytes], None]) -> None:
        self.under_way.append((data, deliver))

    def deliver(self, count: int) -> None:
        while self.under_way and count > 0:
            count -= 1
            data, deliver = self.under_way.popleft()
            deliver(data)

    def lose(self) -> None:
        if self.under_way:
            self.under_way.popleft()


class History:
    """Drawn steps; after each, all that has left is what the secondary's guest believes to have said."""

    def __init__(self) -> None:
        self.pair = ColoPair()
        self.carrier = Carrier()
        self.guests = AnsweringGuest(), AnsweringGuest()
        self.asked = 0
        self.drawn = 0
        self.left: dict[int, list[bytes]] = {}
        self.connect()
        self.checkpoint()

    def connect(self) -> None:
        self.carrier = Carrier()
        self.pair.connect(self.carrier)
        self.carrier.deliver(100)
        assert self.pair.heard[0].opened == self.pair.sessions

    def checkpoint(self) -> None:
        self.pair.checkpoint(lambda: self.guests[1].become(self.guests[0]))

    def play(self, step: str, count: int) -> None:
        match step:
            case "ask":
                self.asked += 1
                self.pair.primary.network_sends(ask(count % 2, self.asked))
            case "primary" | "secondary":
                self.answer(step == "secondary", count)
            case "differ":
                self.drawn += 1
                self.answer(True, 1, self.drawn.to_bytes(4, "big"))
            case "deliver":
                self.carrier.deliver(count)
            case "lose":
                self.carrier.lose()
            case "time":
                self.pair.pass_time(100 * count)
            case "stop":
                self.pair.primary.stop_comparing()
            case "connect":
                self.connect()
            case "checkpoint":
                self.checkpoint()
        self.check()

    def answer(self, which: bool, count: int, entropy: bytes = b"") -> None:
        relay = self.pair.secondary if which else self.pair.primary
        guest = self.guests[which]
        for _ in range(count):
            if relay.ports[0].unread:
                relay.guest_sends(guest.hear(relay.ports[0].unread.popleft(), entropy))

    def check(self) -> None:
        for frame in left(self.pair.primary):
            self.left.setdefault(flow_of(frame), []).append(frame)
        for flow, frames in self.left.items():
            assert self.guests[1].said[flow][: len(frames)] == frames, "the survivor would contradict it"
        assert self.pair.secondary.ports[0].left == []


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["ask", "ask", "primary", "primary", "secondary", "secondary", "deliver", "deliver"]
            + ["differ", "lose", "time", "stop", "connect", "checkpoint"]
        ),
        st.integers(1, 4),
    ),
    max_size=50,
)


@settings(deadline=None)
@given(STEPS)
def test_what_has_left_is_what_the_survivor_has_said_after_any_history(steps: list[tuple[str, int]]) -> None:
    history = History()
    for step, count in steps:
        history.play(step, count)
    while history.pair.primary.ports[0].unread:
        history.play("primary", 1)
    history.connect()
    history.checkpoint()
    history.check()
    assert history.left == history.guests[0].said, "all leaves with a checkpoint, once and in order"
