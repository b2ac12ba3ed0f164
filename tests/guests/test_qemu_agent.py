"""The conversation with a guest agent: right with an honest one, and never more than an error with any other."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicator.errors import GuestError
from replicator.guests import qemu_agent
from replicator.guests.qemu_agent import ANSWER_BYTES_MAX, SENTINEL, AgentChannel, parse_answer

#: What an agent says to a command; None: nothing at all.
Says = Callable[[dict[str, object]], bytes | None]


def returning(value: object) -> bytes:
    return json.dumps({"return": value}).encode() + b"\n"


class Agent:
    """The guest's end of the channel. It syncs as the real one does; what it says to the rest is the test's."""

    def __init__(self, says: Says, before_sync: bytes = b"") -> None:
        self._says = says
        self._before_sync = before_sync
        self.heard: list[dict[str, object]] = []

    async def serve(self, sock: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=sock)
        with contextlib.suppress(ConnectionError):
            await self._answer(reader, writer)
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self._before_sync)
        async for line in reader:
            command = json.loads(line.lstrip(SENTINEL))
            self.heard.append(command)
            if command["execute"] == "guest-sync-delimited":
                writer.write(SENTINEL + returning(command["arguments"]["id"]))
            elif (said := self._says(command)) is not None:
                writer.write(said)


@contextlib.asynccontextmanager
async def talking_to(agent: Agent) -> AsyncIterator[AgentChannel]:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    channel, serving = AgentChannel(ours), asyncio.create_task(agent.serve(theirs))
    try:
        yield channel
    finally:
        channel.close()
        await asyncio.wait_for(serving, 10)


def converse(agent: Agent, talk: Callable[[AgentChannel], Awaitable[object]]) -> object:
    async def run() -> object:
        async with talking_to(agent) as channel:
            return await talk(channel)

    return asyncio.run(run())


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu_agent, "ANSWER_TIMEOUT_S", 0.05)


def test_time_is_read_and_set() -> None:
    agent = Agent(lambda command: returning(17) if command["execute"] == "guest-get-time" else returning({}))

    async def talk(channel: AgentChannel) -> int:
        await channel.sync()
        await channel.set_time(42)
        return await channel.read_time()

    assert converse(agent, talk) == 17
    assert agent.heard[1:] == [
        {"execute": "guest-set-time", "arguments": {"time": 42}},
        {"execute": "guest-get-time"},
    ]


@pytest.mark.parametrize(
    "leftover",
    [
        b'{"return": 17}\n',
        b'{"return": 17',
        b'{"error": {"desc": "JSON parse error"}}\n',
        SENTINEL + returning(17),
        SENTINEL + b"no json\n",
        SENTINEL + SENTINEL + b"\n",
    ],
)
def test_what_is_left_of_an_earlier_conversation_is_dropped(leftover: bytes) -> None:
    async def talk(channel: AgentChannel) -> int:
        await channel.sync()
        return await channel.read_time()

    assert converse(Agent(lambda _: returning(5), leftover), talk) == 5


def test_each_sync_has_a_number_of_its_own() -> None:
    agent = Agent(lambda _: None)

    async def talk(channel: AgentChannel) -> None:
        await channel.sync()
        await channel.sync()

    converse(agent, talk)
    first, second = (command["arguments"] for command in agent.heard)
    assert first != second


@pytest.mark.parametrize("time", ["now", None, -1, 1.5, True, 1 << 63, [17]])
def test_a_time_that_is_none_is_refused(time: object) -> None:
    with pytest.raises(GuestError, match="a time that is none"):
        converse(Agent(lambda _: returning(time)), lambda channel: channel.read_time())


def test_the_agents_own_words_are_in_the_error() -> None:
    said = b'{"error": {"class": "GenericError", "desc": "settimeofday failed"}}\n'
    with pytest.raises(GuestError, match="refuses guest-set-time: settimeofday failed"):
        converse(Agent(lambda _: said), lambda channel: channel.set_time(1))


@pytest.mark.usefixtures("impatient")
def test_an_agent_that_is_deaf_is_given_up_soon() -> None:
    with pytest.raises(GuestError, match="does not answer to guest-get-time"):
        converse(Agent(lambda _: None), lambda channel: channel.read_time())


@pytest.mark.usefixtures("impatient")
def test_an_answer_that_comes_too_late_is_not_taken_for_the_next_one() -> None:
    late = asyncio.Event()
    times = iter((1, 2))

    class LateAgent(Agent):
        async def serve(self, sock: socket.socket) -> None:
            await late.wait()
            await super().serve(sock)

    async def talk(channel: AgentChannel) -> int:
        with pytest.raises(GuestError, match="does not answer"):
            await channel.read_time()
        late.set()
        await channel.sync()
        return await channel.read_time()

    assert converse(LateAgent(lambda _: returning(next(times))), talk) == 2


def test_a_channel_that_ends_is_an_error() -> None:
    async def run() -> None:
        ours, theirs = socket.socketpair()
        theirs.close()
        channel = AgentChannel(ours)
        with pytest.raises(GuestError, match="channel"):
            await channel.sync()
        channel.close()

    asyncio.run(run())


def test_an_agent_that_talks_without_end_is_cut_off() -> None:
    with pytest.raises(GuestError, match="without an end"):
        converse(Agent(lambda _: b"x" * (2 * ANSWER_BYTES_MAX)), lambda channel: channel.read_time())


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_give_a_time_or_an_error(said: bytes) -> None:
    try:
        time = converse(Agent(lambda _: said + b"\n"), lambda channel: channel.read_time())
    except GuestError:
        return
    assert isinstance(time, int) and parse_answer(said.partition(b"\n")[0])["return"] == time
