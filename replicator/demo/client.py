"""The customer: two open TCP connections to the guest's redis that must survive, and a record of every reply.

    python -m replicator.demo.client ADDRESS [--port N]

One connection sends sequential INCRs, the next only after the reply to the last; the other a stream of SETs with a
few of them under way at once. Nothing is ever reconnected: a closed or silent connection is a broken promise. What
the client says goes to stdout, one JSON object a line, each with `at_ns` (CLOCK_MONOTONIC):

    connected, progress (every 200 ms), gap (a pause between replies longer than 100 ms has ended), broken, report

A line `stop` on stdin (or its end) stops the load; replies still under way are awaited, everything acknowledged is
read back, and `report` follows. Exit code: 0 all promises kept, 1 broken, 4 the guest cannot be reached at all.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import selectors
import socket
import sys
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from replicator.demo.guest_scripts import REDIS_PORT
from replicator.demo.promises import Acked, Recording, Report, check_promises
from replicator.demo.resp import Reply, ReplyReader, encode_command
from replicator.errors import ReplicatorError, TransportError
from replicator.units import NS_PER_MS, NS_PER_S

CONNECT_TIMEOUT_S = 10.0
PROGRESS_EVERY_NS = 200 * NS_PER_MS
GAP_REPORTED_NS = 100 * NS_PER_MS
#: After `stop`: how long replies may take before the connection counts as dead.
PATIENCE_S = 15.0
SETS_UNDER_WAY = 8
READ_BACK_KEYS = 200
RECEIVE_BYTES = 65_536


def say(event: str, **fields: Any) -> None:
    """One JSON line on stdout."""
    print(json.dumps({"event": event, "at_ns": time.monotonic_ns(), **fields}), flush=True)


class Connection:
    """One TCP connection, opened once. `broken` holds why it is of no use any more."""

    def __init__(self, address: str, port: int, name: str) -> None:
        self.name = name
        self.broken: str | None = None
        self._replies = ReplyReader()
        try:
            self.socket = socket.create_connection((address, port), CONNECT_TIMEOUT_S)
        except OSError as error:
            raise TransportError(f"cannot connect to redis at {address}:{port}: {error}") from error
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, data: bytes) -> None:
        """Send; the few bytes of a request always fit the socket's buffer or wait there."""
        try:
            self.socket.sendall(data)
        except OSError as error:
            self.broken = f"{self.name}: sending failed: {error}"

    def receive(self) -> list[Reply]:
        """Replies that came. An empty list may mean that the connection broke: see `broken`."""
        try:
            data = self.socket.recv(RECEIVE_BYTES)
            if not data:
                self.broken = f"{self.name}: closed by the other side"
            return self._replies.feed(data)
        except (OSError, ReplicatorError) as error:
            self.broken = f"{self.name}: {error or type(error).__name__}"
            return []

    def ask(self, *words: str) -> Reply:
        """One request and its reply; raise TransportError when there is none in time."""
        self.send(encode_command(*words))
        while self.broken is None:
            replies = self.receive()
            if replies:
                return replies[0]
        raise TransportError(self.broken)


class IncrementLoad:
    """Sequential INCRs of one counter."""

    def __init__(self, connection: Connection, key: str) -> None:
        self.connection = connection
        self.key = key
        self.acked: list[Acked] = []
        self.unanswered = 0
        self._request = encode_command("INCR", key)
        self._sent_ns = 0

    def fill(self) -> None:
        """Send the next request unless one is under way."""
        if not self.unanswered:
            self._sent_ns = time.monotonic_ns()
            self.unanswered = 1
            self.connection.send(self._request)

    def take(self, replies: Sequence[Reply]) -> None:
        """Record replies."""
        now = time.monotonic_ns()
        for reply in replies:
            if not isinstance(reply, int) or not self.unanswered:
                self.connection.broken = f"{self.connection.name}: an unexpected reply {reply!r}"
                return
            self.acked.append(Acked(reply, self._sent_ns, now))
            self.unanswered = 0


class SetLoad:
    """SETs of ever new keys, a few under way at once."""

    def __init__(self, connection: Connection, prefix: str) -> None:
        self.connection = connection
        self.acked = 0
        self._prefix = prefix
        self._under_way: deque[int] = deque()
        self._next = 0

    @property
    def unanswered(self) -> int:
        """Requests that have no reply yet."""
        return len(self._under_way)

    def pair(self, number: int) -> tuple[str, str]:
        """Key and value of the SET with this number."""
        return f"{self._prefix}:{number}", f"value {number} of {self._prefix}"

    def fill(self) -> None:
        """Send requests until enough are under way."""
        while len(self._under_way) < SETS_UNDER_WAY and self.connection.broken is None:
            self.connection.send(encode_command("SET", *self.pair(self._next)))
            self._under_way.append(self._next)
            self._next += 1

    def take(self, replies: Sequence[Reply]) -> None:
        """Record replies; they come in the order of the requests, so `acked` alone names the acknowledged keys."""
        for reply in replies:
            if reply != b"OK" or not self._under_way:
                self.connection.broken = f"{self.connection.name}: an unexpected reply {reply!r}"
                return
            self._under_way.popleft()
            self.acked += 1


Load = IncrementLoad | SetLoad


