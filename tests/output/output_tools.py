"""The world around a relay: a packet socket that plays the network, and a guest made of one unix datagram socket
that behaves like QEMU's (bound, not connected, `sendto`)."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from replicator.compare import load_comparer
from replicator.engine.output import Frame
from replicator.output.base import RelayCallbacks
from replicator.output.colo_relay import ColoRelay
from replicator.output.native_relay import NativeRelay
from replicator.output.relay import NicEnds, Relay


class ColoAlone(ColoRelay):
    """A COLO primary's relay that has no secondary."""

    def __init__(self, ends: Sequence[NicEnds], **options: Any) -> None:
        super().__init__(ends, load_comparer().guarded(lambda: 0), **options)


AnyRelay = Relay | NativeRelay | ColoAlone

GUEST_MAC = bytes.fromhex("525400000001")
CLIENT_MAC = bytes.fromhex("525400000002")
ETHERTYPE = b"\x88\xb5"
TAP_NAME = "rtap0"
WAIT_S = 5.0


def frame_out(number: int, size: int = 60) -> bytes:
    """The guest's frame `number` to the network."""
    return (CLIENT_MAC + GUEST_MAC + ETHERTYPE + number.to_bytes(4, "big")).ljust(size, b".")


def frame_in(number: int, size: int = 60) -> bytes:
    """The network's frame `number` to the guest."""
    return (GUEST_MAC + CLIENT_MAC + ETHERTYPE + number.to_bytes(4, "big")).ljust(size, b".")


def number_of(data: bytes) -> int:
    return int.from_bytes(data[14:18], "big")


@dataclass(frozen=True)
class Paths:
    guest_path: Path
    relay_path: Path
    name: str = "nic0"
    mac: str = "52:54:00:00:00:01"


class GuestEnd:
    """What QEMU's `-netdev dgram` does with a NIC."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        with contextlib.suppress(FileNotFoundError):
            paths.guest_path.unlink()
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(paths.guest_path))
        self.socket.settimeout(WAIT_S)

    def send(self, *frames: bytes) -> None:
        for data in frames:
            self.socket.sendto(data, str(self._paths.relay_path))

    def recv(self) -> bytes:
        return self.socket.recv(65536)

    def recv_now(self) -> list[bytes]:
        """Everything in the queue."""
        out = []
        while select.select([self.socket], [], [], 0)[0]:
            out.append(self.recv())
        return out


class Network:
    """The other end of the TAP: a packet socket on the interface."""

    def __init__(self, name: str) -> None:
        protocol = int.from_bytes(ETHERTYPE, "big")
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(protocol))
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 20)
        self.socket.bind((name, protocol))
        self.socket.settimeout(WAIT_S)

    def send(self, *frames: bytes) -> None:
        for data in frames:
            self.socket.send(data)

    def recv(self) -> bytes:
        """The next frame that the guest's side sent; our own are seen here too."""
        while True:
            data, address = self.socket.recvfrom(65536)
            if address[2] != socket.PACKET_OUTGOING:
                return data

    def recv_numbers(self, count: int) -> list[int]:
        return [number_of(self.recv()) for _ in range(count)]

    def recv_now(self) -> list[int]:
        out = []
        while select.select([self.socket], [], [], 0)[0]:
            data, address = self.socket.recvfrom(65536)
            if address[2] != socket.PACKET_OUTGOING:
                out.append(number_of(data))
        return out


@dataclass
class Heard:
    """Records the callbacks and lets a test wait for them."""

    inputs: list[tuple[int, Frame]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)
    #: How often a first frame was held.
    waits: int = 0
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def callbacks(self) -> RelayCallbacks:
        return RelayCallbacks(
            on_input=self._on_input,
            on_hold_full=lambda: self._say("full"),
            on_output_waiting=self._on_waiting,
            on_muted=lambda: self._say("muted"),
            on_unmuted=lambda: self._say("unmuted"),
            on_failed=self._on_failed,
        )

    def wait_for(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, WAIT_S), f"heard only {self}"

    def _on_input(self, first_seq: int, frames: Sequence[Frame]) -> None:
        with self._changed:
            self.inputs.extend(enumerate(frames, first_seq))
            self._changed.notify_all()

    def _on_waiting(self) -> None:
        with self._changed:
            self.waits += 1
            self._changed.notify_all()

    def _on_failed(self, error: Exception) -> None:
        with self._changed:
            self.errors.append(error)
            self._changed.notify_all()

    def _say(self, word: str) -> None:
        with self._changed:
            self.said.append(word)
            self._changed.notify_all()


def wait_until(condition: Callable[[], bool]) -> None:
    """For what only stats tell: asks again until it is so."""
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        os.sched_yield()
