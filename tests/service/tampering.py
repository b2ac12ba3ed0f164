"""A way between two daemons that can turn over a bit of what passes; loopback TCP, a thread for each direction."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable


class Tamperer:
    """Forwards the three ports from `near` on to those from `far` on. `strike` damages what goes to the bulk port next."""

    def __init__(self, near: int, far: int) -> None:
        self._far = far
        self._armed = threading.Event()
        self.struck = threading.Event()
        self._servers = [socket.create_server(("127.0.0.1", near + offset)) for offset in range(3)]
        self._open: list[socket.socket] = []
        for offset, server in enumerate(self._servers):
            threading.Thread(target=self._accept, args=(server, offset), daemon=True).start()

    def strike(self) -> None:
        self._armed.set()

    def close(self) -> None:
        for one in (*self._servers, *self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self, server: socket.socket, offset: int) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = server.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self._far + offset))
                except OSError:
                    near.close()
                    continue
                self._open += [near, far]
                change = self._damage if offset == 0 else bytes
                for source, sink, make in ((near, far, change), (far, near, bytes)):
                    threading.Thread(target=_pump, args=(source, sink, make), daemon=True).start()

    def _damage(self, data: bytes) -> bytes:
        """In the last byte that came at once, which is a frame's and tells nothing about lengths."""
        if not self._armed.is_set():
            return data
        self._armed.clear()
        self.struck.set()
        return data[:-1] + bytes([data[-1] ^ 1])


def _pump(source: socket.socket, sink: socket.socket, change: Callable[[bytes], bytes]) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(change(data))
    for one in (source, sink):
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
