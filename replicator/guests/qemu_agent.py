"""Talking to the QEMU guest agent: a program inside the guest that reads and sets its wall clock.

The channel is a serial port of the guest, and what is in it is part of the guest: after a take-over the agent may still
hold half a command of the other side, or send the rest of an answer to it. So a conversation begins with a sync whose
number was never used before, and all that comes before its answer belongs to somebody else. Bytes come from inside the
guest and are not trusted: their amount, form and delay are bounded.

Nobody else may be on the channel. Frames of the network never pass here, so output commit does not know of it: an answer
can belong to an epoch that is never committed. What is asked for must do no harm when it is half done or done twice.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
from typing import Any

from replicator.errors import GuestError

#: An agent that runs answers within some 10 ms; a guest that is paused meanwhile, later.
ANSWER_TIMEOUT_S = 2.0
#: Of one answer. Those to our commands are below 100 bytes.
ANSWER_BYTES_MAX = 64 << 10
#: No JSON contains it. It makes the agent forget half a command, and marks its answer to guest-sync-delimited.
SENTINEL = b"\xff"
_SYNC_ID_BITS = 31
_READ_BYTES = 4096
_TIME_NS_MAX = (1 << 63) - 1


class AgentChannel:
    """Implements guests.base.GuestAgent. Takes over `sock`, whose other end is QEMU's."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._received = b""

    async def sync(self) -> None:
        """Find the agent at the beginning of a conversation. GuestError when it does not answer."""
        number = secrets.randbits(_SYNC_ID_BITS)
        await self._within(self._sync(number), "guest-sync-delimited")

    async def read_time(self) -> int:
        answer = await self._execute("guest-get-time")
        if type(answer) is not int or not 0 <= answer <= _TIME_NS_MAX:
            raise GuestError("the guest agent tells a time that is none")
        return answer

    async def set_time(self, time_ns: int) -> None:
        await self._execute("guest-set-time", time=time_ns)

    def close(self) -> None:
        self._socket.close()

    async def _execute(self, command: str, **arguments: int) -> Any:
        return await self._within(self._ask(command, arguments), command)

    async def _within(self, conversation: Any, command: str) -> Any:
        try:
            return await asyncio.wait_for(conversation, ANSWER_TIMEOUT_S)
        except TimeoutError:
            raise GuestError(f"the guest agent does not answer to {command}") from None
        except OSError as error:
            raise GuestError(f"the guest agent's channel failed: {error.strerror}") from error

    async def _sync(self, number: int) -> None:
        self._received = b""
        await self._send(SENTINEL + encode("guest-sync-delimited", {"id": number}))
        while True:
            await self._read_until(SENTINEL)
            if parse_answer(await self._read_until(b"\n")) == {"return": number}:
                return

    async def _ask(self, command: str, arguments: dict[str, int]) -> Any:
        await self._send(encode(command, arguments))
        answer = parse_answer(await self._read_until(b"\n"))
        if "error" in answer:
            raise GuestError(f"the guest agent refuses {command}: {_describe(answer['error'])}")
        if "return" not in answer:
            raise GuestError(f"the guest agent's answer to {command} is none")
        return answer["return"]

    async def _send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def _read_until(self, mark: bytes) -> bytes:
        """What comes before the mark, which is taken away too."""
        while mark not in self._received:
            if len(self._received) > ANSWER_BYTES_MAX:
                raise GuestError(f"the guest agent talks without an end: {ANSWER_BYTES_MAX} bytes at least")
            piece = await asyncio.get_running_loop().sock_recv(self._socket, _READ_BYTES)
            if not piece:
                raise GuestError("the guest agent's channel was closed")
            self._received += piece
        found, _, self._received = self._received.partition(mark)
        return found


def encode(command: str, arguments: dict[str, int]) -> bytes:
    message: dict[str, object] = {"execute": command}
    if arguments:
        message["arguments"] = arguments
    return json.dumps(message).encode() + b"\n"


def parse_answer(line: bytes) -> dict[str, Any]:
    """A JSON object; empty for anything else."""
    try:
        answer = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}


def _describe(error: object) -> str:
    return str(error.get("desc", error) if isinstance(error, dict) else error)[:200]