class Client:
    """Runs both loads until it is told to stop."""

    def __init__(self, address: str, port: int) -> None:
        token = secrets.token_hex(4)
        self._address, self._port = address, port
        self.increments = IncrementLoad(Connection(address, port, "INCR"), f"incr:{token}")
        self.sets = SetLoad(Connection(address, port, "SET"), f"set:{token}")
        self._breaks: list[str] = []
        self._selector = selectors.DefaultSelector()
        self._began_ns = self._progress_ns = self._last_ack_ns = time.monotonic_ns()

    def run(self, commands_fd: int) -> Report:
        """Drive the loads until `stop` arrives on the descriptor; return the verdict."""
        say("connected", address=self._address)
        self._selector.register(commands_fd, selectors.EVENT_READ)
        self._watch()
        while not self._stop_asked(commands_fd):
            for load in self._alive():
                load.fill()
            self._wait(PROGRESS_EVERY_NS)
            self._tell_progress()
        self._await_replies(time.monotonic_ns() + int(PATIENCE_S * NS_PER_S))
        return check_promises(self._record(time.monotonic_ns()))

    def _watch(self) -> None:
        for load in self._loads():
            self._selector.register(load.connection.socket, selectors.EVENT_READ, load)

    def _loads(self) -> tuple[Load, ...]:
        return (self.increments, self.sets)

    def _alive(self) -> list[Load]:
        return [load for load in self._loads() if load.connection.broken is None]

    def _wait(self, timeout_ns: int) -> None:
        """Take replies that come within the time."""
        for key, _ in self._selector.select(max(0, timeout_ns) / NS_PER_S):
            if isinstance(key.data, IncrementLoad | SetLoad):
                key.data.take(key.data.connection.receive())
                self._note(key.data)

    def _note(self, load: Load) -> None:
        if load.connection.broken is not None:
            self._selector.unregister(load.connection.socket)
            self._breaks.append(load.connection.broken)
            say("broken", reason=load.connection.broken)
        if load is self.increments and self.increments.acked:
            newest = self.increments.acked[-1].acked_ns
            if newest - self._last_ack_ns > GAP_REPORTED_NS:
                gap_ms = (newest - self._last_ack_ns) / NS_PER_MS
                say("gap", from_ns=self._last_ack_ns, to_ns=newest, ms=round(gap_ms, 3))
            self._last_ack_ns = newest

    def _tell_progress(self) -> None:
        now = time.monotonic_ns()
        if now - self._progress_ns >= PROGRESS_EVERY_NS:
            self._progress_ns = now
            since_ms = round((now - self._last_ack_ns) / NS_PER_MS, 3)
            say(
                "progress",
                increments=len(self.increments.acked),
                sets=self.sets.acked,
                since_ack_ms=since_ms,
            )

    def _stop_asked(self, commands_fd: int) -> bool:
        ready = any(key.fd == commands_fd for key, _ in self._selector.select(0))
        return ready and os.read(commands_fd, 4096).strip() in (b"", b"stop")

    def _await_replies(self, deadline_ns: int) -> None:
        while any(load.unanswered for load in self._alive()):
            left = deadline_ns - time.monotonic_ns()
            if left <= 0:
                break
            self._wait(left)
        for load in self._alive():
            if load.unanswered:
                load.connection.broken = f"{load.connection.name}: no reply for {PATIENCE_S:.0f} s"
                self._note(load)

    def _record(self, ended_ns: int) -> Recording:
        return Recording(
            increments=self.increments.acked,
            began_ns=self._began_ns,
            ended_ns=ended_ns,
            unanswered=self.increments.unanswered,
            counter_at_end=self._read_counter(),
            sets_acked=self.sets.acked,
            sets_missing=self._count_missing(),
            breaks=tuple(self._breaks),
        )

    def _reader(self, load: Load) -> Connection:
        """The load's own connection; a new one, only for looking, where that is dead."""
        if load.connection.broken is None:
            load.connection.socket.settimeout(PATIENCE_S)
            return load.connection
        reader = Connection(self._address, self._port, "reading back")
        reader.socket.settimeout(PATIENCE_S)
        return reader

    def _read_counter(self) -> int | None:
        try:
            reply = self._reader(self.increments).ask("GET", self.increments.key)
        except TransportError as error:
            say("unreadable", reason=str(error))
            return None
        return int(reply) if isinstance(reply, bytes) else 0

    def _count_missing(self) -> int | None:
        missing = 0
        try:
            reader = self._reader(self.sets)
            for start in range(0, self.sets.acked, READ_BACK_KEYS):
                pairs = [
                    self.sets.pair(n) for n in range(start, min(start + READ_BACK_KEYS, self.sets.acked))
                ]
                reply = reader.ask("MGET", *(key for key, _ in pairs))
                wanted = [value.encode() for _, value in pairs]
                found = reply if isinstance(reply, list) else [None] * len(wanted)
                missing += sum(have != want for have, want in zip(found, wanted, strict=True))
        except TransportError as error:
            say("unreadable", reason=str(error))
            return None
        return missing


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of `python -m replicator.demo.client`."""
    parser = argparse.ArgumentParser(
        prog="replicator.demo.client", description="Load a guest's redis and check it."
    )
    parser.add_argument("address")
    parser.add_argument("--port", type=int, default=REDIS_PORT)
    options = parser.parse_args(arguments)
    try:
        report = Client(options.address, options.port).run(sys.stdin.fileno())
    except TransportError as error:
        say("unreachable", reason=str(error))
        return error.exit_code
    say("report", **report.to_map())
    return 0 if report.kept else 1


if __name__ == "__main__":
    sys.exit(main())
