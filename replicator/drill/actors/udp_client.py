"""A client of the synthetic guest: numbered requests without an end, and a check of every reply (counting.py).

    python -m replicator.drill.actors.udp_client ADDRESS

It says what demo/client.py says, in the same words: connected, progress, report. A line `stop` on stdin (or its end)
ends the load; then it waits for the reply to a later request, so that the guest's last word is judged, too.
"""

from __future__ import annotations

import argparse
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Sequence

from replicator.demo.client import say
from replicator.demo.promises import Report
from replicator.drill.actors.counting import Answer, Count, check_answers, longest_gap
from replicator.guests.synthetic_frames import ONCE_FLAG, UDP_SERVICE_PORT
from replicator.units import NS_PER_MS, NS_PER_S

SEND_EVERY_NS = 5 * NS_PER_MS
PROGRESS_EVERY_NS = 50 * NS_PER_MS
#: For the last word, and for the first.
PATIENCE_NS = 5_000 * NS_PER_MS
_REQUEST, _REPLY = struct.Struct("!Q"), struct.Struct("!QQQQ")


class Client:
    """One run over one socket."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.connect((address, UDP_SERVICE_PORT))
        self._socket.setblocking(False)
        self._answers: list[Answer] = []
        #: Of the newest request. The numbers of a later client are higher.
        self._number = time.monotonic_ns() // 1000  # fewer than one a microsecond are sent
        self._send_ns = self._progress_ns = self._began_ns = time.monotonic_ns()

    def run(self, commands_fd: int) -> Report:
        self._await_first()
        if self._answers:
            say("connected")
            self._began_ns = time.monotonic_ns()
            self._load(commands_fd)
            self._await_last()
        return self._report()

    def _await_first(self) -> None:
        end_ns = time.monotonic_ns() + PATIENCE_NS
        while not self._answers and time.monotonic_ns() < end_ns:
            self._turn()

    def _load(self, commands_fd: int) -> None:
        while not self._turn(commands_fd) or os.read(commands_fd, 4096).strip() not in (b"", b"stop"):
            self._tell_progress()

    def _await_last(self) -> None:
        wanted, end_ns = ONCE_FLAG | (self._number + 1), time.monotonic_ns() + PATIENCE_NS
        while self._answers[-1].sequence < wanted and time.monotonic_ns() < end_ns:
            self._turn()

    def _turn(self, commands_fd: int | None = None) -> bool:
        """Send what is due, take what came. True when there is a command."""
        self._send_due()
        watched = [self._socket.fileno(), *([] if commands_fd is None else [commands_fd])]
        left_ns = max(0, self._send_ns - time.monotonic_ns())
        readable, _, _ = select.select(watched, [], [], left_ns / NS_PER_S)
        self._take()
        return commands_fd in readable

    def _send_due(self) -> None:
        now = time.monotonic_ns()
        if now < self._send_ns:
            return
        self._send_ns = max(self._send_ns + SEND_EVERY_NS, now)
        self._number += 1
        try:
            self._socket.send(_REQUEST.pack(ONCE_FLAG | self._number))
        except OSError:
            return  # nobody answers ARP for now: a request lost on its way

    def _take(self) -> None:
        while True:
            try:
                data = self._socket.recv(2048)
            except BlockingIOError:
                return
            except OSError:
                continue
            sequence, counter, _, boots = _REPLY.unpack_from(data)
            self._answers.append(Answer(sequence, counter, boots, time.monotonic_ns()))

    def _tell_progress(self) -> None:
        now = time.monotonic_ns()
        if self._answers and now - self._progress_ns >= PROGRESS_EVERY_NS:
            self._progress_ns = now
            say("progress", increments=len(self._answers))

    def _report(self) -> Report:
        now, answers = time.monotonic_ns(), self._answers
        count = check_answers(answers)
        gap_from, gap_to = longest_gap(answers, self._began_ns, now)
        return Report(
            increments_acked=len(answers),
            first_value=answers[0].counter if answers else 0,
            last_value=answers[-1].counter if answers else 0,
            increments_lost=count.lost,
            increments_repeated=count.repeated,
            consecutive=not count.lost and not count.repeated,
            longest_gap_ms=round((gap_to - gap_from) / NS_PER_MS, 3),
            longest_gap_from_ns=gap_from,
            longest_gap_to_ns=gap_to,
            connection_survived=bool(answers),
            sets_acked=0,
            sets_missing=0,
            broken=tuple(describe(count, bool(answers))),
        )


def describe(count: Count, answered: bool) -> list[str]:
    """Every broken promise in words."""
    words = [] if answered else ["no request was answered"]
    if count.lost:
        words.append(f"{count.lost} acknowledged requests lost")
    if count.repeated:
        words.append(f"{count.repeated} requests executed twice")
    if count.restarts:
        words.append("the guest started afresh")
    return words


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="replicator.drill.actors.udp_client", description="Count with a guest."
    )
    parser.add_argument("address")
    options = parser.parse_args(arguments)
    report = Client(options.address).run(sys.stdin.fileno())
    say("report", **report.to_map())
    return 0 if report.kept else 1


if __name__ == "__main__":
    sys.exit(main())
