"""A relay between the daemons, in user space: it forwards their TCP ports, and does harm when it is told to.

    python -m replicator.drill.actors.relay ORDERS_SOCKET PORT TARGET_HOST TARGET_PORT

Listens on 127.0.0.1 from PORT on for bulk, control, heartbeat and frames, and connects to the same ports of the target. An
order is one JSON object a line over the unix socket, answered with `ok`; each key sets what is so from then on:

    delay_ms, bytes_per_s    of each connection and each way; 0: none, no limit
    reject                   true: connections are reset, new ones refused
    stall                    a port's number, from 0: nothing gets through there, and nothing is lost; -1: no port
    reset                    a port's number: its connections are reset once
    damage                   "flip": one bit of the next piece of an epoch is changed; "truncate": that piece is cut
                             in half and its connection ends; both once
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import socket
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: Bulk, control, heartbeat, and in COLO the guests' frames.
PORTS = 4
HOST = "127.0.0.1"
BULK = 0
FRAMES = 3
NO_CHANNEL = -1
FLIP, TRUNCATE = "flip", "truncate"
#: A shorter piece may be a handshake or a keep-alive. The sealed end of an epoch is larger, however little the guest has
#: changed.
DAMAGED_BYTES_MIN = 128
#: Of a byte, those that may be flipped: ZMTP ignores the others in the first byte of a frame.
_BITS = 3
_PIECE_BYTES = 1 << 18
_PIECES_WAITING = 64
_RESET = struct.pack("ii", 1, 0)


@dataclass(slots=True)
class Harm:
    """What is done to the traffic."""

    delay_ms: float = 0.0
    bytes_per_s: float = 0.0
    damage: str = ""
    stalled: int = NO_CHANNEL
    #: Nothing is stalled any more.
    flows: asyncio.Event = field(default_factory=asyncio.Event)
    rng: random.Random = field(default_factory=random.Random)

    def take_damage(self, channel: int, piece: bytes) -> str:
        """The damage that is due on this piece, which is thereby done."""
        if not self.damage or channel != BULK or len(piece) < DAMAGED_BYTES_MIN:
            return ""
        damage, self.damage = self.damage, ""
        return damage

    def stall(self, channel: int) -> None:
        self.stalled = channel
        self.flows.set() if channel == NO_CHANNEL else self.flows.clear()

    async def let_through(self, channel: int) -> None:
        if channel == self.stalled:
            await self.flows.wait()

    def flip(self, piece: bytes) -> bytes:
        changed = bytearray(piece)
        changed[self.rng.randrange(len(changed))] ^= 1 << self.rng.randrange(_BITS)
        return bytes(changed)


class Relay:
    """Forwards until it is ended."""

    def __init__(self, port: int, target: tuple[str, int], harm: Harm) -> None:
        self._port, self._target = port, target
        self._harm = harm
        self._listeners: list[asyncio.Server] = []
        #: Of both ways, and the channel that each belongs to.
        self._writers: dict[asyncio.StreamWriter, int] = {}

    async def listen(self) -> None:
        for channel in range(PORTS):

            async def serve(
                reader: asyncio.StreamReader, writer: asyncio.StreamWriter, channel: int = channel
            ) -> None:
                await self._serve(channel, reader, writer)

            self._listeners.append(await asyncio.start_server(serve, HOST, self._port + channel))

    async def reject(self) -> None:
        """Reset what is connected; without listeners the kernel refuses what comes."""
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        for channel in range(PORTS):
            self.reset_channel(channel)

    def reset_channel(self, channel: int) -> None:
        for writer in [one for one, belongs in self._writers.items() if belongs == channel]:
            reset(writer)

    async def _serve(self, channel: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = self._target
        try:
            far_reader, far_writer = await asyncio.open_connection(host, port + channel)
        except OSError:
            reset(writer)
            return
        both = (writer, far_writer)
        self._writers.update(dict.fromkeys(both, channel))
        ways = [
            asyncio.create_task(self._forward(channel, reader, far_writer, is_back=False)),
            asyncio.create_task(self._forward(channel, far_reader, writer, is_back=True)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in both:
                self._writers.pop(one, None)
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for one in both:
                one.close()

    async def _forward(
        self, channel: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_back: bool
    ) -> None:
        """One way of one connection, until it ends."""
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_PIECES_WAITING)
        reading = asyncio.create_task(self._read(reader, pieces))
        writing = asyncio.create_task(self._write(channel, pieces, writer, is_back=is_back))
        try:
            await asyncio.wait({reading, writing}, return_when=asyncio.FIRST_COMPLETED)
            if not writing.done():
                await writing
        except OSError:
            return
        finally:
            reading.cancel()
            writing.cancel()
            await asyncio.gather(reading, writing, return_exceptions=True)

    async def _read(self, reader: asyncio.StreamReader, pieces: asyncio.Queue[tuple[float, bytes]]) -> None:
        """The last piece is empty, however the connection ended."""
        now = asyncio.get_running_loop().time
        with contextlib.suppress(OSError):
            while piece := await reader.read(_PIECE_BYTES):
                await pieces.put((now() + self._harm.delay_ms / 1000, piece))
        await pieces.put((now(), b""))

    async def _write(
        self,
        channel: int,
        pieces: asyncio.Queue[tuple[float, bytes]],
        writer: asyncio.StreamWriter,
        *,
        is_back: bool,
    ) -> None:
        now = asyncio.get_running_loop().time
        while True:
            due, piece = await pieces.get()
            if not piece:
                return
            # No epochs are on the way back.
            damage = "" if is_back else self._harm.take_damage(channel, piece)
            piece = self._harm.flip(piece) if damage == FLIP else piece
            piece = piece[: len(piece) // 2] if damage == TRUNCATE else piece
            rate = self._harm.bytes_per_s
            await asyncio.sleep(max(0.0, due - now()) + (len(piece) / rate if rate else 0.0))
            await self._harm.let_through(channel)
            writer.write(piece)
            await writer.drain()
            if damage == TRUNCATE:
                return


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection by RST."""
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


async def obey(relay: Relay, harm: Harm, order: dict[str, Any]) -> None:
    for key in ("delay_ms", "bytes_per_s", "damage"):
        if key in order:
            setattr(harm, key, order[key])
    if "seed" in order:
        harm.rng = random.Random(order["seed"])
    if "stall" in order:
        harm.stall(order["stall"])
    if "reset" in order:
        relay.reset_channel(order["reset"])
    if order.get("reject") is True:
        await relay.reject()
    elif order.get("reject") is False:
        await relay.listen()


async def run(orders: Path, port: int, target: tuple[str, int]) -> None:
    harm = Harm()
    relay = Relay(port, target, harm)
    await relay.listen()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            await obey(relay, harm, json.loads(line))
            writer.write(b"ok\n")
            await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(serve, path=str(orders))
    await server.serve_forever()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="replicator.drill.actors.relay", description="A relay that does harm."
    )
    parser.add_argument("orders", type=Path)
    parser.add_argument("port", type=int)
    parser.add_argument("target_host")
    parser.add_argument("target_port", type=int)
    options = parser.parse_args(arguments)
    asyncio.run(run(options.orders, options.port, (options.target_host, options.target_port)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
