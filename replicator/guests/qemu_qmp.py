"""Talking to QEMU: the monitors of one process.

`QmpSession` is the library's client (`qemu.qmp`) with our errors: greeting, events, everything that is not urgent.
`FastChannel` is another one, for commands of each checkpoint. The library costs about 0.4 ms an
exchange (tasks, queues), this channel about 0.05 ms: it writes a command encoded beforehand, waits for the answer in
`poll` for a few milliseconds, and only then falls back to the event loop. While it polls nothing else of this loop
runs, as nothing does while pages are scanned and copied. Commands may be sent several at once; QEMU does them in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import select
import socket
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from qemu.qmp import ExecuteError, Message, QMPClient, QMPError, Runstate

from replicator.errors import GuestError, require
from replicator.guests.qemu_process import set_done

#: How long QEMU may take to answer. It does its work between two answers, so this is generous.
ANSWER_TIMEOUT_S = 20.0
#: How long the fast channel holds up the event loop for an answer.
POLL_MS_MAX = 4
LINE_BYTES_MAX = 16 << 20

#: The capability (out-of-band execution) that has QEMU keep a queue of commands for a monitor.
_READS_AHEAD = "oob"

GUEST_EVENTS = ("SHUTDOWN", "RESET", "GUEST_PANICKED")


class QmpSession:
    """One monitor through the library. Every failure is a GuestError."""

    def __init__(self, name: str) -> None:
        self._client = QMPClient(name)
        # The client's own listener, and no other beside it: that one cannot be removed, hears everything until it is
        # given names, and would keep the STOP and RESUME of each epoch for as long as the guest lives.
        self._listener = self._client.events
        self._listener.names.update(GUEST_EVENTS)

    async def open(self, address: Path | socket.socket) -> None:
        """Connect and agree on the protocol. A socket given is the session's from now on."""
        target = address if isinstance(address, socket.socket) else str(address)
        try:
            await asyncio.wait_for(self._client.connect(target), ANSWER_TIMEOUT_S)
        except (QMPError, TimeoutError, OSError) as error:
            raise GuestError(f"no QMP monitor answers: {error}") from error

    async def execute(self, command: str, **arguments: object) -> Any:
        """Run a command (underscores of argument names stand for dashes) and return its result."""
        named = {key.replace("_", "-"): value for key, value in arguments.items()}
        try:
            return await asyncio.wait_for(self._client.execute(command, named or None), ANSWER_TIMEOUT_S)
        except ExecuteError as error:
            raise GuestError(f"QEMU refuses {command}: {error}") from error
        except TimeoutError as error:
            raise GuestError(f"QEMU does not answer to {command}") from error
        except (QMPError, OSError) as error:
            raise GuestError(f"QEMU went away at {command}: {error}") from error

    async def ask_human(self, line: str) -> str:
        """The answer of the human monitor, with plain line ends."""
        text = await self.execute("human-monitor-command", command_line=line)
        return str(text).replace("\r\n", "\n")

    async def get_property(self, path: str, name: str) -> Any:
        return await self.execute("qom-get", path=path, property=name)

    async def pass_fd(self, fd: int, command: str, **arguments: object) -> Any:
        """Run a command that takes a descriptor; `fd` stays the caller's."""
        try:
            self._client.send_fd_scm(fd)
        except (QMPError, OSError) as error:
            raise GuestError(f"QEMU went away at {command}: {error}") from error
        return await self.execute(command, **arguments)

    async def next_event(self) -> Message:
        return await self._listener.get()

    async def drain_events(self, timeout_s: float) -> list[Message]:
        """After the end of the process: what it still said. Waits for the end of the connection."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._client.runstate is Runstate.RUNNING:
                    await self._client.runstate_changed()
        return self._listener.clear()

    async def close(self) -> None:
        """Hang up. What already went wrong with the connection is not told again."""
        with contextlib.suppress(QMPError, OSError, EOFError):
            await self._client.disconnect()


def encode_command(command: str, arguments: Mapping[str, object] | None = None) -> bytes:
    message: dict[str, object] = {"execute": command}
    if arguments:
        message["arguments"] = arguments
    # Without spaces: QEMU reads its monitors byte by byte, with eight system calls for each.
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


#: How each command ends, and how one ends that QEMU is to refuse: with a member that it does not know.
_END = b"}\n"
_REFUSED_END = b',"unwanted":0' + _END


class FastChannel:
    """A monitor with as little between us and QEMU as possible. Takes over `sock`."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._received = b""
        self._lock = asyncio.Lock()
        #: Commands sent so far; each is named by its number.
        self._sent = 0
        #: Answers read so far. They come in the order of the commands.
        self._answered = 0
        self._answers: dict[int, dict[str, Any]] = {}
        #: Their answers will be thrown away.
        self._unwanted: set[int] = set()
        #: The command that was sent but for its end.
        self._primed = b""
        #: The events by this name are kept until they are asked for, the others never.
        self._kept_name = ""
        self._kept: deque[dict[str, Any]] = deque()
        #: What QEMU can do, from its greeting; None before.
        self._abilities: list[str] | None = None
        self._broken = ""

    async def open(self) -> None:
        """Read the greeting and agree on the protocol."""
        async with self._lock:
            while self._abilities is None:
                await self._read()
        # Then QEMU reads commands while it carries out the ones before, and not one after the other.
        wanted = {"enable": [_READS_AHEAD]} if _READS_AHEAD in self._abilities else None
        await self.execute(encode_command("qmp_capabilities", wanted))

    def prime(self, command: bytes) -> None:
        """Send all of a command but its end. QEMU has read it by the time at which it is sent, and begins at once.
        Another one may be sent in its place."""
        if not self._primed:
            self._write(command[: -len(_END)])
            self._primed = command

    def send(self, *commands: bytes) -> list[int]:
        """Send commands, all at once; returns their numbers."""
        data = b"".join(commands)
        primed, self._primed = self._primed, b""
        if primed and commands[0] == primed:
            data = data[len(primed) - len(_END) :]
        elif primed:
            data = _REFUSED_END + data
            self._unwanted.add(self._sent)
            self._sent += 1
        self._write(data)
        first, self._sent = self._sent, self._sent + len(commands)
        return list(range(first, self._sent))

    def _write(self, data: bytes) -> None:
        self._check_open()
        try:
            written = self._socket.send(data)
        except OSError as error:
            raise self._break(f"cannot send: {error.strerror}") from error
        if written != len(data):
            raise self._break("it reads no commands")

    async def answer(self, number: int, *, poll_ms: int = POLL_MS_MAX) -> Any:
        """The result of a command that was sent. Once for each number. `poll_ms`: for so long the loop is held up."""
        require(number < self._sent and number not in self._unwanted, "an answer is asked for once")
        async with self._lock:
            while number not in self._answers:
                await self._read(poll_ms)
        reply = self._answers.pop(number)
        if "error" in reply:
            raise GuestError(f"QEMU refuses: {reply['error'].get('desc', reply['error'])}")
        return reply["return"]

    def keep_events(self, name: str) -> None:
        """Of those that come from now on; older ones are forgotten."""
        self._kept_name = name
        self._kept.clear()

    async def next_event(self, *, poll_ms: int = POLL_MS_MAX) -> dict[str, Any]:
        """The data of the oldest event that is kept. `poll_ms` as in `answer`."""
        async with self._lock:
            while not self._kept:
                await self._read(poll_ms)
        return self._kept.popleft()

    def forget(self, number: int) -> None:
        """Nobody will ask for this answer."""
        if self._answers.pop(number, None) is None:
            self._unwanted.add(number)

    async def settle(self) -> None:
        """Wait until QEMU has done all that was sent, and forget the answers nobody took."""
        async with self._lock:
            while self._answered < self._sent:
                await self._read()
            self._answers.clear()

    async def execute(self, command: bytes) -> Any:
        (number,) = self.send(command)
        return await self.answer(number)

    def close(self) -> None:
        self._broken = self._broken or "the connection was closed"
        self._socket.close()

    async def _read(self, poll_ms: int = POLL_MS_MAX) -> None:
        """Take in what QEMU says next, at least something."""
        self._check_open()
        if not self._poll.poll(poll_ms):
            try:
                await asyncio.wait_for(self._readable(), ANSWER_TIMEOUT_S)
            except TimeoutError:
                raise self._break(f"no answer within {ANSWER_TIMEOUT_S} s") from None
        self._check_open()
        try:
            data = self._socket.recv(1 << 16)
        except OSError as error:
            raise self._break(f"{error.strerror}") from error
        if not data:
            raise self._break("QEMU hung up")
        self._received += data
        for line in self._take_lines():
            self._handle(line)

    def _take_lines(self) -> Iterator[bytes]:
        *lines, self._received = self._received.split(b"\n")
        if len(self._received) > LINE_BYTES_MAX:
            raise self._break("it talks without end")
        yield from (line for line in lines if line.strip())

    def _handle(self, line: bytes) -> None:
        try:
            message = json.loads(line)
        except ValueError as error:
            raise self._break(f"it sent no JSON: {error}") from error
        if "QMP" in message:
            self._abilities = _read_abilities(message["QMP"])
        elif "return" in message or "error" in message:
            number, self._answered = self._answered, self._answered + 1
            if number in self._unwanted:
                self._unwanted.discard(number)
            else:
                self._answers[number] = message
        elif message.get("event") == self._kept_name:
            self._kept.append(message.get("data", {}))

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self._socket, set_done, ready)
        try:
            await ready
        finally:
            if self._socket.fileno() >= 0:
                loop.remove_reader(self._socket)

    def _check_open(self) -> None:
        if self._broken:
            raise GuestError(f"QEMU's monitor is out of reach: {self._broken}")

    def _break(self, reason: str) -> GuestError:
        """After this the answers could no longer be told apart."""
        self._broken = self._broken or reason
        return GuestError(f"QEMU's monitor is out of reach: {reason}")


def _read_abilities(greeting: object) -> list[str]:
    found = greeting.get("capabilities") if isinstance(greeting, dict) else None
    return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []
