"""ICMP echo requests at a steady beat, whether they are answered or not: when does a host answer again?

    python -m replicator.bench.loads.pulse ADDRESS [--every-ms N]

A request that was lost is never sent again, so what is seen is the guest and not the patience of some TCP. Each reply
is said as it comes: `{"event": "echo", "at_ns": CLOCK_MONOTONIC, "number": N}`. Ends when stdin does.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import socket
import sys
import time
from collections.abc import Sequence

from replicator.bench.loads.probe import encode_echo, read_answer
from replicator.units import NS_PER_MS, NS_PER_S

_PACKET_BYTES = 2048


class Pulse:
    """Sends and listens in one thread."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        self._socket.setblocking(False)
        self._socket.connect((address, 0))
        self._identifier, self._number = os.getpid() & 0xFFFF, 0
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._socket, selectors.EVENT_READ)
        self._selector.register(sys.stdin, selectors.EVENT_READ)

    def run(self, every_ns: int) -> None:
        due_ns = time.monotonic_ns()
        while True:
            left_ns = due_ns - time.monotonic_ns()
            if left_ns <= 0:
                due_ns += every_ns
                self._send()
                continue
            for key, _ in self._selector.select(left_ns / NS_PER_S):
                if key.fileobj is sys.stdin:
                    return
                self._listen()

    def _send(self) -> None:
        self._number = (self._number + 1) & 0xFFFF
        try:
            self._socket.send(encode_echo(self._identifier, self._number))
        except OSError:
            # No room, or nobody has this address at the moment: the next one may fare better.
            return

    def _listen(self) -> None:
        try:
            packet = self._socket.recv(_PACKET_BYTES)
        except OSError:
            return
        if (number := read_answer(packet, self._identifier)) is not None:
            line = {"event": "echo", "at_ns": time.monotonic_ns(), "number": number}
            print(json.dumps(line), flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="replicator.bench.loads.pulse")
    parser.add_argument("address")
    parser.add_argument("--every-ms", type=int, default=5)
    options = parser.parse_args(arguments)
    Pulse(options.address).run(options.every_ms * NS_PER_MS)


if __name__ == "__main__":
    main()
