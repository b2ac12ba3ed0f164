"""Whatever bytes come in: a named refusal, bounded memory, and the real peer is served as before."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import threading
from itertools import pairwise
from pathlib import Path

import pytest
import zmq
from link_tools import BEGIN, DIGEST, HELLO, SESSION, Inbox, Side, World, part, run
from zmtp import Stranger, frame, frame_header, greeting, ready

from replicator.errors import WireError
from replicator.limits import MESSAGE_BYTES_MAX, PART_BYTES_MAX
from replicator.link import (
    BadMessage,
    LinkConfig,
    LinkEvent,
    PeerLeft,
    PeerRefused,
    Received,
    ZmqLink,
)
from replicator.link.monitor import Monitor
from replicator.link.sockets import HANDSHAKE_MS
from replicator.units import PAGE_SIZE
from replicator.wire import session as s

KINDS = pytest.mark.parametrize("kind", ["plain", "sealed"])
TYPES = {s.Channel.BULK: b"PUSH", s.Channel.CONTROL: b"DEALER"}
BOTH = pytest.mark.parametrize("channel", list(TYPES), ids=lambda channel: channel.value)
#: What the process may grow by, whoever sends what: both sockets' high-water marks and the kernel's buffers.
MEMORY_BYTES_MAX = 64 << 20
MONITORS = 40
VALID: list[s.Message] = [
    HELLO,
    BEGIN,
    part(0, 64),
    s.EpochEnd(SESSION, 1, 1, 64, DIGEST, 0),
    s.InputFrames(SESSION, 1, (64,)),
    s.StandDown(1, "over"),
    s.Ack(SESSION, 1, DIGEST),
    s.Heartbeat("host-a", "primary", 1, 1, 0, 0, 0),
]


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_SIZE


def port_of(side: Side, channel: s.Channel) -> int:
    address = side.link.address
    return address.bulk_port if channel is s.Channel.BULK else address.control_port


async def check_served(a: Side, b: Side) -> None:
    """The real peer gets a message through on both channels."""
    await a.link.send(HELLO)
    await a.link.send_bulk(BEGIN)
    seen = set()
    while seen != {s.Hello, s.EpochBegin}:
        event = await b.inbox.next()
        if isinstance(event, Received) and event.message in (HELLO, BEGIN):
            seen.add(type(event.message))


@KINDS
@BOTH
def test_bytes_that_are_no_handshake_hurt_nobody(kind: str, channel: s.Channel) -> None:
    chance = random.Random(kind + channel.value)
    starts = [b"", b"\xff", greeting(), greeting(b"CURVE"), greeting(b"PLAIN"), greeting() + ready(b"PUB")]
    starts += [greeting()[:size] for size in (1, 10, 11, 12, 32, 63)]
    starts += [b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"SSH-2.0-OpenSSH\r\n", b"\x16\x03\x01"]

    async def scenario() -> None:
        async with World(kind) as world:
            a, b = await world.pair()

            async def attack(start: bytes) -> None:
                async with Stranger(port_of(b, channel)) as stranger:
                    await stranger.send(start + chance.randbytes(chance.choice((0, 1, 100, 5000))))
                    # Without keys, libzmq takes what has no signature for a peer of the first ZMTP and keeps it.
                    if kind == "sealed" and channel is s.Channel.CONTROL:
                        await asyncio.wait_for(stranger.hung_up(), HANDSHAKE_MS / 1000 + 5)

            await asyncio.gather(*(attack(start) for start in starts * 3))
            await check_served(a, b)

    run(scenario())


@KINDS
def test_a_foreign_protocol_is_named(kind: str) -> None:
    async def scenario() -> None:
        async with World(kind) as world:
            b = await world.make(1)
            async with Stranger(b.link.address.control_port) as stranger:
                await stranger.send(greeting(b"PLAIN") + bytes(200))
                refused = await b.inbox.until(PeerRefused)
                assert refused.reason and refused.hint

    run(scenario())


def attacks(chance: random.Random) -> list[bytes]:
    """Frames of one arrival: noise, real messages with changed bytes, too few and too many frames."""
    found = [frame(b"")]
    for _ in range(200):
        raw = bytearray(s.encode(chance.choice(VALID)))
        for _ in range(chance.randint(0, 3)):
            raw[chance.randrange(len(raw))] = chance.randrange(256)
        payload = chance.randbytes(chance.choice((0, 63, 64, 65, 4096)))
        found.append(frame(chance.randbytes(chance.randint(0, 200))))
        found.append(frame(bytes(raw)))
        found.append(frame(bytes(raw), more=True) + frame(payload))
        found.append(frame(bytes(raw), more=True) + frame(payload, more=True) + frame(b""))
    found.append(frame(bytes(MESSAGE_BYTES_MAX + 1)))
    return found


@BOTH
@pytest.mark.parametrize("seed", range(3))
def test_any_frames_are_a_message_or_a_named_refusal(channel: s.Channel, seed: int) -> None:
    sent = attacks(random.Random(seed))

    async def scenario() -> None:
        async with World("plain") as world:
            a, b = await world.pair()
            async with Stranger(port_of(b, channel)) as stranger:
                await stranger.greet(TYPES[channel])
                sending = asyncio.create_task(stranger.send(b"".join(sent)))
                got: list[LinkEvent] = [await b.inbox.next() for _ in sent]
                assert await sending
            for event in got:
                assert isinstance(event, BadMessage | Received), event
                assert event.channel is channel
                if isinstance(event, BadMessage):
                    assert isinstance(event.error, WireError) and str(event.error).isprintable()
                else:
                    assert s.decode(s.encode(event.message), channel) == event.message
                    size = None if event.payload is None else len(event.payload)
                    assert s.payload_bytes(event.message) == size
            await check_served(a, b)

    run(scenario())


@BOTH
def test_an_oversized_frame_ends_its_connection_unread(channel: s.Channel) -> None:
    async def scenario() -> None:
        async with World("plain") as world:
            a, b = await world.pair()
            before = resident_bytes()
            for size in (PART_BYTES_MAX + 65, 1 << 40, (1 << 64) - 1):
                async with Stranger(port_of(b, channel)) as stranger:
                    await stranger.greet(TYPES[channel])
                    await stranger.send(frame_header(size))
                    await stranger.hung_up()
            assert resident_bytes() - before < MEMORY_BYTES_MAX
            await check_served(a, b)

    run(scenario())


@BOTH
def test_a_flood_that_nobody_reads_is_stopped_by_the_marks(channel: s.Channel) -> None:
    message = frame(bytes(60_000))

    async def scenario() -> None:
        async with World("plain") as world:
            _, b = await world.pair()
            before = resident_bytes()
            async with Stranger(port_of(b, channel)) as stranger:
                await stranger.greet(TYPES[channel])
                with pytest.raises(asyncio.TimeoutError):
                    for _ in range(10_000):
                        await asyncio.wait_for(stranger.send(message), 0.5)
                assert resident_bytes() - before < MEMORY_BYTES_MAX

    run(scenario())


@BOTH
def test_a_flood_that_is_read_leaves_the_loop_to_others(channel: s.Channel) -> None:
    message = frame(b"\xc1") * 500

    async def scenario() -> None:
        async with World("plain") as world:
            a, b = await world.pair()
            async with Stranger(port_of(b, channel)) as stranger:
                await stranger.greet(TYPES[channel])

                async def flood() -> None:
                    while await stranger.send(message):
                        pass

                turns = 0

                async def take_turns() -> None:
                    nonlocal turns
                    while True:
                        turns += 1
                        await asyncio.sleep(0)

                others = [asyncio.create_task(flood()), asyncio.create_task(take_turns())]
                seen: list[int] = []
                while len(seen) < 200:
                    if isinstance(await b.inbox.next(), BadMessage):
                        seen.append(turns)
                for other in others:
                    other.cancel()
                assert all(earlier < later for earlier, later in pairwise(seen)), "somebody was kept waiting"
            await check_served(a, b)

    run(scenario())


def test_strangers_that_come_and_go_leave_nothing_behind() -> None:
    """Events that nobody reads do not pile up either."""

    async def scenario() -> None:
        async with World("plain") as world:
            link = ZmqLink(LinkConfig("host-b", "127.0.0.1"))
            b = await world.adopt(link)
            fds = len(list(Path("/proc/self/fd").iterdir()))
            for _ in range(300):
                async with Stranger(b.link.address.control_port) as stranger:
                    await stranger.send(b"\x00" * 64)
                    await stranger.hung_up()
            inbox = Inbox(link)
            while not isinstance(await inbox.next(), PeerRefused | PeerLeft):
                pass
            assert len(list(Path("/proc/self/fd").iterdir())) <= fds + 5

    run(scenario())


def test_events_that_come_while_a_monitor_ends_block_nobody() -> None:
    """libzmq's I/O thread holds a lock while it waits for room or for a receiver."""

    async def scenario() -> None:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        listener = context.socket(zmq.ROUTER)
        port = listener.bind_to_random_port("tcp://127.0.0.1")
        ending = threading.Event()
        storm = threading.Thread(target=send_strangers, args=(port, ending))
        storm.start()
        try:
            for _ in range(MONITORS):
                heard = asyncio.Event()
                monitor = Monitor(listener, lambda event, value, heard=heard: heard.set())
                await heard.wait()
                monitor.close()
        finally:
            ending.set()
            storm.join()
            context.destroy(linger=0)

    run(scenario())


def send_strangers(port: int, ending: threading.Event) -> None:
    while not ending.is_set():
        with socket.create_connection(("127.0.0.1", port)) as stranger:
            stranger.sendall(b"\xff" + bytes(200))
            # One after the other: a full backlog would make us wait for seconds.
            with contextlib.suppress(ConnectionError):
                while stranger.recv(4096):
                    pass
