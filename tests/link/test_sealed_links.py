"""Links with keys: bulk messages travel under keys that were agreed on for their connection, and under no others."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from link_tools import (
    BEGIN,
    HELLO,
    IN_MEMORY,
    SEALED,
    SESSION,
    Side,
    World,
    agree,
    part,
    run,
)
from sealing_tools import KEYS, make_sealer
from zmtp import Stranger, frame

from replicator.errors import InvariantError, TransportError
from replicator.limits import PART_BYTES_MAX
from replicator.link import BadMessage, LinkDown, LinkUp, MemoryLink, PeerRefused, Received, ZmqLink, bulk
from replicator.link.sealing import BulkKeys, ForeignMessage, Sealer, StreamBroken
from replicator.wire import session as s

EACH = pytest.mark.parametrize("kind", SEALED)
PAYLOAD = bytes(range(256)) * 300


def drops(side: Side) -> bulk.BulkDrops:
    assert isinstance(side.link, ZmqLink | MemoryLink)
    return side.link.drops


@EACH
def test_nothing_is_sent_before_there_are_keys(kind: str) -> None:
    async def scenario() -> None:
        async with World(kind) as world:
            a, b = await world.make(0), await world.make(1)
            with pytest.raises(TransportError, match="no"):
                a.link.seal_bulk(KEYS)
            await a.link.connect(b.link.address)
            assert await a.inbox.next() == LinkUp()
            with pytest.raises(TransportError, match="not agreed on keys"):
                await a.link.send_bulk(BEGIN)
            agree(a, b)
            await a.link.send_bulk(BEGIN)
            await b.inbox.message(s.EpochBegin)

    run(scenario())


@EACH
def test_keys_end_with_their_connection(kind: str) -> None:
    async def scenario() -> None:
        async with World(kind) as world:
            a, b = await world.pair()
            await a.link.disconnect()
            await a.link.connect(b.link.address)
            assert await a.inbox.until(LinkUp) == LinkUp()
            with pytest.raises(TransportError, match="not agreed on keys"):
                await a.link.send_bulk(BEGIN)

    run(scenario())


@EACH
def test_what_was_on_its_way_under_older_keys_is_dropped_silently(kind: str) -> None:
    """As after a second greeting on one connection, when nothing else tells the old from the new."""

    async def scenario() -> None:
        async with World(kind) as world:
            a, b = await world.pair()
            for index in range(3):
                await a.link.send_bulk(part(index, len(PAYLOAD)), PAYLOAD)
            agree(a, b, share=b"new".ljust(32))
            await a.link.send_bulk(BEGIN)
            await b.inbox.message(s.EpochBegin)
            assert (drops(b).stale, drops(b).foreign, drops(b).broken) == (3, 0, 0)

    run(scenario())


@EACH
def test_a_damaged_message_ends_the_key_and_says_so_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Damaging(Sealer):
        def seal(self, header: Any, payload: Any = None) -> Any:
            first, *rest = super().seal(header, payload)
            return [first, *rest] if payload is None else [first, bytes(len(payload) + 16)]

    async def scenario() -> None:
        async with World(kind) as world:
            monkeypatch.setattr(bulk, "Sealer", Damaging)
            a, b = await world.pair()
            await a.link.send_bulk(BEGIN)
            await b.inbox.message(s.EpochBegin)
            await a.link.send_bulk(part(0, len(PAYLOAD)), PAYLOAD)
            broken = await b.inbox.next()
            assert isinstance(broken, BadMessage) and isinstance(broken.error, StreamBroken)
            assert broken.breaks_bulk and broken.error.hint
            await a.link.send_bulk(part(1, len(PAYLOAD)), PAYLOAD)
            await a.link.send(HELLO)
            await b.inbox.message(s.Hello)
            # The next agreement makes it well.
            agree(a, b, share=b"new".ljust(32))
            await a.link.send_bulk(BEGIN)
            await b.inbox.message(s.EpochBegin)
            assert (drops(b).stale, drops(b).broken) == (1, 1)

    run(scenario())


@EACH
def test_a_sender_that_gave_up_leaves_no_gap(kind: str) -> None:
    async def scenario() -> None:
        async with World(kind) as world:
            a, b = await world.pair()
            payload = bytes(PART_BYTES_MAX)
            sent = 0
            with pytest.raises(TimeoutError):
                while True:
                    await asyncio.wait_for(a.link.send_bulk(part(sent, len(payload)), payload), 0.5)
                    sent += 1
            sending = asyncio.create_task(a.link.send_bulk(BEGIN))
            for _ in range(sent):
                await b.inbox.message(s.EpochPart)
            await b.inbox.message(s.EpochBegin)
            await sending

    run(scenario())


@EACH
def test_a_key_that_has_sealed_enough_makes_way_for_another_connection(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make_sealer_for_three(keys: BulkKeys, take_buffer: Any) -> Sealer:
        return Sealer(keys, take_buffer, messages_max=3)

    async def scenario() -> None:
        async with World(kind) as world:
            monkeypatch.setattr(bulk, "Sealer", make_sealer_for_three)
            a, b = await world.pair()
            for _ in range(3):
                await a.link.send_bulk(BEGIN)
                await b.inbox.message(s.EpochBegin)
            with pytest.raises(TransportError, match="as much as one key may"):
                await a.link.send_bulk(BEGIN)
            down = await a.inbox.next()
            assert isinstance(down, LinkDown) and "as much as one key may" in down.reason
            if kind in IN_MEMORY:
                # A link in memory dials again when its network settles.
                world.network.settle()
            assert await a.inbox.next() == LinkUp()
            agree(a, b, share=b"new".ljust(32))
            await a.link.send_bulk(BEGIN)
            await b.inbox.until(Received)

    run(scenario())


@pytest.mark.parametrize("kind", ["memory", "plain"])
def test_a_link_without_keys_takes_none(kind: str) -> None:
    async def scenario() -> None:
        async with World(kind) as world:
            a, b = await world.pair()
            assert not a.link.sealed
            for give in (a.link.seal_bulk, b.link.open_bulk):
                with pytest.raises(InvariantError, match="not sealed"):
                    give(KEYS)

    run(scenario())


# Strangers at the bulk port, which lets everybody connect.


async def say(stranger: Stranger, *messages: list[Any]) -> None:
    for frames in messages:
        for number, one in enumerate(frames, 1):
            await stranger.send(frame(bytes(one), more=number < len(frames)))


def test_what_a_stranger_says_reaches_nobody_and_harms_nobody() -> None:
    """Plain messages, noise, and sealed ones under keys of his own; between two messages of the real peer."""
    other = BulkKeys(bytes(32), bytes(8))
    sayings: list[list[Any]] = [
        [s.encode(BEGIN)],
        [s.encode(part(0, 5)), b"hello"],
        [b""],
        [bytes(400)],
        [b"1", b"2", b"3"],
        make_sealer(other).seal(s.encode(BEGIN)),
    ]

    async def scenario() -> None:
        async with World("sealed") as world:
            a, b = await world.pair()
            await a.link.send_bulk(BEGIN)
            await b.inbox.message(s.EpochBegin)
            async with Stranger(b.link.address.bulk_port) as stranger:
                await stranger.greet(b"PUSH")
                await say(stranger, *sayings)
                for _ in sayings:
                    event = await b.inbox.next()
                    assert isinstance(event, BadMessage) and isinstance(event.error, ForeignMessage)
                    assert not event.breaks_bulk
            await a.link.send_bulk(part(0, len(PAYLOAD)), PAYLOAD)
            _, event = await b.inbox.message(s.EpochPart)
            assert event.payload == PAYLOAD
            assert drops(b).foreign == len(sayings)

    run(scenario())


def test_a_listener_who_repeats_what_he_heard_reaches_nobody() -> None:
    """He knows the key's id and so can end the key, as he could end the connection; no message counts twice."""

    async def scenario() -> None:
        async with World("sealed") as world:
            a, b = await world.pair()
            await a.link.send_bulk(BEGIN)
            await b.inbox.message(s.EpochBegin)
            async with Stranger(b.link.address.bulk_port) as stranger:
                await stranger.greet(b"PUSH")
                await say(stranger, make_sealer().seal(s.encode(BEGIN)))
                event = await b.inbox.next()
                assert isinstance(event, BadMessage) and event.breaks_bulk
            agree(a, b, share=b"new".ljust(32))
            await a.link.send_bulk(s.EpochEnd(SESSION, 1, 1, 1, bytes(16), 0))
            await b.inbox.message(s.EpochEnd)

    run(scenario())


