"""What must be true of one watch: the journal of a side that followed as the secondary. Pure.

acks        an ack is sent after the commit of that epoch, with its digest, and for nothing else
commits     committed epochs grow; they are of the agreed session and term, and none comes after a grant
take-over   asked for, granted and started is exactly what was committed last, and nothing that was discarded
standby     the state word never claimed more than was committed
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from replicator.drill.history.facts import Fact, Findings, Life

ACKS, COMMITS, TAKE_OVER, STANDBY = "acks", "commits", "take-over", "standby"
SECONDARY_RULES: Final = {
    ACKS: "an ack follows the commit it confirms",
    COMMITS: "commits grow, within the agreed session and term",
    TAKE_OVER: "what takes over is what was committed last",
    STANDBY: "a standby claims no more than it has committed",
}
_STANDBY_WORD = re.compile(r"standby at epoch (\d+)")


class Watch:
    """Walks through the facts of one watch, and of the take-over that ended it."""

    def __init__(self, life: Life, findings: Findings) -> None:
        self._life = life
        self._findings = findings
        self.sessions: set[str] = set()
        self.acked: set[tuple[str, int, str]] = set()
        self.committed: dict[tuple[str, int], Fact] = {}
        #: What was granted, if this side took over.
        self.granted: Fact | None = None
        self._agreed: tuple[str, int] = ("", 0)
        self._agreeing: Fact | None = None
        #: The newest whole epoch: number, session, and the fact that made it so.
        self._held = 0
        self._held_session = ""
        self._holding: Fact | None = None
        self._refused: Fact | None = None
        self._actions: dict[str, Callable[[Fact], None]] = {
            "secondary": self._begin,
            "accepting": self._accept,
            "discarding": self._discard,
            "begun": self._check_agreed,
            "committed": self._commit,
            "acking": self._ack,
            "asking": self._check_held,
            "granted": self._grant,
            "not-granted": self._refuse,
            "handing-back": self._hand_back,
            "activating": self._activate,
            "running": self._run,
            "state": self._judge_word,
        }

    def walk(self) -> Watch:
        for fact in [
            *self._life.watch,
            *(f for f in self._life.reign if f.event in ("running", "handing-back")),
        ]:
            if (action := self._actions.get(fact.event)) is not None:
                action(fact)
        return self

    def _check(self, rule: str, holds: bool, text: str, *facts: Fact | None) -> None:
        self._findings.check(rule, holds, text, *facts)

    def _begin(self, fact: Fact) -> None:
        self._agreed = (fact["session"], fact["term"])
        self._hold(fact["epoch"], fact["session"], fact)

    def _hold(self, epoch: int, session: str, fact: Fact) -> None:
        self._held, self._held_session, self._holding, self._refused = epoch, session, fact, None

    def _accept(self, fact: Fact) -> None:
        text = f"it says to hold epoch {fact['epoch']}, it holds epoch {self._held or 'none'}"
        self._check(COMMITS, fact["epoch"] == self._held, text, self._holding, fact)
        self._agreed, self._agreeing = (fact["session"], fact["term"]), fact
        self.sessions.add(fact["session"])

    def _discard(self, fact: Fact) -> None:
        self._hold(0, "", fact)

    def _check_agreed(self, fact: Fact) -> None:
        session, term = self._agreed
        is_agreed = (fact["session"], fact["term"]) == (session, term)
        text = (
            f"epoch {fact['epoch']} is of term {fact['term']}, session {fact['session'][:16]}, not the agreed"
        )
        self._check(COMMITS, is_agreed, f"{text} term {term}, session {session[:16]}", self._agreeing, fact)

    def _commit(self, fact: Fact) -> None:
        self._check_agreed(fact)
        grows = fact["epoch"] > self._held
        text = f"epoch {fact['epoch']} is committed upon epoch {self._held}"
        self._check(COMMITS, grows, text, self._holding, fact)
        self._check(COMMITS, self.granted is None, "a commit after the guest was granted", self.granted, fact)
        self.committed[fact["session"], fact["epoch"]] = fact
        self._hold(fact["epoch"], fact["session"], fact)

    def _ack(self, fact: Fact) -> None:
        committed = self.committed.get((fact["session"], fact["epoch"]))
        is_right = committed is not None and committed["digest"] == fact["digest"]
        what = "was not committed" if committed is None else "was committed with another digest"
        self._check(ACKS, is_right, f"epoch {fact['epoch']} is acked, but {what}", committed, fact)
        self.acked.add((fact["session"], fact["epoch"], fact["digest"]))

    # Taking over.

    def _check_held(self, fact: Fact) -> None:
        is_held = self._held > 0 and fact["epoch"] == self._held and fact["session"] == self._held_session
        text = f"{fact.event} for epoch {fact['epoch']}, it holds epoch {self._held or 'none'}"
        self._check(TAKE_OVER, is_held, text, self._holding, fact)

    def _grant(self, fact: Fact) -> None:
        self._check_held(fact)
        self.granted = fact

    def _hand_back(self, _: Fact) -> None:
        """Its guest has not run, so nothing was promoted."""
        self.granted = None

    def _refuse(self, fact: Fact) -> None:
        self._refused = fact

    def _activate(self, fact: Fact) -> None:
        granted = self.granted
        is_granted = granted is not None and granted["term"] == fact["term"] and fact["epoch"] == self._held
        text = f"epoch {fact['epoch']} is started in term {fact['term']} without a grant for it"
        self._check(TAKE_OVER, is_granted, text, granted, fact)

    def _run(self, fact: Fact) -> None:
        self._activate(fact)

    def _judge_word(self, fact: Fact) -> None:
        if (match := _STANDBY_WORD.match(fact["word"])) is None:
            self._findings.checked[STANDBY] += 1
            return
        epoch = int(match[1])
        text = f"{fact['word']!r}: it holds epoch {self._held or 'none'}"
        self._check(STANDBY, epoch == self._held, text, self._holding, fact)
        refused = f"{fact['word']!r}: the arbiter has refused this replica"
        self._check(STANDBY, self._refused is None, refused, self._refused, fact)
