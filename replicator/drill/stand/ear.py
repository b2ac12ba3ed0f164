"""Hears what daemons, client and relays say, each line as it comes, and when one of them ends. A thread of its own.

All of it becomes `Event`s of one list. Whoever waits, waits for an event: nothing here is asked again and again.
"""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from replicator.demo.timeline import Event, parse_event
from replicator.errors import GuestError
from replicator.units import NS_PER_S

ENDED = "ended"
_READ_BYTES = 1 << 16
_BACKLOG = 16


@dataclass(slots=True)
class _Source:
    """Somebody who speaks. `name` is known once a daemon has said who it is."""

    read: Callable[[], bytes]
    close: Callable[[], None]
    name: str = ""
    buffer: bytes = b""


@dataclass(slots=True)
class _Watched:
    """A process whose end is told, and who it is."""

    name: str
    process: subprocess.Popen[bytes]
    pidfd: int = field(default=-1)


class Ear:
    """Context manager. Daemons connect to `path` (actors/stop_point.py)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._events: list[Event] = []
        self._changed = threading.Condition()
        self._sources: dict[int, _Source] = {}
        self._watched: dict[int, _Watched] = {}
        self._stops: dict[str, socket.socket] = {}
        self._epoll = select.epoll()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="ear", daemon=True)

    def __enter__(self) -> Self:
        self._listener.bind(str(self.path))
        self._listener.listen(_BACKLOG)
        for fd in (self._listener.fileno(), self._wake_fd):
            self._epoll.register(fd, select.EPOLLIN)
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._ending = True
        os.eventfd_write(self._wake_fd, 1)
        self._thread.join()
        for source in self._sources.values():
            source.close()
        for watched in self._watched.values():
            os.close(watched.pidfd)
        self._listener.close()
        self._epoll.close()
        os.close(self._wake_fd)

    # What is listened to.

    def listen_to(self, name: str, process: subprocess.Popen[bytes]) -> None:
        """Its stdout, if that is a pipe, and its end."""
        if process.stdout is not None:
            fd = process.stdout.fileno()
            self._sources[fd] = _Source(lambda: os.read(fd, _READ_BYTES), process.stdout.close, name)
            self._epoll.register(fd, select.EPOLLIN)
        watched = _Watched(name, process, os.pidfd_open(process.pid))
        self._watched[watched.pidfd] = watched
        self._epoll.register(watched.pidfd, select.EPOLLIN)

    def order(self, name: str, words: str) -> None:
        """A line to a daemon. One that has died does not hear it."""
        with self._changed:
            stop = self._stops.get(name)
        if stop is not None:
            try:
                stop.sendall(words.encode() + b"\n")
            except OSError:
                return

    # What was heard.

    @property
    def mark(self) -> int:
        """Where the list of events ends now."""
        return len(self._events)

    def since(self, mark: int) -> list[Event]:
        with self._changed:
            return self._events[mark:]

    def find(self, mark: int, wanted: Callable[[Event], bool]) -> Event | None:
        return next((event for event in self.since(mark) if wanted(event)), None)

    def wait(self, what: str, mark: int, wanted: Callable[[Event], bool], timeout_s: float) -> Event:
        """The first such event after `mark`. GuestError says what did not happen in time."""
        deadline = time.monotonic() + timeout_s
        seen = mark
        with self._changed:
            while True:
                for event in self._events[seen:]:
                    if wanted(event):
                        return event
                seen = len(self._events)
                left = deadline - time.monotonic()
                if left <= 0:
                    raise GuestError(f"not within {timeout_s:.0f} s: {what}")
                self._changed.wait(left)

    def await_end(self, process: subprocess.Popen[bytes], timeout_s: float) -> None:
        """The process has ended, and all events from now on are later than its end. GuestError when it lives on."""
        pid = process.pid
        self.wait(
            f"process {pid} ends",
            0,
            lambda event: event.name == ENDED and event.fields.get("pid") == pid,
            timeout_s,
        )

    def state_of(self, name: str) -> str:
        """The last state word of a side."""
        with self._changed:
            for event in reversed(self._events):
                if event.source == name and event.name in ("state", ENDED):
                    return str(event.fields.get("word", ENDED))
        return ""

    # The thread.

    def _run(self) -> None:
        while not self._ending:
            for fd, _ in self._epoll.poll():
                if fd == self._listener.fileno():
                    self._accept()
                elif fd in self._sources:
                    self._read(fd)
                elif fd in self._watched:
                    self._note_end(fd)

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        fd = connection.fileno()
        self._sources[fd] = _Source(lambda: connection.recv(_READ_BYTES), connection.close)
        # By the first line the source's name is known; the socket is kept for orders then.
        self._stops[f"#{fd}"] = connection
        self._epoll.register(fd, select.EPOLLIN)

    def _read(self, fd: int) -> None:
        source = self._sources[fd]
        try:
            piece = source.read()
        except OSError:
            piece = b""
        if not piece:
            self._epoll.unregister(fd)
            del self._sources[fd]
            source.close()
            return
        *lines, source.buffer = (source.buffer + piece).split(b"\n")
        heard = [event for line in lines if (event := parse_event(line, source.name)) is not None]
        if not source.name and heard and heard[0].name == "here":
            heard = self._introduce(fd, source, heard)
        self._add(heard)

    def _introduce(self, fd: int, source: _Source, heard: list[Event]) -> list[Event]:
        source.name = str(heard[0].fields["node"])
        with self._changed:
            self._stops[source.name] = self._stops.pop(f"#{fd}")
        return [Event(event.at_ns, source.name, event.name, event.fields) for event in heard]

    def _note_end(self, pidfd: int) -> None:
        watched = self._watched.pop(pidfd)
        self._epoll.unregister(pidfd)
        os.close(pidfd)
        code = watched.process.wait()
        self._add(
            [Event(time.monotonic_ns(), watched.name, ENDED, {"code": code, "pid": watched.process.pid})]
        )

    def _add(self, events: list[Event]) -> None:
        with self._changed:
            self._events += events
            self._changed.notify_all()


def describe(event: Event, zero_ns: int) -> str:
    """For a report: when, who, what."""
    fields = json.dumps(dict(event.fields)) if event.fields else ""
    return (
        f"{(event.at_ns - zero_ns) * 1000 / NS_PER_S:+9.1f} ms {event.source} {event.name} {fields}".rstrip()
    )
