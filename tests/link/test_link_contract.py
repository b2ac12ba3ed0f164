"""What every link promises, asked of each kind of link: in memory and over TCP, each of them with and without keys."""

from __future__ import annotations

import asyncio

import pytest
from link_tools import BEGIN, DIGEST, HELLO, IN_MEMORY, KINDS, REPLY, SESSION, TIMEOUT_S, World, part, run

from replicator.errors import ConfigError, LocalWireError, TransportError
from replicator.limits import PART_BYTES_MAX
from replicator.link import (
    LinkConfig,
    LinkDown,
    LinkEvent,
    LinkUp,
    PeerAddress,
    PeerLeft,
    Received,
)
from replicator.link.base import CONNECTED_PEER, is_loopback
from replicator.wire import session as s

EACH = pytest.mark.parametrize("kind", KINDS)


@EACH
def test_hello_and_reply(kind: str) -> None:
    async def scenario() -> None:
        async with World(kind) as world:
            a, b = await world.pair()
            await a.link.send(HELLO)
            hello, where = await b.inbox.message(s.Hello)
            assert hello == HELLO
            assert where.channel is s.Channel.CONTROL
            await b.link.reply(where.peer_id, REPLY)
            reply, back = await a.inbox.message(s.HelloReply)
            assert (reply, back.peer_id) == (REPLY, CONNECTED_PEER)

    run(scenario())


@EACH
def test_bulk_arrives_whole_and_in_order(kind: str) -> None:
    async def scenario() -> None:
        async with World(kind) as world:
            a, b = await world.pair()
            sizes = [1, 4096, 70_000, PART_BYTES_MAX] * 5

            async def send() -> None:
                await a.link.send_bulk(BEGIN)
                for index, size in enumerate(sizes):
                    await a.link.send_bulk(part(index, size), bytes([index]) * size)
                await a.link.send_bulk(s.EpochEnd(SESSION, 1, len(sizes), sum(sizes), DIGEST, 0))

            sending = asyncio.create_task(send())
            await b.inbox.message(s.EpochBegin)
            for index, size in enumerate(sizes):
                header, event = await b.inbox.message(s.EpochPart)
                assert header == part(index, size)
                assert event.payload is not None
                assert event.payload == bytes([index]) * size
            await b.inbox.message(s.EpochEnd)
            await sending

    run(scenario())


@EACH
def test_a_receiver_that_does_not_read_stops_the_sender(kind: str) -> None:
    async def scenario() -> None:
        async with World(kind) as world:
            a, b = await world.pair()
            payload = bytes(PART_BYTES_MAX)
            sent = 0
            with pytest.raises(asyncio.TimeoutError):
                while sent < 100:
                    await asyncio.wait_for(a.link.send_bulk(part(sent, len(payload)), payload), 0.5)
                    sent += 1
            # High-water marks of both sides and what the kernel takes.
            assert 0 < sent <= 32
            # Control does not queue behind bulk. It is read first, once it is there.
            await a.link.send(HELLO)
            got = []
            while not isinstance((event := await b.inbox.next()).message, s.Hello):
                got.append(event.message.index)
            assert len(got) < sent
            # The send that was cancelled left nothing behind, and room lets the next one through.
            sending = asyncio.create_task(a.link.send_bulk(BEGIN))
            while isinstance((event := await b.inbox.next()).message, s.EpochPart):
                got.append(event.message.index)
            assert event.message == BEGIN
            assert got == list(range(sent))
            await sending

    run(scenario())


@EACH
def test_sending_without_a_peer_is_an_error_and_leaves_nothing_behind(kind: str) -> None:
    async def scenario() -> None:
        async with World(kind) as world:
            a, b = await world.make(0), await world.make(1)
            for sending in (a.link.send(HELLO), a.link.send_bulk(BEGIN)):
                with pytest.raises(TransportError, match="no"):
                    await sending
            await a.link.connect(b.link.address)
            assert await a.inbox.next() == LinkUp()
            await a.link.send(HELLO)
            await b.inbox.message(s.Hello)
            await a.link.disconnect()
            with pytest.raises(TransportError):
                await a.link.send(HELLO)
            assert await b.inbox.next() == PeerLeft()

    run(scenario())


@EACH
def test_a_peer_that_restarts_is_connected_again(kind: str) -> None:
    async def scenario() -> None:
        async with World(kind) as world:
            a, b = await world.pair()
            address = b.link.address
            await a.link.send(HELLO)
            await b.inbox.message(s.Hello)
            await b.link.close()
            down = await a.inbox.next()
            assert isinstance(down, LinkDown)
            assert "127.0.0.1" in down.reason
            with pytest.raises(TransportError):
                await a.link.send_bulk(BEGIN)
            if kind in IN_MEMORY:
                # A link in memory cannot choose its port, so the restart is a mended cable.
                return
            again = await world.make(1, bulk_port=address.bulk_port, control_port=address.control_port)
            assert await a.inbox.until(LinkUp) == LinkUp()
            await a.link.send(HELLO)
            _, where = await again.inbox.message(s.Hello)
            await again.link.reply(where.peer_id, REPLY)
            await a.inbox.message(s.HelloReply)

    run(scenario())


@EACH
def test_replies_wait_for_room_as_long_as_they_may(kind: str) -> None:
    payload = bytes(1 << 17)
    word = s.CheckpointWord(SESSION, 1, len(payload), bytes(16), True)

    async def scenario() -> None:
        async with World(kind) as world:
            a, b = await world.pair()
            await a.link.send(HELLO)
            _, where = await b.inbox.message(s.Hello)
            with pytest.raises(TransportError, match="does not read"):
                for _ in range(1000):
                    await b.link.reply(where.peer_id, word, payload)

            async def tell() -> None:
                for number in range(200):
                    last = number == 199
                    told = s.CheckpointWord(SESSION, 2, len(payload), bytes(16), not last)
                    await b.link.reply(where.peer_id, told, payload, patience_s=TIMEOUT_S)

            telling = asyncio.create_task(tell())
            heard = 0
            while True:
                message, _ = await a.inbox.message(s.CheckpointWord)
                heard += message.epoch == 2
                if not message.more:
                    break
            await telling
            assert heard == 200

    run(scenario())


