"""A primary that cannot be followed here is told why."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from replicator.link import BadMessage, LinkConfig, LinkUp, MemoryLink, MemoryNetwork, Received
from replicator.service.turn_away import turn_away, why_turned_away
from replicator.wire import session as wire

GUEST = wire.GuestRecord("web", "", 1 << 20, ((0, 0, 256),), "synthetic")
HELLO = wire.Hello(wire.PROTOCOL_VERSION, "host-a", GUEST, 1, bytes(16), 2)


def other_version(channel: wire.Channel = wire.Channel.CONTROL) -> BadMessage:
    return BadMessage(channel, b"a", wire.OtherVersion(7))


def test_who_is_turned_away_and_why() -> None:
    hello = Received(wire.Channel.CONTROL, b"a", HELLO, None)
    assert why_turned_away(hello, runs_guest=False) is None
    code, detail = why_turned_away(hello, runs_guest=True) or ("", "")
    assert code == wire.Refusal.NOT_SECONDARY and "`replicator secondary`" in detail
    for runs_guest in (True, False):
        code, detail = why_turned_away(other_version(), runs_guest=runs_guest) or ("", "")
        assert code == wire.Refusal.WRONG_VERSION
        assert "protocol version 7" in detail and "same release" in detail
        assert why_turned_away(other_version(wire.Channel.BULK), runs_guest=runs_guest) is None
        assert why_turned_away(LinkUp(), runs_guest=runs_guest) is None


def test_the_reason_arrives() -> None:
    async def scenario() -> None:
        network = MemoryNetwork()
        a, b = (MemoryLink(LinkConfig(name, "127.0.0.1"), network) for name in ("host-a", "host-b"))
        await a.start()
        await b.start()
        await a.connect(b.address)
        assert await anext(aiter(a.received())) == LinkUp()
        await a.send(replace(HELLO, term=5))
        event = await anext(aiter(b.received()))
        assert isinstance(event, Received)
        away = why_turned_away(event, runs_guest=True)
        assert away is not None
        await turn_away(b, "host-b", event.peer_id, away, 4)
        answer = await anext(aiter(a.received()))
        assert isinstance(answer, Received) and isinstance(answer.message, wire.HelloReply)
        assert (answer.message.accepted, answer.message.refusal) == (False, wire.Refusal.NOT_SECONDARY)
        await a.disconnect()
        assert not isinstance(await anext(aiter(b.received())), Received)
        # Nobody is left to be told: that is no error of ours.
        await turn_away(b, "host-b", event.peer_id, away, 4)
        await a.close()
        await b.close()

    asyncio.run(asyncio.wait_for(scenario(), 20))
