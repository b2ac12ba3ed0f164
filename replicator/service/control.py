"""The daemon's control socket: one JSON object a line asked, one answered, over a unix socket of the daemon's owner.

A request is {"command": name, ...arguments}; an answer is {"ok": true, ...} or {"ok": false, "error", "hint",
"exit_code"}. The folder and the socket are private to their owner, which is all the authentication there is.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from replicator.errors import ReplicatorError, TransportError

_LOG = logging.getLogger(__name__)

REQUEST_BYTES_MAX = 64 << 10
ANSWER_BYTES_MAX = 16 << 20
ANSWER_TIMEOUT_S = 30.0
SOCKET_NAME = "control.sock"
#: Commands that are given up when whoever asked hangs up. No others: half an order is worse than a whole one.
GIVEN_UP = frozenset({"copy"})

Answer = dict[str, Any]
Handler = Callable[[dict[str, Any]], Awaitable[Answer]]


class ControlServer:
    """Serves `handler` on `<state_dir>/control.sock`."""

    def __init__(self, state_dir: Path, handler: Handler) -> None:
        self._path = state_dir / SOCKET_NAME
        self._handler = handler
        self._server: asyncio.AbstractServer | None = None

    async def start(self) -> None:
        self._path.unlink(missing_ok=True)
        old_mask = os.umask(0o177)
        try:
            self._server = await asyncio.start_unix_server(
                self._serve, path=str(self._path), limit=REQUEST_BYTES_MAX
            )
        finally:
            os.umask(old_mask)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
        self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            line = await reader.readline()
            answer = await self._answer(line, reader) if line else None
            if answer is not None:
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        except (OSError, ValueError) as error:
            _LOG.info("control connection ended: %s", error)
        finally:
            writer.close()

    async def _answer(self, line: bytes, reader: asyncio.StreamReader) -> Answer | None:
        """None when whoever asked has hung up, and the work was given up for that."""
        try:
            request = json.loads(line)
            if not isinstance(request, dict):
                return {"ok": False, "error": "a request is one JSON object", "hint": "", "exit_code": 2}
            if request.get("command") not in GIVEN_UP:
                return {"ok": True, **await self._handler(request)}
            answer = await _unless_gone(reader, self._handler(request))
            return None if answer is None else {"ok": True, **answer}
        except ReplicatorError as error:
            return {"ok": False, "error": str(error), "hint": error.hint, "exit_code": error.exit_code}
        except json.JSONDecodeError as error:
            return {"ok": False, "error": f"not JSON: {error}", "hint": "", "exit_code": 2}


async def _unless_gone(reader: asyncio.StreamReader, work: Awaitable[Answer]) -> Answer | None:
    working = asyncio.ensure_future(work)
    leaving = asyncio.create_task(reader.read())
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


class RefusedByDaemon(ReplicatorError):
    """The daemon answered with an error of its own, whose exit code this one carries."""


def ask_daemon(
    state_dir: Path, command: str, *, timeout_s: float = ANSWER_TIMEOUT_S, **arguments: Any
) -> Answer:
    """One request to the daemon of `state_dir`. TransportError when none listens, RefusedByDaemon when it refuses."""
    path = state_dir / SOCKET_NAME
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout_s)
            connection.connect(str(path))
            connection.sendall(json.dumps({"command": command, **arguments}).encode() + b"\n")
            with connection.makefile("rb") as lines:
                answer = lines.readline()
    except OSError as error:
        raise _nobody_answers(path, error) from error
    return _open_answer(path, answer)


async def ask_daemon_later(state_dir: Path, command: str, **arguments: Any) -> Answer:
    """The same without a limit of time; who cancels it hangs up."""
    path = state_dir / SOCKET_NAME
    try:
        reader, writer = await asyncio.open_unix_connection(str(path), limit=ANSWER_BYTES_MAX)
        try:
            writer.write(json.dumps({"command": command, **arguments}).encode() + b"\n")
            answer = await reader.readline()
        finally:
            writer.close()
    except OSError as error:
        raise _nobody_answers(path, error) from error
    return _open_answer(path, answer)


def _nobody_answers(path: Path, error: OSError) -> TransportError:
    return TransportError(
        f"no daemon answers at {path}: {error}",
        hint="start it with `replicator primary CONFIG` or `replicator secondary CONFIG`",
    )


def _open_answer(path: Path, answer: bytes) -> Answer:
    if not answer:
        raise TransportError(f"the daemon at {path} ended before it answered")
    found: Answer = json.loads(answer)
    if not found.pop("ok"):
        refusal = RefusedByDaemon(found["error"], hint=found["hint"])
        refusal.exit_code = found["exit_code"]
        raise refusal
    return found