@EACH
def test_a_sender_that_waits_hears_of_the_fall(kind: str) -> None:
    async def scenario() -> None:
        async with World(kind) as world:
            a, b = await world.pair()
            payload = bytes(PART_BYTES_MAX)

            async def flood() -> None:
                for index in range(1000):
                    await a.link.send_bulk(part(index, len(payload)), payload)

            flooding = asyncio.create_task(flood())
            await b.inbox.message(s.EpochPart)
            await b.link.close()
            assert isinstance(await a.inbox.next(), LinkDown)
            with pytest.raises(TransportError):
                await flooding

    run(scenario())


@EACH
def test_a_reply_to_a_peer_that_is_gone_is_an_error(kind: str) -> None:
    async def scenario() -> None:
        async with World(kind) as world:
            a, b = await world.pair()
            await a.link.send(HELLO)
            _, where = await b.inbox.message(s.Hello)
            await a.link.disconnect()
            assert await b.inbox.next() == PeerLeft()
            said = ""
            # That the peer left may be heard a moment before its connection is taken apart; until then replies are
            # queued, and on a busy machine they may fill the queue.
            while "gone" not in said:
                try:
                    await b.link.reply(where.peer_id, REPLY)
                except TransportError as error:
                    said = str(error)
                await asyncio.sleep(0)

    run(scenario())


@EACH
def test_both_roles_at_once(kind: str) -> None:
    async def scenario() -> None:
        async with World(kind) as world:
            a, b = await world.pair()
            await b.link.connect(a.link.address)
            assert await b.inbox.next() == LinkUp()
            await a.link.send(HELLO)
            await b.link.send(HELLO)
            for side in (a, b):
                _, where = await side.inbox.message(s.Hello)
                side.hello_from = where.peer_id
            for side in (a, b):
                await side.link.reply(side.hello_from, REPLY)
            for side in (a, b):
                await side.inbox.message(s.HelloReply)

    run(scenario())


@EACH
def test_input_frames_travel_with_control(kind: str) -> None:
    async def scenario() -> None:
        async with World(kind) as world:
            a, b = await world.pair()
            frames = s.InputFrames(SESSION, 1, (60, 1514))
            await a.link.send(frames, b"x" * 60 + b"y" * 1514)
            message, event = await b.inbox.message(s.InputFrames)
            assert event.channel is s.Channel.CONTROL
            assert event.payload is not None
            assert [bytes(one) for one in s.split_frames(message, event.payload)] == [b"x" * 60, b"y" * 1514]

    run(scenario())


@EACH
def test_what_does_not_belong_is_not_sent(kind: str) -> None:
    async def scenario() -> None:
        async with World(kind) as world:
            a, b = await world.pair()
            with pytest.raises(LocalWireError, match="bulk channel"):
                await a.link.send_bulk(HELLO)
            with pytest.raises(LocalWireError, match="control channel"):
                await a.link.send(BEGIN)
            with pytest.raises(LocalWireError, match="direction"):
                await a.link.send(REPLY)
            with pytest.raises(LocalWireError, match="direction"):
                await b.link.reply(b"any", HELLO)
            with pytest.raises(LocalWireError, match="payload"):
                await a.link.send_bulk(part(0, 10), bytes(9))
            with pytest.raises(LocalWireError, match="field epoch"):
                await a.link.send_bulk(s.EpochBegin(SESSION, 1, 0, 0))

    run(scenario())


@EACH
def test_closing_ends_the_reader(kind: str) -> None:
    async def scenario() -> None:
        async with World(kind) as world:
            a, b = await world.pair()

            async def read() -> list[LinkEvent]:
                return [event async for event in b.link.received()]

            reading = asyncio.create_task(read())
            await a.link.send(HELLO)
            while not reading.done():
                await a.link.send(HELLO)
                await b.link.close()
                await asyncio.sleep(0)
            assert all(isinstance(event, Received) for event in await reading)
            await b.link.close()

    run(scenario())


def test_plaintext_stays_on_this_host() -> None:
    with pytest.raises(ConfigError, match="unencrypted") as caught:
        LinkConfig("host-a", "0.0.0.0")
    assert "keygen" in caught.value.hint
    LinkConfig("host-a", "0.0.0.0", allow_plaintext=True)
    assert [is_loopback(one) for one in ("localhost", "127.0.0.9", "::1", "*", "10.0.0.1", "host-b")] == [
        *(True,) * 3,
        *(False,) * 3,
    ]


@pytest.mark.parametrize("kind", ["memory", "plain"])
def test_plaintext_does_not_leave_this_host(kind: str) -> None:
    async def scenario() -> None:
        async with World(kind) as world:
            a = await world.make(0)
            with pytest.raises(ConfigError, match="unencrypted"):
                await a.link.connect(PeerAddress("192.0.2.1", 1, 2))

    run(scenario())


def test_a_cut_network_in_memory_breaks_and_mends() -> None:
    async def scenario() -> None:
        async with World("memory") as world:
            a, b = await world.pair()
            world.network.cut()
            assert isinstance(await a.inbox.next(), LinkDown)
            assert await b.inbox.next() == PeerLeft()
            world.network.mend()
            assert await a.inbox.next() == LinkUp()

    run(scenario())
