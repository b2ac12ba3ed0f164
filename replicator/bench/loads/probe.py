"""A client with one request under way: the next is sent when the reply to the last is there.

    python -m replicator.bench.loads.probe ADDRESS redis|clock|icmp [--seconds N | --until-told] [--gap-ms N --seed N]

`redis` sends INCR over one TCP connection, `icmp` echo requests from a raw socket. `clock` sends INCR too, and TIME
once a second in its place, which no two guests answer alike; the request after that is told of by itself. `--gap-ms`
waits between two requests, for a time drawn anew from 0 to twice that long, so that requests fall anywhere in an epoch. One JSON line at
the end says what was seen. `--until-told` goes on until stdin ends, and says each reply as it comes: `{"event":
"reply", "at_ns": CLOCK_MONOTONIC, "sent_ns": ...}`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, Protocol

from replicator.bench.figures.stats import percentile
from replicator.demo.client import Connection
from replicator.demo.guest_scripts import REDIS_PORT
from replicator.errors import ReplicatorError, TransportError
from replicator.units import NS_PER_MS, NS_PER_S

_PATIENCE_S = 30.0
_ICMP = struct.Struct("!BBHHH")
_ECHO_REQUEST, _ECHO_REPLY = 8, 0
_KEY = "replicator-bench"
#: From one reply that differs between two guests to the next.
CLOCK_EVERY_NS = NS_PER_S


class Asker(Protocol):
    """One request and its reply; TransportError when there is none."""

    #: The newest request was the first one after one that no two guests answer alike.
    is_after_difference: bool

    def ask(self) -> None: ...


class RedisAsker:
    """INCRs one key over a connection that is never opened again."""

    is_after_difference = False

    def __init__(self, address: str) -> None:
        self._connection = Connection(address, REDIS_PORT, "probe")
        self._connection.socket.settimeout(_PATIENCE_S)

    def ask(self) -> None:
        self._connection.ask("INCR", _KEY)


class ClockAsker(RedisAsker):
    """As RedisAsker, but asks for the guest's time of day every CLOCK_EVERY_NS."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self._asked_ns = time.monotonic_ns()
        self._has_differed = False

    def ask(self) -> None:
        now_ns = time.monotonic_ns()
        self.is_after_difference, self._has_differed = self._has_differed, False
        if now_ns - self._asked_ns < CLOCK_EVERY_NS:
            super().ask()
            return
        self._asked_ns = now_ns
        self._has_differed = True
        self._connection.ask("TIME")


class IcmpAsker:
    """Echo requests. One that is lost is not sent again: then there is no reply in time."""

    is_after_difference = False

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        self._socket.settimeout(_PATIENCE_S)
        self._socket.connect((address, 0))
        self._identifier, self._number = os.getpid() & 0xFFFF, 0

    def ask(self) -> None:
        self._number = (self._number + 1) & 0xFFFF
        try:
            self._socket.send(encode_echo(self._identifier, self._number))
            while read_answer(self._socket.recv(2048), self._identifier) != self._number:
                pass
        except OSError as error:
            raise TransportError(f"no echo: {error}") from error


ASKERS: Final[Mapping[str, Callable[[str], Asker]]] = {
    "redis": RedisAsker,
    "clock": ClockAsker,
    "icmp": IcmpAsker,
}


def encode_echo(identifier: int, number: int, payload: bytes = bytes(56)) -> bytes:
    """An ICMP echo request (RFC 792)."""
    unsummed = _ICMP.pack(_ECHO_REQUEST, 0, 0, identifier, number) + payload
    return _ICMP.pack(_ECHO_REQUEST, 0, checksum(unsummed), identifier, number) + payload


def checksum(data: bytes) -> int:
    """The internet's (RFC 1071)."""
    padded = data + bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def read_answer(packet: bytes, identifier: int) -> int | None:
    """The number of the echo request that an IPv4 packet answers; None when it is something else."""
    head = (packet[0] & 15) * 4 if packet else 0
    if len(packet) < head + _ICMP.size:
        return None
    kind, _, _, found, number = _ICMP.unpack_from(packet, head)
    return int(number) if (kind, found) == (_ECHO_REPLY, identifier) else None


def summarize(
    latencies_ms: Sequence[float], seconds: float, after_difference_ms: Sequence[float] = ()
) -> dict[str, float]:
    """Metrics of one run; nothing when there was no reply. The last are those of `latencies_ms` after a difference."""
    if not latencies_ms:
        return {}
    after = (
        {"latency after a difference p50": percentile(after_difference_ms, 0.5)}
        if after_difference_ms
        else {}
    )
    return {
        **after,
        "rate": len(latencies_ms) / seconds,
        "latency avg": sum(latencies_ms) / len(latencies_ms),
        "latency p50": percentile(latencies_ms, 0.5),
        "latency p99": percentile(latencies_ms, 0.99),
        "latency p99.9": percentile(latencies_ms, 0.999),
        "latency max": max(latencies_ms),
    }


def exchanges(
    asker: Asker, gaps_s: Iterator[float], is_over: Callable[[], bool]
) -> Iterator[tuple[int, int]]:
    """(sent, answered) of each request."""
    while not is_over():
        sent_ns = time.monotonic_ns()
        asker.ask()
        yield sent_ns, time.monotonic_ns()
        time.sleep(next(gaps_s))


def stdin_has_ended() -> bool:
    return bool(select.select([sys.stdin], [], [], 0)[0])


def draw_gaps(mean_ms: float, seed: int) -> Iterator[float]:
    """Seconds to wait, each drawn evenly from 0 to twice the mean."""
    chance = random.Random(seed)
    while True:
        yield chance.uniform(0, 2 * mean_ms) / 1000


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0, or that of the error that is told on stderr."""
    parser = argparse.ArgumentParser(prog="replicator.bench.loads.probe")
    parser.add_argument("address")
    parser.add_argument("kind", choices=tuple(ASKERS))
    until = parser.add_mutually_exclusive_group()
    until.add_argument("--seconds", type=float, default=1.0)
    until.add_argument("--until-told", action="store_true")
    parser.add_argument("--gap-ms", type=float, default=0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    try:
        asker = ASKERS[options.kind](options.address)
        began_ns = time.monotonic_ns()
        end_ns = began_ns + int(options.seconds * NS_PER_S)
        is_over = stdin_has_ended if options.until_told else lambda: time.monotonic_ns() >= end_ns
        latencies_ms, after_ms = [], []
        for sent_ns, at_ns in exchanges(asker, draw_gaps(options.gap_ms, options.seed), is_over):
            latencies_ms.append((at_ns - sent_ns) / NS_PER_MS)
            if asker.is_after_difference:
                after_ms.append(latencies_ms[-1])
            if options.until_told:
                print(json.dumps({"event": "reply", "at_ns": at_ns, "sent_ns": sent_ns}), flush=True)
    except ReplicatorError as error:
        print(f"probe: {error}", file=sys.stderr)
        return error.exit_code
    seconds = (time.monotonic_ns() - began_ns) / NS_PER_S
    print(
        json.dumps({"event": "seen", "at_ns": began_ns, **summarize(latencies_ms, seconds, after_ms)}),
        flush=True,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