def test_a_stranger_who_floods_the_port_does_not_stall_the_peer() -> None:
    async def scenario() -> None:
        async with World("sealed") as world:
            a, b = await world.pair()
            async with Stranger(b.link.address.bulk_port) as stranger:
                await stranger.greet(b"PUSH")

                async def flood() -> None:
                    while await stranger.send(frame(bytes(50_000)) * 10):
                        pass

                async def send() -> None:
                    for index in range(50):
                        await a.link.send_bulk(part(index, len(PAYLOAD)), PAYLOAD)

                tasks = [asyncio.create_task(flood()), asyncio.create_task(send())]
                for index in range(50):
                    received = await b.inbox.until(Received)
                    assert received.message == part(index, len(PAYLOAD))
                    assert received.payload == PAYLOAD
                assert drops(b).foreign and not drops(b).broken
                for task in tasks:
                    task.cancel()

    run(scenario())


def test_an_address_that_showed_no_key_is_not_let_in() -> None:
    async def scenario() -> None:
        async with World("sealed") as world:
            a, b = await world.pair()
            async with Stranger(b.link.address.bulk_port, source="127.0.0.2") as stranger:
                with contextlib.suppress(asyncio.IncompleteReadError):
                    await stranger.greet(b"PUSH")
                await stranger.hung_up()
            refused = await b.inbox.until(PeerRefused)
            assert refused.channel is s.Channel.BULK and "127.0.0.2" in refused.reason
            await a.link.send_bulk(BEGIN)
            await b.inbox.message(s.EpochBegin)
            assert drops(b).foreign == 0

    run(scenario())
