"""From sending an epoch to its ack over loopback TCP: the link without keys, with sealed bulk messages, and with CURVE on
the bulk socket instead, beside a bare socket and pyzmq's own asyncio face.

    python benchmarks/link.py [--rounds 200]

Each candidate sends parts of 1 MiB to a process of its own, which answers the last one. The bare socket is what the
kernel allows; the secondary's work on an epoch is not in it (see pair.py).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import socket
import statistics
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial

import zmq
import zmq.asyncio
from tools import show, time_rounds

from replicator.link import Keys, LinkConfig, LinkUp, PeerAddress, Received, ZmqLink
from replicator.link.sealing import derive_keys
from replicator.wire import session as wire

SESSION = bytes(16)
PART_BYTES = 1 << 20
#: Next to nothing, small, what a 50 ms epoch of a busy guest is, larger ones, and enough for the throughput.
EPOCH_BYTES = (4 << 10, 64 << 10, 640 << 10, 1 << 20, 4 << 20, 64 << 20)
GUEST = wire.GuestRecord("bench", "", 1 << 20, ((0, 0, 256),), "synthetic")
SHARES = bytes(range(32)), bytes(range(32, 64))
HELLO = wire.Hello(wire.PROTOCOL_VERSION, "a", GUEST, 1, SESSION, 2, share=SHARES[0])
ACK = wire.Ack(SESSION, 1, bytes(16))
LENGTH = struct.Struct("<Q")
HOST = "127.0.0.1"

UNSEALED, SEALED, CURVE = "the link, unsealed", "the link, sealed", "the link, CURVE"


class CurveConfig(LinkConfig):
    """With CURVE on all three channels."""

    @property
    def sealed(self) -> bool:
        return False


Send = Callable[[list[bytes]], Awaitable[None]]


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server((HOST, 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def make_keys() -> tuple[Keys, Keys]:
    pairs = [tuple(key.decode() for key in zmq.curve_keypair()) for _ in range(2)]
    (a, a_secret), (b, b_secret) = pairs
    return Keys(a, a_secret, frozenset({b})), Keys(b, b_secret, frozenset({a}))


@contextlib.contextmanager
def process(serve: Callable[[], Awaitable[None]]) -> Iterator[None]:
    pid = os.fork()
    if pid == 0:
        try:
            asyncio.run(serve())  # type: ignore[arg-type]
        finally:
            os._exit(1)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


# The link.


async def serve_link(ports: list[int], keys: Keys | None, config: type[LinkConfig] = LinkConfig) -> None:
    link = ZmqLink(config("b", HOST, *ports, keys=keys))
    await link.start()
    peer = b""
    async for event in link.received():
        if isinstance(event, Received) and isinstance(event.message, wire.Hello):
            peer = event.peer_id
            if link.sealed:
                link.open_bulk(derive_keys(event.message, SHARES[1]))
            await link.reply(peer, wire.HelloReply("b", True, "", "", 1, SESSION, 0, bytes(16)))
        elif isinstance(event, Received) and isinstance(event.message, wire.EpochEnd):
            await link.reply(peer, ACK)


@contextlib.asynccontextmanager
async def open_link(
    ports: list[int], keys: Keys | None, public: str, config: type[LinkConfig] = LinkConfig
) -> AsyncIterator[Send]:
    link = ZmqLink(config("a", HOST, keys=keys))
    await link.start()
    events = aiter(link.received())
    await link.connect(PeerAddress(HOST, *ports, public))
    while await anext(events) != LinkUp():
        pass
    await link.send(HELLO)
    await anext(events)
    if link.sealed:
        link.seal_bulk(derive_keys(HELLO, SHARES[1]))

    async def send(parts: list[bytes]) -> None:
        await link.send_bulk(wire.EpochBegin(SESSION, 1, 1, 0))
        for index, part in enumerate(parts):
            await link.send_bulk(wire.EpochPart(SESSION, 1, index, len(part)), part)
        total = sum(map(len, parts))
        await link.send_bulk(wire.EpochEnd(SESSION, 1, len(parts), total, bytes(16), 0))
        await anext(events)

    yield send
    await link.close()


# pyzmq's asyncio sockets.


async def serve_asyncio(ports: list[int]) -> None:
    context = zmq.asyncio.Context()
    bulk, control = context.socket(zmq.PULL), context.socket(zmq.ROUTER)
    bulk.bind(f"tcp://{HOST}:{ports[0]}")
    control.bind(f"tcp://{HOST}:{ports[1]}")
    peer, _ = await control.recv_multipart()
    await control.send_multipart([peer, b"hello"])
    while True:
        frames = await bulk.recv_multipart(copy=False)
        if frames[0].bytes == b"end":
            await control.send_multipart([peer, b"ack"])


@contextlib.asynccontextmanager
async def open_asyncio(ports: list[int]) -> AsyncIterator[Send]:
    context = zmq.asyncio.Context()
    bulk, control = context.socket(zmq.PUSH), context.socket(zmq.DEALER)
    bulk.connect(f"tcp://{HOST}:{ports[0]}")
    control.connect(f"tcp://{HOST}:{ports[1]}")
    await control.send(b"hello")
    await control.recv()

    async def send(parts: list[bytes]) -> None:
        await bulk.send(b"begin")
        for part in parts:
            await bulk.send_multipart([b"part", part], copy=False)
        await bulk.send(b"end")
        await control.recv()

    yield send
    context.destroy(linger=0)


# A bare socket.


async def serve_socket(port: int) -> None:
    server = socket.create_server((HOST, port))
    connection, _ = server.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    buffer = bytearray(max(EPOCH_BYTES))
    while True:
        (left,) = LENGTH.unpack(connection.recv(LENGTH.size, socket.MSG_WAITALL))
        while left:
            left -= connection.recv_into(buffer, min(left, len(buffer)))
        connection.sendall(b"ack")


@contextlib.asynccontextmanager
async def open_socket(port: int) -> AsyncIterator[Send]:
    while True:
        try:
            connection = socket.create_connection((HOST, port))
            break
        except ConnectionRefusedError:
            await asyncio.sleep(0.01)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def send(parts: list[bytes]) -> None:
        connection.sendall(LENGTH.pack(sum(map(len, parts))))
        for part in parts:
            connection.sendall(part)
        connection.recv(3, socket.MSG_WAITALL)

    yield send
    connection.close()


def measure(rounds: int) -> None:
    ports = free_ports(12)
    keys_a, keys_b = make_keys()
    servers = [
        partial(serve_socket, ports[0]),
        partial(serve_asyncio, ports[1:3]),
        partial(serve_link, ports[3:6], None),
        partial(serve_link, ports[6:9], keys_b),
        partial(serve_link, ports[9:12], keys_b, CurveConfig),
    ]
    with contextlib.ExitStack() as processes, asyncio.Runner() as runner:
        for serve in servers:
            processes.enter_context(process(serve))
        opened = contextlib.AsyncExitStack()

        async def open_all() -> dict[str, Send]:
            return {
                "bare socket": await opened.enter_async_context(open_socket(ports[0])),
                "pyzmq's asyncio sockets": await opened.enter_async_context(open_asyncio(ports[1:3])),
                UNSEALED: await opened.enter_async_context(open_link(ports[3:6], None, "")),
                SEALED: await opened.enter_async_context(open_link(ports[6:9], keys_a, keys_b.public)),
                CURVE: await opened.enter_async_context(
                    open_link(ports[9:12], keys_a, keys_b.public, CurveConfig)
                ),
            }

        senders = runner.run(open_all())
        for size in EPOCH_BYTES:
            measure_size(runner, senders, size, rounds)
        runner.run(opened.aclose())


def measure_size(runner: asyncio.Runner, senders: dict[str, Send], size: int, rounds: int) -> None:
    parts = [os.urandom(min(PART_BYTES, size - at)) for at in range(0, size, PART_BYTES)]

    def run(send: Send) -> None:
        runner.run(send(parts))  # type: ignore[arg-type]

    steps = {name: partial(run, send) for name, send in senders.items()}
    times = time_rounds(steps, rounds)
    show(f"{size >> 10} KiB to its ack", times, size)
    unsealed, sealed, curve = (statistics.median(times[name]) for name in (UNSEALED, SEALED, CURVE))
    print(f"  sealed at {unsealed / sealed:.2f} of the unsealed speed, {curve / sealed:.2f} x CURVE's")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=200)
    measure(parser.parse_args().rounds)


if __name__ == "__main__":
    main()
