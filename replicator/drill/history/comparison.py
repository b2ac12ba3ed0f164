"""What must be true of one reign in COLO: when outputs of the two guests were compared. Pure.

compared    comparing began with the word of the secondary that its VM runs from the newest epoch, which was acked and
            opened for that, and it ended before anything else was let go; an epoch that builds upon another one was
            closed only when the VM stood still
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from replicator.drill.history.facts import Fact, Findings, Life

COMPARED = "compared"
COMPARISON_RULES: Final = {COMPARED: "outputs are compared only while both guests run from one epoch"}
#: (session, epoch), as both sides name it.
Name = tuple[str, int]


class Comparison:
    """Walks through the facts of one reign. In Remus there is nothing to judge."""

    def __init__(self, life: Life, findings: Findings) -> None:
        self.life = life
        self._findings = findings
        #: Epochs from which on outputs were compared, and the line that said so.
        self.compared: dict[Name, Fact] = {}
        #: What the secondary's VM was said to do.
        self.suspended: dict[Name, Fact] = {}
        self.resumed: dict[Name, Fact] = {}
        #: Of each epoch of this reign.
        self.opened: dict[int, Fact] = {}
        self.sessions: set[str] = set()
        self._session = ""
        self._acked: set[Name] = set()
        self._newest_resumed: Fact | None = None
        #: The line with which the newest epoch began.
        self._newest: Fact | None = None
        self._comparing: Fact | None = None
        self._frozen: Fact | None = None
        self._is_colo = False
        self._actions: dict[str, Callable[[Fact], None]] = {
            "greeting": self._greet,
            "accepted": lambda fact: self._acked.add(_name(fact)),
            "acked": lambda fact: self._acked.add(_name(fact)),
            "pausing": self._begin,
            "opened": self._open,
            "suspending-vm": self._suspend,
            "vm-suspended": self._note_suspended,
            "vm-resumed": self._note_resumed,
            "comparing": self._compare,
            "not-comparing": lambda _: self._stop(),
            "sealed": self._seal,
            "passing": self._check_stopped,
            "asking-alone": self._check_stopped,
            "lapsed": self._freeze,
            "regained": lambda _: self._thaw(),
        }

    def walk(self) -> Comparison:
        for fact in self.life.reign:
            if (action := self._actions.get(fact.event)) is not None:
                action(fact)
        return self

    def _check(self, holds: bool, text: str, *facts: Fact | None) -> None:
        self._findings.check(COMPARED, holds, text, *facts)

    def _greet(self, fact: Fact) -> None:
        self._check_stopped(fact)
        self._session = fact["session"]
        self.sessions.add(self._session)

    # Epochs.

    def _begin(self, fact: Fact) -> None:
        self._newest = fact
        self._stop()

    def _open(self, fact: Fact) -> None:
        self.opened[fact["epoch"]] = fact
        self._is_colo = self._is_colo or fact["runs_vm"]
        self._begin(fact)

    def _suspend(self, _: Fact) -> None:
        self._is_colo = True
        self._stop()

    def _note_suspended(self, fact: Fact) -> None:
        self.suspended[_name(fact)] = fact

    def _note_resumed(self, fact: Fact) -> None:
        self.resumed[_name(fact)] = self._newest_resumed = fact

    def _seal(self, fact: Fact) -> None:
        opened = self.opened.get(fact["epoch"])
        if self._is_colo and opened is not None and opened["base"]:
            text = f"epoch {fact['epoch']} is closed while the secondary's VM may run"
            self._check(_name(fact) in self.suspended, text, opened, fact)

    # Comparing.

    def _compare(self, fact: Fact) -> None:
        missing = self._missing(fact["epoch"])
        text = f"outputs are compared from epoch {fact['epoch']} on: {missing}"
        self._check(not missing, text, self._newest, self._newest_resumed, fact)
        self._comparing = fact
        self.compared[self._session, fact["epoch"]] = fact

    def _missing(self, epoch: int) -> str:
        opened, resumed, newest = self.opened.get(epoch), self._newest_resumed, self._newest
        reasons = (
            (opened is None or not opened["runs_vm"], "no VM was to run from it"),
            ((self._session, epoch) not in self._acked, "it was not acked"),
            (
                resumed is None or _name(resumed) != (self._session, epoch),
                "the VM was not said to run from it",
            ),
            (newest is None or newest["epoch"] != epoch, "a newer one has begun"),
            (self._frozen is not None, "the lease has lapsed"),
        )
        return next((reason for applies, reason in reasons if applies), "")

    def _stop(self) -> None:
        self._comparing = None

    def _check_stopped(self, fact: Fact) -> None:
        if self._is_colo:
            text = f"{fact.event} while outputs are compared"
            self._check(self._comparing is None, text, self._comparing, fact)

    def _freeze(self, fact: Fact) -> None:
        self._frozen = fact

    def _thaw(self) -> None:
        self._frozen = None


def _name(fact: Fact) -> Name:
    return fact["session"], fact["epoch"]
