"""What the link's tests share: messages, and links that are closed whatever happens."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Self, TypeVar

import zmq

from replicator.link import (
    Keys,
    Link,
    LinkConfig,
    LinkEvent,
    LinkUp,
    MemoryLink,
    MemoryNetwork,
    Received,
    ZmqLink,
)
from replicator.link.sealing import BulkKeys, derive_keys
from replicator.wire import session as s

_T = TypeVar("_T")

SESSION = bytes(range(16))
DIGEST = bytes(16)
TIMEOUT_S = 20.0
GUEST = s.GuestRecord("redis", "", 1 << 20, ((0, 0, 256),), "synthetic")
HELLO = s.Hello(s.PROTOCOL_VERSION, "host-a", GUEST, 1, SESSION, 2, share=bytes(range(32)))
ANSWER = s.KeyShare(HELLO.share, bytes(range(32, 64)))
BEGIN = s.EpochBegin(SESSION, 1, 1, base=0)
REPLY = s.HelloReply("host-b", True, "", "", 1, s.NO_SESSION, 0, s.NO_DIGEST)


def part(index: int, size: int, epoch: int = 1) -> s.EpochPart:
    return s.EpochPart(SESSION, epoch, index, size)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    """Run one test's coroutine; a test that waits for what never comes fails instead of hanging."""

    async def bounded() -> None:
        await asyncio.wait_for(scenario, TIMEOUT_S)

    asyncio.run(bounded())


def keypair() -> Keys:
    public, secret = zmq.curve_keypair()
    return Keys(public.decode(), secret.decode())


def acquainted() -> tuple[Keys, Keys]:
    a, b = keypair(), keypair()
    return replace(a, allowed=frozenset({b.public})), replace(b, allowed=frozenset({a.public}))


class Inbox:
    """Reads a link's events one at a time, so that a test can also leave them unread."""

    def __init__(self, link: Link) -> None:
        self._events = link.received().__aiter__()

    async def next(self) -> LinkEvent:
        return await anext(self._events)

    async def until(self, kind: type[_T]) -> _T:
        """The next event of this kind; others before it are dropped."""
        while not isinstance(event := await self.next(), kind):
            pass
        return event

    async def message(self, kind: type[_T]) -> tuple[_T, Received]:
        """The next event, which must be a message of this kind."""
        event = await self.next()
        assert isinstance(event, Received), event
        assert isinstance(event.message, kind), event
        return event.message, event


@dataclass
class Side:
    """One daemon's link and its events."""

    link: Link
    inbox: Inbox
    #: Who said hello, where a test needs it later.
    hello_from: bytes = b""


#: Kinds of links: what is in memory, what has keys.
KINDS = ("memory", "sealed memory", "plain", "sealed")
IN_MEMORY = ("memory", "sealed memory")
SEALED = ("sealed memory", "sealed")


def agree(a: Side, b: Side, share: bytes = ANSWER.share) -> BulkKeys | None:
    """What a greeting leads to, if the links have keys."""
    if not a.link.sealed:
        return None
    keys = derive_keys(HELLO, share)
    b.link.open_bulk(keys)
    a.link.seal_bulk(keys)
    return keys


class World:
    """Makes links of one kind and closes them all at the end."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.network = MemoryNetwork()
        self.keys = acquainted() if kind in SEALED else (None, None)
        self._open: list[Link] = []

    async def make(self, which: int, **ports: int) -> Side:
        """Start the first (0) or second (1) daemon's link."""
        config = LinkConfig(f"host-{'ab'[which]}", "127.0.0.1", keys=self.keys[which], **ports)
        return await self.adopt(
            MemoryLink(config, self.network) if self.kind in IN_MEMORY else ZmqLink(config)
        )

    async def adopt(self, link: Link) -> Side:
        await link.start()
        self._open.append(link)
        return Side(link, Inbox(link))

    async def pair(self) -> tuple[Side, Side]:
        """Two links, the first connected to the second, and bulk may travel."""
        a, b = await self.make(0), await self.make(1)
        await a.link.connect(b.link.address)
        assert await a.inbox.next() == LinkUp()
        agree(a, b)
        return a, b

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for link in self._open:
            await link.close()


@contextmanager
def socket_that_listens() -> Iterator[int]:
    """A TCP port that accepts and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
