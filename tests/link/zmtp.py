"""A stranger who speaks zeromq's protocol (ZMTP 3.0) by hand, so that he can also break it."""

from __future__ import annotations

import asyncio
import struct
from typing import Self

MORE, LONG, COMMAND = 1, 2, 4


def greeting(mechanism: bytes = b"NULL") -> bytes:
    return b"\xff" + bytes(8) + b"\x7f\x03\x00" + mechanism.ljust(20, b"\0") + b"\0" + bytes(31)


def ready(socket_type: bytes) -> bytes:
    properties = b"\x05READY" + _property(b"Socket-Type", socket_type) + _property(b"Identity", b"")
    return bytes([COMMAND, len(properties)]) + properties


def _property(name: bytes, value: bytes) -> bytes:
    return bytes([len(name)]) + name + struct.pack(">I", len(value)) + value


def frame(data: bytes, *, more: bool = False) -> bytes:
    flags = MORE if more else 0
    if len(data) < 256:
        return bytes([flags, len(data)]) + data
    return bytes([flags | LONG]) + struct.pack(">Q", len(data)) + data


def frame_header(size: int) -> bytes:
    """The start of a frame that says it is so long."""
    return bytes([LONG]) + struct.pack(">Q", size)


class Stranger:
    """A TCP connection. `send` ignores that the other side hung up; `hung_up` waits for that."""

    def __init__(self, port: int, *, source: str = "127.0.0.1") -> None:
        self._port = port
        self._source = source

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection(
            "127.0.0.1", self._port, local_addr=(self._source, 0)
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.transport.abort()

    async def send(self, data: bytes) -> bool:
        """False when the connection is gone."""
        self._writer.write(data)
        try:
            await self._writer.drain()
        except ConnectionError:
            return False
        return True

    async def greet(self, socket_type: bytes) -> None:
        """Up to where messages may follow. Each step waits for the other side's, as libzmq expects it."""
        await self.send(greeting())
        await self._reader.readexactly(len(greeting()))
        await self.send(ready(socket_type))
        _, size = await self._reader.readexactly(2)
        await self._reader.readexactly(size)

    async def hung_up(self) -> None:
        """Return when the other side has ended the connection."""
        try:
            while await self._reader.read(65536):
                pass
        except ConnectionError:
            pass
