"""The channel between two relays, in memory and over TCP, with and without keys."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from link_tools import acquainted, keypair

from replicator.errors import ConfigError, ReplicatorError, TransportError, WireError
from replicator.limits import FRAME_BYTES_MAX, FRAMES_UNSENT_BYTES_MAX
from replicator.link.base import LinkConfig
from replicator.link.frame_channel import STRANGERS_MAX, FrameDialler, FrameListener
from replicator.link.keys import Keys
from replicator.link.record_seal import SALT_BYTES, RecordSeal
from replicator.output.frame_channel import FrameChannel
from replicator.output.frame_channel_memory import make_memory_pair
from replicator.wire import frames as wire

SESSION = bytes(range(16))
WAIT_S = 5.0
NO_KEYS = (None, None)

Ends = tuple[FrameChannel, FrameChannel]


def config(node: str, keys: Keys | None = None) -> LinkConfig:
    return LinkConfig(node, "127.0.0.1", keys=keys)


class Bench:
    """Makes ends, and closes them."""

    def __init__(self, stack: ExitStack, keys: tuple[Keys | None, Keys | None] = NO_KEYS) -> None:
        self._stack = stack
        self.keys = keys

    def listen(self, port: int = 0) -> FrameListener:
        listener = FrameListener(config("b", self.keys[1]), SESSION, port=port)
        self._stack.callback(listener.close)
        return listener

    def dial(
        self, port: int, *, keys: Keys | None = None, public_key: str | None = None, session: bytes = SESSION
    ) -> FrameDialler:
        others = self.keys[1]
        if public_key is None:
            public_key = "" if others is None else others.public
        dialler = FrameDialler(
            config("a", keys or self.keys[0]), session, host="127.0.0.1", port=port, public_key=public_key
        )
        self._stack.callback(dialler.close)
        return dialler

    def pair(self) -> tuple[FrameDialler, FrameListener]:
        listener = self.listen()
        return self.dial(listener.port), listener


@pytest.fixture
def bench() -> Iterator[Bench]:
    with ExitStack() as stack:
        yield Bench(stack)


@pytest.fixture(params=["memory", "tcp", "sealed"])
def ends(request: pytest.FixtureRequest) -> Iterator[Ends]:
    """An open channel of each kind: what a test says holds for all."""
    with ExitStack() as stack:
        if request.param == "memory":
            pair: Ends = make_memory_pair(SESSION)
        else:
            pair = Bench(stack, acquainted() if request.param == "sealed" else NO_KEYS).pair()
        open_both(pair)
        yield pair


def wait(channels: Ends, condition: Callable[[], bool]) -> None:
    """Until it is so, by what the descriptors say, as a relay waits."""
    end = time.monotonic() + WAIT_S
    fds = [fd for channel in channels for fd in channel.filenos()]
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        if fds and not any(channel.has_news() for channel in channels):
            select.select(fds, [], [], 0.01)


def open_both(pair: Ends) -> None:
    heard: list[wire.FrameMessage] = []

    def look() -> bool:
        heard.extend(filter(None, (channel.receive() for channel in pair)))
        return all(channel.is_open for channel in pair)

    wait(pair, look)
    assert set(map(type, heard)) == {wire.OpenFrames, wire.FramesOpen}


def receive(pair: Ends, which: int, count: int) -> list[wire.FrameMessage]:
    found: list[wire.FrameMessage] = []

    def look() -> bool:
        while len(found) < count and (message := pair[which].receive()) is not None:
            found.append(message)
        return len(found) == count

    wait(pair, look)
    return found


def fails(channels: Ends, which: int) -> ReplicatorError:
    """The error by which this end learns that the channel is over."""
    errors: list[ReplicatorError] = []

    def look() -> bool:
        try:
            channels[which].receive()
        except (TransportError, WireError) as error:
            errors.append(error)
        return bool(errors)

    wait(channels, look)
    return errors[0]


def batch(seq: int, size: int = 60) -> wire.InputBatch:
    return wire.InputBatch(seq, ((0, bytes(size)),))


def test_messages_of_both_ways_come_in_order(ends: Ends) -> None:
    for seq in range(1, 101):
        ends[0].send(batch(seq))
        ends[1].send(wire.InputsLogged(seq))
    assert receive(ends, 1, 100) == [batch(seq) for seq in range(1, 101)]
    assert receive(ends, 0, 100) == [wire.InputsLogged(seq) for seq in range(1, 101)]
    ends[0].send(batch(101, FRAME_BYTES_MAX))
    assert receive(ends, 1, 1) == [batch(101, FRAME_BYTES_MAX)]


def test_nothing_is_sent_in_the_wrong_direction(ends: Ends) -> None:
    with pytest.raises(WireError):
        ends[1].send(batch(1))


def test_a_closed_end_sends_and_hears_nothing(ends: Ends) -> None:
    ends[1].send(wire.InputsLogged(1))
    ends[0].close()
    ends[0].close()
    assert ends[0].receive() is None and not ends[0].is_open and not ends[0].has_news()
    with pytest.raises(TransportError):
        ends[0].send(batch(1))


def test_who_does_not_read_is_given_up_within_bounds(ends: Ends) -> None:
    sent = 0
    with pytest.raises(TransportError):
        # What the kernel holds for a connection comes on top.
        for sent in range(1, 2 * FRAMES_UNSENT_BYTES_MAX // 60_000):
            ends[0].send(batch(sent, 60_000))
        while ends[1].receive() is not None:
            pass


def test_an_end_that_is_not_open_sends_nothing(bench: Bench) -> None:
    pair = bench.pair()
    for channel, message in zip(pair, (batch(1), wire.InputsLogged(1)), strict=True):
        with pytest.raises(TransportError, match="not open"):
            channel.send(message)


def test_the_dialler_notices_when_the_listener_goes(bench: Bench) -> None:
    pair = bench.pair()
    open_both(pair)
    pair[1].close()
    assert "lost" in str(fails((pair[0], pair[0]), 0))


def test_the_listener_notices_by_sending_when_the_dialler_has_gone(bench: Bench) -> None:
    dialler, listener = bench.pair()
    open_both((dialler, listener))
    dialler.close()

    def look() -> bool:
        try:
            listener.send(wire.InputsLogged(1))
            listener.receive()
        except TransportError:
            return True
        return False

    wait((listener, listener), look)


def test_a_listener_that_comes_later_is_found(bench: Bench) -> None:
    first = bench.listen()
    port = first.port
    first.close()
    dialler = bench.dial(port)
    assert dialler.receive() is None
    open_both((dialler, bench.listen(port)))


def test_a_name_is_looked_up(bench: Bench) -> None:
    listener = bench.listen()
    dialler = FrameDialler(config("a"), SESSION, host="localhost", port=listener.port)
    open_both((dialler, listener))
    dialler.close()


def test_a_name_that_nobody_has_opens_nothing() -> None:
    anywhere = LinkConfig("a", "127.0.0.1", allow_plaintext=True)
    dialler = FrameDialler(anywhere, SESSION, host="nobody.invalid", port=1)
    assert dialler.receive() is None and not dialler.is_open
    dialler.close()


def test_a_dialler_of_another_session_opens_nothing(bench: Bench) -> None:
    listener = bench.listen()
    old = bench.dial(listener.port, session=bytes(16))
    wait((old, listener), lambda: (old.receive(), listener.receive()) == (None, None) and listener.stale > 0)
    assert not old.is_open
    open_both((bench.dial(listener.port), listener))


def test_the_first_peer_is_the_only_one(bench: Bench) -> None:
    listener = bench.listen()
    peer = bench.dial(listener.port)
    second = bench.dial(listener.port)
    open_both((peer, listener))
    end = time.monotonic() + 0.2
    wait((second, peer), lambda: second.receive() is not None or time.monotonic() > end)
    peer.send(batch(1))
    assert receive((peer, listener), 1, 1) == [batch(1)]
    assert not second.is_open


def test_strangers_are_dropped_until_the_peer_comes(bench: Bench) -> None:
    listener = bench.listen()
    said = (b"\0\0\0\1\xc1", b"\xff\xff\xff\xff", b"\0\0\0\0", b"")
    for count, data in enumerate(said, 1):
        with socket.create_connection(("127.0.0.1", listener.port)) as stranger:
            stranger.sendall(data)
            stranger.shutdown(socket.SHUT_WR)
            wait(
                (listener, listener),
                lambda count=count: listener.receive() is None and listener.refused == count,
            )
    open_both((bench.dial(listener.port), listener))


def test_strangers_who_say_nothing_make_room_for_the_peer(bench: Bench) -> None:
    listener = bench.listen()
    with ExitStack() as stack:
        for _ in range(STRANGERS_MAX + 3):
            stack.enter_context(socket.create_connection(("127.0.0.1", listener.port)))
            assert listener.receive() is None
        open_both((bench.dial(listener.port), listener))
    assert listener.refused == STRANGERS_MAX + 3


def test_a_message_in_many_pieces_is_one(bench: Bench) -> None:
    listener = bench.listen()
    numbers = wire.FrameNumbers(SESSION, is_primary=True)
    messages = [numbers.wrap(one) for one in (wire.OpenFrames(), batch(1), batch(2, FRAME_BYTES_MAX))]
    heard: list[wire.FrameMessage] = []
    with socket.create_connection(("127.0.0.1", listener.port)) as peer:
        for data in messages:
            record = len(data).to_bytes(4, "big") + data
            for at in range(0, len(record), max(len(record) // 7, 1)):
                peer.sendall(record[at : at + max(len(record) // 7, 1)])
                heard.extend(filter(None, [listener.receive()]))

        def look() -> bool:
            heard.extend(filter(None, [listener.receive()]))
            return len(heard) == len(messages)

        wait((listener, listener), look)
    assert heard == [wire.OpenFrames(), batch(1), batch(2, FRAME_BYTES_MAX)]


def test_what_finds_no_room_at_once_comes_all_the_same(ends: Ends) -> None:
    """More than the kernel takes, of a reader that begins late."""
    count = 150
    for seq in range(1, count + 1):
        ends[0].send(batch(seq, 60_000))
        if ends[0].filenos() == ():
            assert receive(ends, 1, 1) == [batch(seq, 60_000)]
    found: list[wire.FrameMessage] = []

    def look() -> bool:
        assert ends[0].receive() is None
        while (message := ends[1].receive()) is not None:
            found.append(message)
        return len(found) == count or ends[0].filenos() == ()

    wait(ends, look)
    assert found == ([] if ends[0].filenos() == () else [batch(seq, 60_000) for seq in range(1, count + 1)])


def test_what_was_changed_on_its_way_ends_a_sealed_channel() -> None:
    """Of a peer that knows the secret, and a byte of whose message falls over."""
    with ExitStack() as stack:
        listener = Bench(stack, acquainted()).listen()
        peer = stack.enter_context(socket.create_connection(("127.0.0.1", listener.port)))
        seal = RecordSeal(SESSION, bytes(SALT_BYTES), is_dialler=True)
        numbers = wire.FrameNumbers(SESSION, is_primary=True)

        def say(record: bytes) -> None:
            peer.sendall(len(record).to_bytes(4, "big") + record)

        def hear() -> bytes:
            size = int.from_bytes(peer.recv(4, socket.MSG_WAITALL), "big")
            return peer.recv(size, socket.MSG_WAITALL)

        assert listener.receive() is None
        say(seal.salt)
        seal.agree(hear())
        say(seal.seal(numbers.wrap(wire.OpenFrames())))
        assert receive((listener, listener), 0, 1) == [wire.OpenFrames()]
        assert wire.decode(seal.open(hear())).message == wire.FramesOpen()
        changed = bytearray(seal.seal(numbers.wrap(batch(1))))
        changed[20] ^= 1
        say(bytes(changed))
        assert "changed" in str(fails((listener, listener), 0))


def test_who_does_not_know_the_secret_opens_nothing() -> None:
    with ExitStack() as stack:
        bench = Bench(stack, acquainted())
        listener = bench.listen()
        stranger = bench.dial(listener.port, session=bytes(16))
        wait(
            (stranger, listener),
            lambda: (stranger.receive(), listener.receive()) == (None, None) and listener.refused > 0,
        )
        assert not stranger.is_open and listener.stale == 0
        open_both((bench.dial(listener.port), listener))


def test_keys_on_one_side_only_are_refused(bench: Bench) -> None:
    with pytest.raises(ConfigError, match="one side"):
        bench.dial(1, public_key=keypair().public)


def test_plaintext_beyond_this_host_is_refused() -> None:
    with pytest.raises(ConfigError, match="unencrypted"):
        FrameDialler(config("a"), SESSION, host="192.0.2.1", port=1)


def test_a_port_in_use_is_a_clear_error(bench: Bench) -> None:
    listener = bench.listen()
    with pytest.raises(TransportError, match="cannot listen for frames"):
        bench.listen(listener.port)
