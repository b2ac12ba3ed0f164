"""Hears the guest speak from another host: frames with its MAC that come in on any interface of this one.

Needs CAP_NET_RAW; without it the ear is deaf, and says why.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import time
from collections.abc import Sequence
from typing import Final, Self

from replicator.units import NS_PER_S

ETH_P_ALL: Final = 3
PACKET_OUTGOING: Final = 4
HEADER_BYTES: Final = 14
SO_TIMESTAMPNS: Final = 35
#: Looks whether the kernel stamps yet, and how late each datagram is read.
STAMP_TRIES: Final = 50
STAMP_READ_S: Final = 0.002
_TIMESPEC: Final = struct.Struct("qq")


class GuestEar:
    """Context manager: open from the start to the end."""

    def __init__(self, macs: Sequence[str]) -> None:
        self._macs = {bytes.fromhex(mac.replace(":", "")) for mac in macs}
        self._socket: socket.socket | None = None
        #: Why nothing can be heard, "" if it can.
        self.why_deaf = "" if macs else "the guest has no NIC whose MAC is known"

    def __enter__(self) -> Self:
        if self._macs:
            try:
                self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
                self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
                self._socket.setblocking(False)
                _await_stamps()
            except OSError as error:
                self.why_deaf = f"no packet socket: {error.strerror}"
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._socket is not None:
            self._socket.close()

    def wait(self, timeout_s: float, *, since_ns: int) -> int | None:
        """When the first frame of the guest after `since_ns` (CLOCK_REALTIME, as the kernel stamps frames) came in, on
        CLOCK_MONOTONIC; None when there was none in time."""
        if self._socket is None:
            return None
        deadline_s = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ)
            while (left_s := deadline_s - time.monotonic()) > 0:
                selector.select(left_s)
                while (heard := _receive(self._socket)) is not None:
                    source, at_ns = heard
                    if source in self._macs and at_ns > since_ns:
                        return time.monotonic_ns() - (time.time_ns() - at_ns)
        return None


def _await_stamps() -> None:
    """The kernel begins to stamp frames a moment after it was asked to; until then it stamps them when they are read, and
    one from before would seem to be new. So datagrams to ourselves are read late, until their stamps are earlier."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        probe.bind(("127.0.0.1", 0))
        for _ in range(STAMP_TRIES):
            with contextlib.suppress(OSError):  # no loopback in this network
                probe.sendto(b"?", probe.getsockname())
            sent_ns = time.time_ns()
            time.sleep(STAMP_READ_S)
            with contextlib.suppress(BlockingIOError):
                _, extra, _, _ = probe.recvmsg(1, 64, socket.MSG_DONTWAIT)
                if 0 < _stamp_in(extra) <= sent_ns:
                    return


def _stamp_in(extra: Sequence[tuple[int, int, bytes]]) -> int:
    """CLOCK_REALTIME; 0 when there is none."""
    for level, kind, data in extra:
        if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS):
            seconds, nanoseconds = _TIMESPEC.unpack(data)
            return int(seconds * NS_PER_S + nanoseconds)
    return 0


def _receive(listener: socket.socket) -> tuple[bytes, int] | None:
    """Source MAC of the next frame, b"" of one that left this host, and when it came; None when there is none."""
    with contextlib.suppress(BlockingIOError):
        frame, extra, _, address = listener.recvmsg(HEADER_BYTES, 64)
        return (b"" if address[2] == PACKET_OUTGOING else frame[6:12]), _stamp_in(extra)
    return None
