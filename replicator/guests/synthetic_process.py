"""The process of a synthetic guest as its daemon sees it: start it, talk to it, learn of its end.

The conversation is the one synthetic_main.py describes. Answers come in the order of the commands; events come in
between. When the process stops talking, or says what cannot be understood, it is ended and every command that
waits fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import mmap
import os
import socket
import sys
from collections import deque
from pathlib import Path
from typing import Any

import msgpack

import replicator
from replicator import placement
from replicator.errors import GuestError
from replicator.guests.base import Died, GuestEvent, Panicked, PoweredOff, Reset
from replicator.guests.synthetic_config import SyntheticConfig
from replicator.guests.synthetic_main import LENGTH, Settings
from replicator.limits import LIBXL_RECORD_BYTES_MAX

_ANSWER_BYTES_MAX = LIBXL_RECORD_BYTES_MAX + 4096
#: A process that closed its control socket is about to end by itself.
_END_PATIENCE_S = 2.0
#: A process that is silent for so long is frozen or hangs.
_ANSWER_PATIENCE_S = 10.0


class SyntheticProcess:
    """One process. Owns `ram_fd` from now on, and the dirty map that both sides write."""

    def __init__(self, config: SyntheticConfig, ram_fd: int, *, incoming: bool) -> None:
        self._config = config
        self._ram_fd = ram_fd
        self._incoming = incoming
        self._dirty_fd = os.memfd_create("replicator-dirty")
        os.ftruncate(self._dirty_fd, config.pages)
        #: One byte a page of the RAM file; until the first scan nobody knows what the RAM holds.
        self.dirty = mmap.mmap(self._dirty_fd, config.pages)
        self.dirty[:] = b"\1" * config.pages
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._listener: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[None] | None = None
        self._answers: deque[asyncio.Future[dict[str, Any]]] = deque()
        #: Why the process ended, as far as it said so itself.
        self._ended_by = ""
        self._powered_off = False
        self._killed = False
        self._over = False
        #: None: no more events.
        self.events: asyncio.Queue[GuestEvent | None] = asyncio.Queue()

    @property
    def pid(self) -> int:
        """Process id, also after its end. GuestError before the start."""
        return self._started().pid

    async def start(self) -> None:
        """Returns when the process can be commanded. GuestError with its own words when it cannot start."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = await self._spawn(theirs.fileno())
            reader, self._writer = await asyncio.open_unix_connection(sock=ours)
        except BaseException:
            ours.close()
            raise
        self._ready = asyncio.get_running_loop().create_future()
        self._listener = asyncio.create_task(self._listen(reader))
        try:
            await self._ready
        except BaseException:
            await self.kill()
            raise

    async def command(self, name: str, **arguments: Any) -> dict[str, Any]:
        """Send one command, wait for its answer. Raises GuestError, also when the process is or goes away."""
        if self._over or self._writer is None:
            raise GuestError(
                f"cannot {name}: the synthetic guest is not running ({self._ended_by or 'killed'})"
            )
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers.append(answer)
        data = msgpack.packb({"command": name, **arguments})
        self._writer.write(LENGTH.pack(len(data)) + data)
        with contextlib.suppress(ConnectionError):  # the listener reports the end to `answer`
            await self._writer.drain()
        try:
            result = await asyncio.wait_for(answer, _ANSWER_PATIENCE_S)
        except TimeoutError as cause:
            raise GuestError(
                f"the synthetic guest did not {name} within {_ANSWER_PATIENCE_S:.0f} s"
            ) from cause
        if "error" in result:
            raise GuestError(f"the synthetic guest cannot {name}: {result['error']}")
        return result

    async def kill(self) -> None:
        """End the process and wait for its end. May be repeated."""
        self._killed = True
        self._end_process()
        if self._listener is not None:
            await asyncio.shield(self._listener)
        if self._writer is not None:
            self._writer.close()
        for nic in self._config.nics:
            nic.guest_path.unlink(missing_ok=True)

    async def wait_end(self) -> str:
        """Wait until the process has ended; returns why."""
        if self._listener is not None:
            await asyncio.shield(self._listener)
        return self._ended_by

    def forget_dirty(self) -> None:
        """Take every page for known. While the machine neither runs nor loads."""
        self.dirty[:] = bytes(len(self.dirty))

    def close_files(self) -> None:
        """Release the dirty map and the descriptors. May be repeated."""
        if self._dirty_fd >= 0:
            self.dirty.close()
            os.close(self._dirty_fd)
            os.close(self._ram_fd)
            self._dirty_fd = self._ram_fd = -1

    def _started(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise GuestError("the synthetic guest was not started")
        return self._process

    def _end_process(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def _spawn(self, control_fd: int) -> asyncio.subprocess.Process:
        settings = self._settings(control_fd)
        root = str(Path(replicator.__file__).resolve().parent.parent)
        python_path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        try:
            with placement.unconfined():
                return await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    "replicator.guests.synthetic_main",
                    json.dumps(dataclasses.asdict(settings)),
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=(control_fd, self._ram_fd, self._dirty_fd),
                    env={**os.environ, "PYTHONPATH": python_path},
                    start_new_session=True,
                )
        except OSError as cause:
            raise GuestError(f"cannot start the synthetic guest: {cause.strerror}") from cause

    def _settings(self, control_fd: int) -> Settings:
        config = self._config
        return Settings(
            control_fd=control_fd,
            ram_fd=self._ram_fd,
            dirty_fd=self._dirty_fd,
            ram_bytes=config.ram_bytes,
            seed=config.seed,
            working_pages=config.working_set,
            steps_per_ms=config.steps_per_ms,
            state_bytes=config.state_bytes,
            beacon_ms=config.beacon_ms,
            divergence=config.divergence,
            mac=config.mac,
            ip=config.ip,
            guest_path=str(config.nic_guest_path or ""),
            relay_path=str(config.nic_relay_path or ""),
            incoming=self._incoming,
        )

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        """Take in messages until the conversation ends, for whatever reason; then settle everything."""
        try:
            while True:
                (size,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
                if size > _ANSWER_BYTES_MAX:
                    raise ValueError(f"it sent a message of {size} bytes")
                self._handle(msgpack.unpackb(await reader.readexactly(size)))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        except (ValueError, KeyError, TypeError, IndexError) as error:
            self._ended_by = f"it sent what cannot be understood: {error}"
            self._end_process()
        await self._settle_end(await self._reap())

    def _handle(self, message: dict[str, Any]) -> None:
        if "answer" in message:
            answer = self._answers.popleft()
            if not answer.done():
                answer.set_result(message["answer"])
            return
        event, reason = message["event"], message.get("reason", "")
        if event == "ready" and self._ready is not None and not self._ready.done():
            self._ready.set_result(None)
        elif event == "failed":
            self._ended_by = reason
        elif event == "powered_off":
            self._powered_off = True
            self._ended_by = "powered off"
            self.events.put_nowait(PoweredOff())
        elif event == "panicked":
            self.events.put_nowait(Panicked(reason))
        elif event == "reset":
            self.events.put_nowait(Reset())

    async def _reap(self) -> int:
        """Exit status of the process, which is made to end when it does not by itself."""
        self._over = True
        process = self._started()
        try:
            return await asyncio.wait_for(process.wait(), _END_PATIENCE_S)
        except TimeoutError:
            self._end_process()
            return await process.wait()

    async def _settle_end(self, status: int) -> None:
        self._ended_by = self._ended_by or (f"signal {-status}" if status < 0 else f"exit status {status}")
        if not self._killed and not self._powered_off:
            self.events.put_nowait(Died(self._ended_by))
        self.events.put_nowait(None)
        error = GuestError(f"the synthetic guest ended: {self._ended_by}")
        if self._ready is not None and not self._ready.done():
            self._ready.set_exception(error)
        while self._answers:
            answer = self._answers.popleft()
            if not answer.done():
                answer.set_exception(error)
