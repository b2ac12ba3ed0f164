"""What must be true of one reign: the journal of a side that ran the guest in one term. Pure.

released    output left only after the ack of its epoch, for what was sealed with that digest
passing     output passed freely only while the arbiter barred every replica
bar         the bar was asked to be lifted only for an epoch that was acked
epochs      numbers of epochs only grow, and each builds upon one that was sealed or agreed
silence     nothing left after this side was fenced, had lost its lease or had handed over
words       the state word never claimed more than the facts before it
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Final

from replicator.drill.history.facts import Fact, Findings, Life

RELEASED, PASSING, BAR, EPOCHS, SILENCE, WORDS = "released", "passing", "bar", "epochs", "silence", "words"
PRIMARY_RULES: Final = {
    RELEASED: "no output before the ack of its epoch",
    PASSING: "output passes freely only under a grant",
    BAR: "the bar is lifted only for an acked epoch",
    EPOCHS: "epochs of a primary only grow",
    SILENCE: "nothing leaves after the end of a reign",
    WORDS: "state words claim no more than happened",
}


class Bar(Enum):
    """What the arbiter is known to say of the replica."""

    BARRED = "barred"
    LIFTED = "lifted"
    HANDED_OVER = "handed over"
    #: A request is under way, or was when the daemon died.
    UNKNOWN = "unknown"


class Reign:
    """Walks through the facts of one reign. What it has learned at the end is used across sides."""

    def __init__(self, life: Life, findings: Findings) -> None:
        self.life = life
        self._findings = findings
        self._has_arbiter = bool(life.header["arbiter"])
        #: A term starts barred.
        self.bar = Bar.BARRED
        self.bar_fact: Fact = life.reign[0]
        #: The last request to lift the bar.
        self.lifting: Fact | None = None
        #: (session, epoch) of each hand-over; it stays one even if the guest was taken back later.
        self.handed_over: set[tuple[str, int]] = set()
        self.sessions: set[str] = set()
        self.sealed: dict[tuple[str, int], Fact] = {}
        self.released: Fact | None = None
        self._session = ""
        self._known_epochs: set[int] = {0}
        #: The newest epoch that the secondary has confirmed.
        self._confirmed = 0
        self._confirming: Fact | None = None
        self._pausing: Fact | None = None
        #: Of the newest pause that set no barrier: its number may be used once more.
        self._overrun_epoch = 0
        self._opened: Fact | None = None
        self._is_linked = self._is_silent = self._is_frozen = self._hands_over = False
        #: Since when output is held; a term begins with output that passes.
        self._holding: Fact | None = None
        self._over: Fact | None = None
        self._actions: dict[str, Callable[[Fact], None]] = {
            "greeting": self._greet,
            "accepted": self._accept,
            "pausing": self._pause,
            "overrun": self._overrun,
            "opened": self._open,
            "sealed": self._seal,
            "acked": self._ack,
            "released": self._release,
            "passing": self._pass,
            "holding": self._hold,
            "lifting": self._lift,
            "lifted": self._lifted,
            "asking-alone": lambda fact: self._set_bar(Bar.UNKNOWN, fact),
            "alone": lambda fact: self._set_bar(Bar.BARRED, fact),
            "standing-down": self._stand_down,
            "stood-down": self._stood_down,
            "handing-over": self._hand_over,
            "taken-back": self._take_back,
            "fenced": self._end,
            "lost": self._end,
            "lapsed": lambda _: self._freeze(True),
            "regained": lambda _: self._freeze(False),
            "silent": lambda _: self._hear(False),
            "heard": lambda _: self._hear(True),
            "state": self._judge_word,
            **dict.fromkeys(("link-up", "link-down", "refused", "not-committed"), self._unlink),
        }

    def walk(self) -> Reign:
        for fact in self.life.reign:
            if (action := self._actions.get(fact.event)) is not None:
                action(fact)
        return self

    def _check(self, rule: str, holds: bool, text: str, *facts: Fact | None) -> None:
        self._findings.check(rule, holds, text, *facts)

    # Session and link.

    def _greet(self, fact: Fact) -> None:
        self._session = fact["session"]
        self.sessions.add(self._session)

    def _accept(self, fact: Fact) -> None:
        if fact["session"] != self._session:
            return
        self._is_linked = True
        if fact["epoch"]:
            self._known_epochs.add(fact["epoch"])
            self._confirm(fact)
        elif not self._has_arbiter:
            # The only one who could promote has said that he holds nothing.
            self._set_bar(Bar.BARRED, fact)

    def _unlink(self, _: Fact) -> None:
        self._is_linked = False

    def _hear(self, is_heard: bool) -> None:
        self._is_silent = not is_heard
        self._is_linked = self._is_linked and is_heard

    def _freeze(self, is_frozen: bool) -> None:
        self._is_frozen = is_frozen

    # Epochs.

    def _pause(self, fact: Fact) -> None:
        last = self._pausing
        epoch = fact["epoch"]
        grows = last is None or epoch > last["epoch"] or epoch == last["epoch"] == self._overrun_epoch
        self._check(EPOCHS, grows, f"the pause of epoch {fact['epoch']} is no new epoch", last, fact)
        self._pausing, self._overrun_epoch = fact, 0

    def _overrun(self, fact: Fact) -> None:
        self._overrun_epoch = fact["epoch"]

    def _open(self, fact: Fact) -> None:
        last, epoch, base = self._opened, fact["epoch"], fact["base"]
        grows = last is None or epoch > last["epoch"]
        self._check(EPOCHS, grows, f"epoch {epoch} is opened a second time, or too late", last, fact)
        is_known = base in self._known_epochs and base < epoch
        self._check(EPOCHS, is_known, f"epoch {epoch} builds upon epoch {base}, which was never sealed", fact)
        self._opened = fact

    def _seal(self, fact: Fact) -> None:
        self.sealed[fact["session"], fact["epoch"]] = fact
        self._known_epochs.add(fact["epoch"])

    def _ack(self, fact: Fact) -> None:
        if fact["session"] == self._session:
            self._confirm(fact)

    def _confirm(self, fact: Fact) -> None:
        """Only of what was sealed, with the same digest: another ack is not one."""
        sealed = self.sealed.get((fact["session"], fact["epoch"]))
        if sealed is not None and sealed["digest"] == fact["digest"] and fact["epoch"] > self._confirmed:
            self._confirmed, self._confirming = fact["epoch"], fact

    # Output and bar.

    def _release(self, fact: Fact) -> None:
        epoch = fact["epoch"]
        text = f"output of epoch {epoch} was released, the newest acked epoch is {self._confirmed or 'none'}"
        self._check(RELEASED, epoch <= self._confirmed, text, self._confirming, fact)
        self._check_silence(fact)
        if self.released is None or epoch > self.released["epoch"]:
            self.released = fact

    def _pass(self, fact: Fact) -> None:
        text = f"output passes while the bar is {self.bar.value}"
        self._check(PASSING, self.bar is Bar.BARRED, text, self.bar_fact, fact)
        self._check_silence(fact)
        self._holding = None

    def _hold(self, fact: Fact) -> None:
        self._holding = fact

    def _check_silence(self, fact: Fact) -> None:
        self._check(SILENCE, self._over is None, "output was let go after the end", self._over, fact)

    def _lift(self, fact: Fact) -> None:
        is_acked = fact["session"] == self._session and 0 < fact["epoch"] <= self._confirmed
        text = f"the bar is lifted for epoch {fact['epoch']}, which was not acked"
        self._check(BAR, is_acked, text, self._confirming, fact)
        self.lifting = fact
        self._set_bar(Bar.UNKNOWN, fact)

    def _lifted(self, fact: Fact) -> None:
        """The answer to the last request only; of an older one nothing follows."""
        if self.bar_fact.event == "lifting":
            self._set_bar(Bar.LIFTED, fact)

    def _set_bar(self, bar: Bar, fact: Fact) -> None:
        self.bar, self.bar_fact = bar, fact

    def _stand_down(self, fact: Fact) -> None:
        self._hands_over = fact["hand_over"]
        self._set_bar(Bar.HANDED_OVER if self._hands_over else Bar.UNKNOWN, fact)
        if self._hands_over:
            self._end(fact)

    def _stood_down(self, fact: Fact) -> None:
        if not self._hands_over:
            self._set_bar(Bar.BARRED, fact)

    def _hand_over(self, fact: Fact) -> None:
        """Said again when it is not known whether it was recorded; it holds from the first time on."""
        self.handed_over.add((fact["session"], fact["epoch"]))
        self._set_bar(Bar.HANDED_OVER, fact)
        self._end(fact)

    def _take_back(self, fact: Fact) -> None:
        self._over = None
        self._set_bar(Bar.LIFTED if fact["same_term"] else Bar.BARRED, fact)

    def _end(self, fact: Fact) -> None:
        self._over = self._over or fact

    # Words.

    def _judge_word(self, fact: Fact) -> None:
        word = str(fact["word"])
        if word.startswith("protected"):
            missing = self._missing_protection()
            self._check(WORDS, not missing, f"{word!r}: {missing}", self.bar_fact, fact)
        elif word.startswith(("active-alone", "unprotected")):
            is_barred = self.bar is Bar.BARRED
            self._check(WORDS, is_barred, f"{word!r}: the bar is {self.bar.value}", self.bar_fact, fact)
            lets_go = self._holding is None
            self._check(WORDS, lets_go, f"{word!r}: output is held", self._holding, fact)
        elif word.startswith("fenced"):
            self._check(WORDS, self._over is not None, f"{word!r}: nothing has fenced it", fact)
        else:
            self._findings.checked[WORDS] += 1

    def _missing_protection(self) -> str:
        reasons = (
            (self.bar is not Bar.LIFTED, f"the bar is {self.bar.value}"),
            (not self._is_linked, "no secondary has agreed"),
            (self._is_silent, "the secondary is silent"),
            (self._is_frozen, "the lease has lapsed"),
            (not self._confirmed, "no epoch was acked"),
            (self._over is not None, "its reign is over"),
        )
        return next((reason for applies, reason in reasons if applies), "")
