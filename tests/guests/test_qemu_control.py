"""The order in which a checkpoint's commands reach the monitor, and what becomes of an answer that refuses one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from replicator.errors import GuestError
from replicator.guests.qemu_control import STATE_MAGIC, FastControl, StateFile
from replicator.guests.qemu_qmp import FastChannel, encode_command

STOP, SAVE, CONT = "stop", "xen-save-devices-state", "cont"


class Monitor:
    """Answers commands in order; writes `states`, one a save, where QEMU would."""

    def __init__(self, sock: socket.socket, states: list[bytes]) -> None:
        self._socket = sock
        self._states = states
        self.greeting: object = {}
        self.enabled: list[str] = []
        self.heard: list[str] = []
        #: What was heard of a command whose end has not come.
        self.begun = b""
        self.state_fd = -1

    async def serve(self) -> None:
        reader, writer = await asyncio.open_connection(sock=self._socket)
        try:
            writer.write(json.dumps({"QMP": self.greeting}).encode() + b"\n")
            while data := await reader.read(1 << 16):
                *lines, self.begun = (self.begun + data).split(b"\n")
                for message in map(json.loads, lines):
                    self.enabled += message.get("arguments", {}).get("enable", [])
                    writer.write(json.dumps(self._respond(message)).encode() + b"\n")
        finally:
            writer.close()

    def _respond(self, message: dict[str, str]) -> dict[str, object]:
        if message.keys() <= {"execute", "arguments"}:
            return self._answer(message["execute"])
        self.heard.append("refused")
        return {"error": {"desc": "an unexpected member"}}

    def _answer(self, command: str) -> dict[str, object]:
        self.heard.append(command)
        if command == SAVE:
            state = self._states.pop(0)
            if not state:
                return {"error": {"desc": "no room"}}
            os.write(self.state_fd, state)
        return {"return": {}}


def scene(
    states: list[bytes], play: Callable[[FastControl, Monitor], Awaitable[None]], *, has_saver: bool = False
) -> list[str]:
    """What the monitors heard."""

    async def run() -> list[str]:
        async with served(states, has_saver=has_saver) as (control, monitor):
            await play(control, monitor)
            return [command for command in monitor.heard if command != "qmp_capabilities"]

    return asyncio.run(run())


def test_a_command_that_was_sent_ahead_is_done_when_it_is_sent_or_refused_for_another() -> None:
    one, other = encode_command("one", {"n": 1}), encode_command("other")

    async def play(control: FastControl, monitor: Monitor) -> None:
        channel = control.channel
        channel.prime(one)
        channel.prime(one)
        assert await channel.execute(one) == {}
        channel.prime(one)
        first, second = channel.send(other, one)
        assert (await channel.answer(first), await channel.answer(second)) == ({}, {})
        channel.prime(other)
        await channel.settle()
        assert await channel.execute(other) == {}

    assert scene([], play) == ["one", "refused", "other", "one", "other"]


@pytest.mark.parametrize(
    ("greeting", "enabled"),
    [({"capabilities": ["new", "oob"]}, ["oob"]), ({"capabilities": ["new", 1]}, []), ({}, []), (1, [])],
)
def test_qemu_reads_ahead_where_it_can(greeting: object, enabled: list[str]) -> None:
    async def run() -> None:
        ours, theirs = socket.socketpair()
        monitor, channel = Monitor(theirs, []), FastChannel(ours)
        monitor.greeting = greeting
        serving = asyncio.create_task(monitor.serve())
        await channel.open()
        assert monitor.enabled == enabled
        channel.close()
        await serving

    asyncio.run(run())


@contextlib.asynccontextmanager
async def served(
    states: list[bytes], *, has_saver: bool = False
) -> AsyncIterator[tuple[FastControl, Monitor]]:
    """The monitor is the first one; what a second one hears, it hears too."""
    ends = [socket.socketpair() for _ in range(2 if has_saver else 1)]
    state = StateFile()
    monitors = [Monitor(theirs, list(states)) for _, theirs in ends]
    monitors[-1].heard = monitors[0].heard
    monitors[-1].state_fd = os.dup(state._writing_fd)
    serving = [asyncio.create_task(monitor.serve()) for monitor in monitors]
    channels = [FastChannel(ours) for ours, _ in ends]
    control = FastControl(channels[0], state, *channels[1:])
    try:
        for channel in channels:
            await channel.open()
        yield control, monitors[0]
    finally:
        control.close()
        await asyncio.gather(*serving)
        os.close(monitors[-1].state_fd)


BOTH_WAYS = pytest.mark.parametrize("has_saver", [False, True], ids=["alone", "saver"])


@BOTH_WAYS
def test_cont_goes_right_behind_the_save_and_is_sent_once(has_saver: bool) -> None:
    async def play(control: FastControl, _: Monitor) -> None:
        await control.stop()
        assert await control.save(runs_on=True) == STATE_MAGIC + b"one"
        await control.cont()

    assert scene([STATE_MAGIC + b"one"], play, has_saver=has_saver) == [STOP, SAVE, CONT]


@BOTH_WAYS
def test_a_shorter_state_ends_where_it_ends(has_saver: bool) -> None:
    async def play(control: FastControl, _: Monitor) -> None:
        for text in (b"a long one", b"short"):
            await control.stop()
            assert await control.save() == STATE_MAGIC + text
            await control.cont()

    scene([STATE_MAGIC + b"a long one", STATE_MAGIC + b"short"], play, has_saver=has_saver)


@BOTH_WAYS
def test_a_save_that_fails_is_noticed_though_the_guest_goes_on(has_saver: bool) -> None:
    async def play(control: FastControl, _: Monitor) -> None:
        await control.stop()
        with pytest.raises(GuestError, match="no room"):
            await control.save(runs_on=True)
        await control.cont()
        await control.stop()
        assert await control.save() == STATE_MAGIC + b"next"
        await control.cont()

    heard = scene([b"", STATE_MAGIC + b"next"], play, has_saver=has_saver)
    assert heard == [STOP, SAVE, CONT, STOP, SAVE, CONT]


@BOTH_WAYS
def test_a_stop_after_a_cont_that_nobody_awaited_pauses_again(has_saver: bool) -> None:
    async def play(control: FastControl, _: Monitor) -> None:
        await control.stop()
        await control.save(runs_on=True)
        await control.stop()
        await control.save()
        await control.cont()

    states = [STATE_MAGIC, STATE_MAGIC]
    assert scene(states, play, has_saver=has_saver) == [STOP, SAVE, CONT, STOP, SAVE, CONT]


def test_what_comes_next_is_read_while_the_guest_still_runs() -> None:
    begun: list[bytes] = []

    async def play(control: FastControl, monitor: Monitor) -> None:
        await control.stop()
        await control.save()
        await control.cont()
        # The monitor answers only once it has heard all that came before.
        while not monitor.begun:
            await asyncio.sleep(0)
        begun.append(monitor.begun)
        await control.stop()
        await control.save()

    heard = scene([STATE_MAGIC, STATE_MAGIC], play, has_saver=True)
    assert begun == [encode_command(STOP).removesuffix(b"}\n")]
    assert heard == [STOP, SAVE, CONT, STOP, SAVE]


def test_a_guest_that_is_rarely_saved_can_be() -> None:
    async def play(control: FastControl, _: Monitor) -> None:
        for _ in range(2):
            await control.stop(will_save=False)
            await control.cont()
        await control.stop(will_save=False)
        assert await control.save() == STATE_MAGIC
        await control.cont()

    heard = scene([STATE_MAGIC], play, has_saver=True)
    assert [command for command in heard if command != "refused"] == [
        STOP,
        CONT,
        STOP,
        CONT,
        STOP,
        SAVE,
        CONT,
    ]
