"""Orders to the services inside the demonstration's guest (demo/guest_scripts.py), sent from the client's host."""

from __future__ import annotations

import itertools
import socket
import time
from typing import Self

from replicator.demo.guest_scripts import COMMAND_PORT
from replicator.demo.lab import CLIENT, Lab
from replicator.demo.stage import GUEST_IP
from replicator.drill.stand.voice import call_inside
from replicator.errors import GuestError

_TRY_S = 0.5
_PAUSE_S = 0.05
_ANSWER_BYTES = 2048


def connect_from_client(lab: Lab) -> socket.socket:
    sock = call_inside(lab.namespaces[CLIENT], lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    sock.connect((GUEST_IP, COMMAND_PORT))
    return sock


class GuestOrders:
    """Context manager. Each order may reach the guest more than once, and none minds that. Takes over `sock`, which is
    connected to the guest's port of commands."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._socket.settimeout(_TRY_S)
        #: Goes with each order, and comes back with its answers: one that was given up may still be answered.
        self._numbers = itertools.count(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._socket.close()

    def await_boot(self, timeout_s: float) -> None:
        """Returns when the guest's services answer; they begin when redis does."""
        self._ask("ping", timeout_s)

    def start_work(self, kind: str) -> None:
        """In the place of any that was started before."""
        self._ask(f"work {kind}", 20 * _TRY_S)

    def count_work(self) -> int:
        """Units done since the start. What is counted is the moment at which the request reaches the guest."""
        return int(self._ask("worked", 20 * _TRY_S))

    def end_work(self) -> None:
        self._ask("rest", 20 * _TRY_S)

    def _ask(self, order: str, timeout_s: float) -> str:
        """The word before the order in its answer. GuestError when none comes, or the guest does not know it."""
        deadline = time.monotonic() + timeout_s
        numbered = f"{order} {next(self._numbers)}"
        while time.monotonic() < deadline:
            word = self._try(numbered)
            if word == "unknown":
                raise GuestError(f"the guest does not know the order {order!r}")
            if word is not None:
                return word
        raise GuestError(f"the guest did not answer {order!r} within {timeout_s:.0f} s")

    def _try(self, order: str) -> str | None:
        """The word before the order in an answer to it; None when none comes in time."""
        try:
            self._socket.send(order.encode())
            while True:
                word, _, rest = self._socket.recv(_ANSWER_BYTES).decode().strip().partition(" ")
                if rest == order:
                    return word
        except TimeoutError:
            return None
        except OSError:
            # Nobody listens yet, or no such host: said at once, and again at once if asked again.
            time.sleep(_PAUSE_S)
            return None
