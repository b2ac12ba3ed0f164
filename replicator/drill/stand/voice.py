"""Who speaks with the guest's MAC address: a packet socket on each host's port of the switch, with kernel time stamps.

It judges nothing: it says who spoke, in the order of time.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import selectors
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Self, TypeVar

from replicator.demo.lab import GUEST, HOST_A, HOST_B, NETNS_DIR, SWITCH, Lab, Link
from replicator.errors import GuestError
from replicator.units import NS_PER_S

CLONE_NEWNET = 0x40000000
ETH_P_ALL = 3
PACKET_OUTGOING = 4
SOL_PACKET, PACKET_STATISTICS = 263, 6
PACKET_COUNTS = struct.Struct("II")
SO_RCVBUFFORCE = 33
SO_TIMESTAMPNS = SCM_TIMESTAMPNS = 35
STAMP_KIND = (socket.SOL_SOCKET, SCM_TIMESTAMPNS)
TIMESPEC = struct.Struct("qq")
BUFFER_BYTES = 8 << 20
ETHERNET_HEADER_BYTES = 14
LOOK_S = 0.1

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Word:
    """A frame of the guest. `at_ns` is CLOCK_REALTIME, as the kernel of the switch saw it."""

    at_ns: int
    host: str


def call_inside(namespace: str, make: Callable[[], _T]) -> _T:
    """`make()` in a network namespace, on a thread of its own; the sockets it makes belong there for good."""
    made: list[_T] = []

    def work() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        fd = os.open(NETNS_DIR / namespace, os.O_RDONLY)
        try:
            if libc.setns(fd, CLONE_NEWNET) == 0:
                made.append(make())
        finally:
            os.close(fd)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if not made:
        raise GuestError(f"nothing could be opened in namespace {namespace}", hint="this needs root")
    return made[0]


class GuestVoice:
    """Context manager: listens from the start to the end."""

    def __init__(self, lab: Lab, mac: str) -> None:
        self._mac = bytes.fromhex(mac.replace(":", ""))
        self._words: list[Word] = []
        self._sockets = {
            host: call_inside(lab.namespaces[SWITCH], partial(_listen, Link(host, GUEST).port))
            for host in (HOST_A, HOST_B)
        }
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="guest-voice")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._ending.set()
        self._thread.join()
        for listener in self._sockets.values():
            listener.close()

    def words(self, after_ns: int = 0) -> list[Word]:
        """What was said, in the order of time."""
        return sorted((word for word in list(self._words) if word.at_ns > after_ns), key=lambda w: w.at_ns)

    def speakers(self, after_ns: int = 0) -> list[str]:
        """Who spoke one after the other; a host that stands here twice has spoken before and after another."""
        return [host for host, _ in itertools.groupby(word.host for word in self.words(after_ns))]

    def forget(self) -> None:
        """Drop what was said so far."""
        self._words.clear()

    def lost(self) -> int:
        """Frames since the last call that the kernel could not keep for us: nothing is proven if there are any."""
        counts = [
            listener.getsockopt(SOL_PACKET, PACKET_STATISTICS, PACKET_COUNTS.size)
            for listener in self._sockets.values()
        ]
        return sum(PACKET_COUNTS.unpack(pair)[1] for pair in counts)

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            for host, listener in self._sockets.items():
                selector.register(listener, selectors.EVENT_READ, host)
            while not self._ending.is_set():
                for key, _ in selector.select(LOOK_S):
                    self._take_all(self._sockets[key.data], key.data)

    def _take_all(self, listener: socket.socket, host: str) -> None:
        while True:
            try:
                header, extra, _, address = listener.recvmsg(ETHERNET_HEADER_BYTES, 64)
            except BlockingIOError:
                return
            if address[2] == PACKET_OUTGOING or header[6:12] != self._mac:
                continue
            (stamp,) = [data for level, kind, data in extra if (level, kind) == STAMP_KIND]
            seconds, nanoseconds = TIMESPEC.unpack(stamp)
            self._words.append(Word(seconds * NS_PER_S + nanoseconds, host))


def _listen(interface: str) -> socket.socket:
    listener = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    listener.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
    listener.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    listener.bind((interface, 0))
    listener.setblocking(False)
    return listener
