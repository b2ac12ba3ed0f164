"""Writes the journals of a pair that keeps every promise, line by line, for tests to break."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

MS = 1_000_000
TTL_NS = 300 * MS
#: CLOCK_BOOTTIME is so far ahead of CLOCK_MONOTONIC.
OFFSET_NS = 5_000 * MS


@dataclass
class Side:
    """One node and its file."""

    node: str
    boot: str = "one-boot"
    lines: list[dict[str, Any]] = field(default_factory=list)

    def content(self) -> bytes:
        return b"".join(json.dumps(line).encode() + b"\n" for line in self.lines)

    def find(self, event: str, index: int = 0) -> dict[str, Any]:
        """The line with this event, the first or another one."""
        return [line for line in self.lines if line["event"] == event][index]


class PairMaker:
    """Two sides; `epoch`, `fail_over`, `resync` and so on append what both would have said."""

    def __init__(self, *, same_boot: bool = True, arbiter: bool = True) -> None:
        self.a, self.b = Side("a"), Side("b", "one-boot" if same_boot else "another-boot")
        self.now_ns, self.term, self.number, self.sessions = 1_000 * MS, 1, 0, 0
        self.session = ""
        self.is_silent = False
        self._arbiter = arbiter
        self.primary, self.secondary = self.a, self.b
        self._begin(self.b)
        self._say(self.b, "secondary", term=0, session="", epoch=0, digest="")
        self._begin(self.a)
        self._reign(self.a, promoted=False)

    def _say(self, side: Side, event: str, **fields: Any) -> None:
        self.now_ns += MS // 10
        side.lines.append({"event": event, "at_ns": self.now_ns, **fields})

    def _begin(self, side: Side) -> None:
        clocks = {"boottime_ns": self.now_ns + OFFSET_NS, "wall_ns": self.now_ns}
        who = {"format": 1, "node": side.node, "guest": "g", "pid": 1, "boot": side.boot}
        self._say(side, "journal", **who, arbiter=self._arbiter, **clocks)

    def _reign(self, side: Side, *, promoted: bool) -> None:
        self._say(side, "primary", term=self.term, promoted=promoted, **self._lease())

    def _lease(self) -> dict[str, int]:
        boottime_ns = self.now_ns + OFFSET_NS
        return {"deadline_ns": boottime_ns + TTL_NS, "boottime_ns": boottime_ns}

    def renew(self) -> None:
        self._say(self.primary, "lease", term=self.term, **self._lease())

    def digest(self, number: int) -> str:
        return f"{self.session}-{number}"

    def sync(self) -> None:
        """A new session, its first epoch, and the bar lifted."""
        self.sessions += 1
        self.session = f"session-{self.sessions}"
        if self.is_silent:
            self._say(self.primary, "heard")
        self.is_silent = False
        self._say(self.primary, "link-up")
        self._say(self.primary, "greeting", session=self.session)
        self._say(self.secondary, "hello", session=self.session, term=self.term, mismatch="")
        self._end_vm()
        self._say(self.secondary, "discarding", reason="a new synchronisation begins")
        self._accept(0, "")
        self.base = 0
        self.epoch(first=True)
        self._say(self.primary, "lifting", session=self.session, epoch=self.number)
        self._say(self.primary, "lifted")
        self._say(self.primary, "state", word="protected lag 3 ms")
        self._say(self.secondary, "state", word=f"standby at epoch {self.number}")

    def _accept(self, epoch: int, digest: str) -> None:
        agreed = {"session": self.session, "epoch": epoch, "digest": digest}
        self._say(self.secondary, "accepting", term=self.term, **agreed)
        self._say(self.primary, "accepted", **agreed)

    # What a pair in COLO says more: colo_maker.py.

    def _suspend_vm(self) -> None: ...

    def _join_vm(self) -> None: ...

    def _run_vm(self, *, heard: bool) -> None: ...

    def _stop_comparing(self) -> None: ...

    def _end_vm(self) -> None: ...

    def _of_vm(self, field: str) -> dict[str, bool]:
        """The field of a line that says whether there is a VM."""
        return {}

    def epoch(self, *, first: bool = False, acked: bool = True) -> None:
        """One epoch from the pause to the release."""
        self.number += 1
        number, digest = self.number, self.digest(self.number)
        name = {"session": self.session, "epoch": number}
        self._suspend_vm()
        self._say(self.primary, "pausing", epoch=number)
        if first:
            self._say(self.primary, "holding", epoch=number)
        self._say(self.primary, "paused", epoch=number, dirty_pages=7)
        self._say(self.primary, "opened", epoch=number, base=self.base, **self._of_vm("runs_vm"))
        self._join_vm()
        self._say(self.primary, "resumed", epoch=number)
        self._say(self.primary, "sealed", **name, digest=digest, parts=2, bytes=9)
        self.base = number
        self._say(self.secondary, "begun", **name, term=self.term, full=first, **self._of_vm("runs_vm"))
        self._say(self.secondary, "committed", **name, term=self.term, digest=digest, parts=2, bytes=9)
        self._say(self.secondary, "acking", **name, digest=digest)
        if acked:
            self._say(self.primary, "acked", **name, digest=digest)
            self._say(self.primary, "released", epoch=number)
        self._run_vm(heard=acked)
        self.renew()

    def blink(self) -> None:
        """The link breaks before an ack arrives and comes back: the answer to the hello is the ack."""
        self.epoch(acked=False)
        self._say(self.primary, "link-down", reason="a cable")
        self._stop_comparing()
        self._say(self.secondary, "link-down", reason="a cable")
        self._say(self.primary, "link-up")
        self._say(self.primary, "greeting", session=self.session)
        self._say(self.secondary, "hello", session=self.session, term=self.term, mismatch="")
        self._accept(self.number, self.digest(self.number))
        self._say(self.primary, "released", epoch=self.number)

    def go_alone(self) -> None:
        """The secondary is lost; what is held leaves under the grant."""
        self.is_silent = True
        self._say(self.primary, "silent")
        self._stop_comparing()
        self._say(self.primary, "asking-alone")
        self._say(self.primary, "alone")
        self._say(self.primary, "passing")
        self._say(self.primary, "state", word="active-alone")

    def restart_secondary(self) -> None:
        self._begin(self.secondary)
        self._say(self.secondary, "secondary", term=0, session="", epoch=0, digest="")

    def fail_over(self, *, force: bool = False, restart: bool = True) -> None:
        """The primary's host dies; the other side takes over once the lease has ended."""
        heir, epoch = self.secondary, self.number
        self._say(heir, "silent")
        self._say(heir, "asking", session=self.session, epoch=epoch, force=force)
        self._say(heir, "postponed", reason="its lease is live")
        self.now_ns += TTL_NS
        self.term += 1
        self._say(heir, "granted", term=self.term, epoch=epoch, session=self.session, force=force)
        self._say(heir, "activating", term=self.term, epoch=epoch, **self._of_vm("vm"))
        self._reign(heir, promoted=True)
        self._say(heir, "running", term=self.term, epoch=epoch, replayed_inputs=3)
        self._say(heir, "state", word="active-alone")
        self.primary, self.secondary = heir, self.primary
        self.number = self.base = 0
        if restart:
            self.restart_secondary()

    def last_epoch(self) -> None:
        """Of this side, before the guest moves."""
        self.epoch()

    def hand_over(self) -> None:
        """The guest stands still after a last epoch, and the replica is let in."""
        name = {"session": self.session, "epoch": self.number}
        self._say(self.primary, "moving", max_downtime_ns=300 * MS)
        self._say(self.primary, "emptying", epoch=self.number)
        self._say(self.primary, "handing-over", **name)
        self._say(self.primary, "handed-over")
        self._say(self.primary, "offering", **name)
        self._say(self.secondary, "offered", **name, term=self.term)

    def switch_over(self) -> None:
        """The other side takes over; the former primary follows in the same life."""
        self.last_epoch()
        self.hand_over()
        old, heir, epoch = self.primary, self.secondary, self.number
        answer = {"epoch": epoch, "taken": True, "detail": ""}
        self.term += 1
        self._say(heir, "asking", session=self.session, epoch=epoch, force=False)
        self._say(heir, "granted", term=self.term, epoch=epoch, session=self.session, force=False)
        self._end_vm()
        self._say(heir, "activating", term=self.term, epoch=epoch)
        self._reign(heir, promoted=True)
        self._say(heir, "running", term=self.term, epoch=epoch, replayed_inputs=3)
        self._say(heir, "answering-offer", **answer)
        self._say(old, "offer-answered", **answer)
        self._say(old, "move", outcome="moved", reason="", downtime_ns=9 * MS, promised_ns=20 * MS)
        self._say(old, "leaving")
        self._say(old, "ended", reason="handed over")
        self._say(old, "secondary", term=0, session="", epoch=0, digest="")
        self.primary, self.secondary = heir, old
        self.number = self.base = 0

    def take_back(self) -> None:
        """The other side does not take over, and the guest runs on here."""
        self.last_epoch()
        self.hand_over()
        answer = {"epoch": self.number, "taken": False, "detail": "no standby"}
        self._say(self.secondary, "answering-offer", **answer)
        self._say(self.primary, "offer-answered", **answer)
        self._say(self.primary, "taking-back", session=self.session, epoch=self.number, force=False)
        self._say(self.primary, "taken-back", same_term=True, term=self.term, **self._lease())
        self._say(
            self.primary, "move", outcome="taken back", reason="", downtime_ns=9 * MS, promised_ns=20 * MS
        )
        self._say(self.primary, "link-up")
        self._say(self.primary, "greeting", session=self.session)
        self._say(self.secondary, "hello", session=self.session, term=self.term, mismatch="")
        self._accept(self.number, self.digest(self.number))

    def files(self) -> dict[str, bytes]:
        return {"a.events": self.a.content(), "b.events": self.b.content()}


def client_lines(increments: int = 500) -> list[dict[str, Any]]:
    """The log of a client that lost nothing."""
    report = {
        "increments_acked": increments, "first_value": 1, "last_value": increments, "increments_lost": 0,
        "increments_repeated": 0, "consecutive": True, "sets_acked": 90, "sets_missing": 0, "broken": [],
    }  # fmt: skip
    return [
        {"event": "connected", "at_ns": 1, "address": "10.77.0.10"},
        {"event": "progress", "at_ns": 2, "increments": 10, "sets": 9, "since_ack_ms": 1.0},
        {"event": "progress", "at_ns": 3, "increments": increments, "sets": 90, "since_ack_ms": 1.0},
        {"event": "report", "at_ns": 4, **report},
    ]


def dump(lines: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)
