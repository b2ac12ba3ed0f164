"""The relay does the harm it is told to, and none else. Real sockets on loopback."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from replicator.drill.actors.relay import (
    DAMAGED_BYTES_MIN,
    FLIP,
    FRAMES,
    NO_CHANNEL,
    PORTS,
    TRUNCATE,
    Harm,
    Relay,
    obey,
)

BASE = 18_300
TARGET = BASE + 10
PIECE = bytes(range(256)) * 8
#: A piece that no harm is done to.
SHORT = PIECE[: DAMAGED_BYTES_MIN - 1]


class Far:
    """Listens where the relay leads to; keeps what came and answers each line."""

    def __init__(self) -> None:
        self.heard: dict[int, bytes] = {}
        self.ended = asyncio.Event()
        self._servers: list[asyncio.Server] = []

    async def start(self) -> None:
        for channel in range(PORTS):

            async def serve(reader, writer, channel=channel):
                try:
                    while piece := await reader.read(65536):
                        self.heard[channel] = self.heard.get(channel, b"") + piece
                        writer.write(b"heard\n")
                except ConnectionError:
                    pass
                finally:
                    self.ended.set()
                    writer.close()

            self._servers.append(await asyncio.start_server(serve, "127.0.0.1", TARGET + channel))

    def stop(self) -> None:
        for server in self._servers:
            server.close()


def with_relay(scenario: Callable[[Relay, Harm, Far], Awaitable[None]]) -> None:
    async def run() -> None:
        far, harm = Far(), Harm()
        relay = Relay(BASE, ("127.0.0.1", TARGET), harm)
        await far.start()
        await relay.listen()
        try:
            await scenario(relay, harm, far)
        finally:
            await relay.reject()
            far.stop()

    asyncio.run(asyncio.wait_for(run(), 20))


async def say(channel: int, data: bytes) -> asyncio.StreamReader:
    reader, writer = await asyncio.open_connection("127.0.0.1", BASE + channel)
    writer.write(data)
    await writer.drain()
    # Held open by the reader's transport until the loop ends.
    reader.writer = writer  # type: ignore[attr-defined]
    return reader


@pytest.mark.parametrize("channel", range(PORTS))
def test_what_is_said_arrives_and_is_answered(channel):
    async def scenario(relay, harm, far):
        reader = await say(channel, PIECE)
        assert await reader.readline() == b"heard\n"
        assert far.heard == {channel: PIECE}

    with_relay(scenario)


def test_one_bit_of_one_piece_of_bulk_is_flipped():
    async def scenario(relay, harm, far):
        await obey(relay, harm, {"damage": FLIP, "seed": 3})
        await (await say(1, PIECE)).readline()
        assert far.heard[1] == PIECE
        await (await say(0, SHORT)).readline()
        assert far.heard[0] == SHORT
        await (await say(0, PIECE)).readline()
        got = far.heard[0][len(SHORT) :]
        assert sum((x ^ y).bit_count() for x, y in zip(got, PIECE, strict=True)) == 1
        await (await say(0, PIECE)).readline()
        assert far.heard[0].endswith(PIECE)

    with_relay(scenario)


def test_a_truncated_piece_ends_its_connection():
    async def scenario(relay, harm, far):
        await obey(relay, harm, {"damage": TRUNCATE})
        reader = await say(0, PIECE)
        await far.ended.wait()
        assert far.heard[0] == PIECE[: len(PIECE) // 2]
        await reader.read()  # ends

    with_relay(scenario)


def test_rejected_connections_are_reset_and_new_ones_refused_until_it_is_over():
    async def scenario(relay, harm, far):
        reader = await say(1, b"hello\n")
        await reader.readline()
        await obey(relay, harm, {"reject": True})
        with pytest.raises(ConnectionResetError):
            await reader.read()
        with pytest.raises(ConnectionRefusedError):
            await say(1, b"hello\n")
        await obey(relay, harm, {"reject": False})
        assert await (await say(1, b"hello\n")).readline() == b"heard\n"

    with_relay(scenario)


def test_connections_of_one_port_are_reset_and_come_again():
    async def scenario(relay, harm, far):
        frames, control = await say(FRAMES, b"hello\n"), await say(1, b"hello\n")
        for reader in (frames, control):
            await reader.readline()
        await obey(relay, harm, {"reset": FRAMES})
        with pytest.raises(ConnectionResetError):
            await frames.read()
        assert await (await say(FRAMES, b"hello\n")).readline() == b"heard\n"
        control.writer.write(b"again\n")
        assert await control.readline() == b"heard\n"

    with_relay(scenario)


def test_a_stalled_port_carries_nothing_and_loses_nothing():
    async def scenario(relay, harm, far):
        await obey(relay, harm, {"stall": FRAMES})
        reader = await say(FRAMES, PIECE)
        # The other ports go on, and what they carry comes later than this could have.
        for _ in range(3):
            assert await (await say(1, b"hello\n")).readline() == b"heard\n"
        assert FRAMES not in far.heard
        await obey(relay, harm, {"stall": NO_CHANNEL})
        assert await reader.readline() == b"heard\n"
        assert far.heard[FRAMES] == PIECE

    with_relay(scenario)


def test_a_slow_link_is_slow_each_way_and_loses_nothing():
    async def scenario(relay, harm, far):
        await obey(relay, harm, {"delay_ms": 30, "bytes_per_s": 1_000_000})
        began = time.monotonic()
        reader = await say(0, PIECE * 50)
        assert await reader.readline() == b"heard\n"
        assert time.monotonic() - began > 0.06
        while len(far.heard[0]) < len(PIECE) * 50:
            await reader.readline()
        assert far.heard[0] == PIECE * 50
        assert time.monotonic() - began > len(PIECE) * 50 / 1_000_000

    with_relay(scenario)


def test_nobody_behind_it_looks_like_nobody():
    async def scenario(relay, harm, far):
        far.stop()
        reader, writer = await asyncio.open_connection("127.0.0.1", BASE)
        writer.write(PIECE)
        with pytest.raises(ConnectionError):
            assert await reader.read() != b"", "ended in order, not by a reset"
        writer.close()

    with_relay(scenario)
