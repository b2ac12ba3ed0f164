"""What must be true across the sides of a pair. Pure.

    terms       each term has one holder
    speakers    two sides never speak at once, where their clocks can be compared
    promises    an ack that the primary got was sent; what was committed is what was sealed
    promotion   a side was promoted from an epoch not older than the newest released one, and never after an alone grant
    older       nothing of a term is committed where a newer term was known

Clocks of two hosts are never compared: where the order matters, it follows from acks, terms and the arbiter's word.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from replicator.drill.history.facts import Fact, Findings, Life
from replicator.drill.history.primary import Bar, Reign
from replicator.drill.history.secondary import Watch

TERMS, SPEAKERS, PROMISES, PROMOTION, OLDER = "terms", "speakers", "promises", "promotion", "older"
PAIR_RULES: Final = {
    TERMS: "each term has one holder",
    SPEAKERS: "two sides never speak at once",
    PROMISES: "what was acked and committed is what was sent",
    PROMOTION: "a promotion loses nothing that was let out",
    OLDER: "nothing of an older term is committed",
}
#: Deadlines beyond this are no leases: a pair without an arbiter has one that never ends.
_FOREVER_NS = 1 << 62
_ENDS = ("fenced", "lost", "ended")


def check_pair(
    lives: Sequence[Life], reigns: Sequence[Reign], watches: Sequence[Watch], findings: Findings
) -> None:
    check_terms(lives, findings)
    check_speakers(lives, findings)
    check_promises(reigns, watches, findings)
    check_promotions(reigns, watches, findings)
    check_older(lives, findings)


def check_terms(lives: Sequence[Life], findings: Findings) -> None:
    holders: dict[tuple[str, int], Fact] = {}
    for life in lives:
        for fact in life.facts:
            if fact.event == "primary" or (fact.event == "taken-back" and not fact["same_term"]):
                first = holders.setdefault((life.header["guest"], fact["term"]), fact)
                text = f"term {fact['term']} has two holders"
                findings.check(TERMS, first is fact, text, first, fact)


# Who speaks when.


@dataclass(frozen=True, slots=True)
class Speech:
    """When a side may have spoken as the guest: CLOCK_MONOTONIC of one boot."""

    boot: str
    guest: str
    begins: Fact
    end_ns: int


def check_speakers(lives: Sequence[Life], findings: Findings) -> None:
    speeches = [speech for life in lives if (speech := speech_of(life)) is not None]
    for one, other in itertools.combinations(speeches, 2):
        if (one.boot, one.guest) == (other.boot, other.guest):
            first, second = sorted((one, other), key=lambda speech: speech.begins.at_ns)
            over_ms = (first.end_ns - second.begins.at_ns) / 1e6
            text = f"two sides could speak at once for {over_ms:.1f} ms"
            findings.check(SPEAKERS, over_ms <= 0, text, first.begins, second.begins)


def speech_of(life: Life) -> Speech | None:
    """From the start of its guest to its last known deadline, or to its word that it ends if that is sooner."""
    reign = life.reign
    if not reign:
        return None
    promoted = bool(reign[0]["promoted"])
    begins = next((fact for fact in reign if fact.event == "running"), None) if promoted else reign[0]
    if begins is None:
        return None
    return Speech(life.boot, life.header["guest"], begins, _end_of(reign))


def _end_of(reign: Sequence[Fact]) -> int:
    leases = [fact for fact in reign if fact.event in ("primary", "lease", "taken-back")]
    if leases[-1]["deadline_ns"] >= _FOREVER_NS:
        mute_ns = _last_output_ns(reign)
    else:
        mute_ns = max(fact.at_ns + fact["deadline_ns"] - fact["boottime_ns"] for fact in leases)
    back_ns = max((fact.at_ns for fact in reign if fact.event == "taken-back"), default=0)
    ends = [
        fact.at_ns for fact in reign if fact.at_ns > back_ns and (fact.event in _ENDS or _hands_over(fact))
    ]
    return min([mute_ns, *ends])


def _last_output_ns(reign: Sequence[Fact]) -> int:
    """When output left for the last time; while it passes, each line may be followed by some."""
    is_holding, last_ns = False, reign[0].at_ns
    for fact in reign:
        if fact.event in ("holding", "passing"):
            is_holding = fact.event == "holding"
        if not is_holding or fact.event in ("holding", "released"):
            last_ns = fact.at_ns
    return last_ns


def _hands_over(fact: Fact) -> bool:
    return fact.event == "handing-over" or (fact.event == "standing-down" and bool(fact["hand_over"]))


# What one side said of the other.


def check_promises(reigns: Sequence[Reign], watches: Sequence[Watch], findings: Findings) -> None:
    sent = {ack for watch in watches for ack in watch.acked}
    known = {session for watch in watches for session in watch.sessions}
    for reign in reigns:
        for fact in reign.life.reign:
            if fact.event == "acked" and fact["session"] in known:
                was_sent = (fact["session"], fact["epoch"], fact["digest"]) in sent
                text = f"the ack of epoch {fact['epoch']} was never sent by the secondary"
                findings.check(PROMISES, was_sent, text, fact)
    sealed = {key: fact for reign in reigns for key, fact in reign.sealed.items()}
    sealing = {session for reign in reigns for session in reign.sessions}
    for watch in watches:
        for (session, epoch), fact in watch.committed.items():
            if session in sealing:
                origin = sealed.get((session, epoch))
                is_same = origin is not None and origin["digest"] == fact["digest"]
                what = "never sealed" if origin is None else "sealed with another digest"
                findings.check(
                    PROMISES, is_same, f"epoch {epoch} was committed, but {what} there", origin, fact
                )


# Promotions.


def check_promotions(reigns: Sequence[Reign], watches: Sequence[Watch], findings: Findings) -> None:
    """An operator's force is no grant: what it costs he was told."""
    owners = {session: reign for reign in reigns for session in reign.sessions}
    for granted in (watch.granted for watch in watches):
        if granted is not None and not granted["force"] and (owner := owners.get(granted["session"])):
            _check_promotion(granted, owner, findings)


def _check_promotion(granted: Fact, owner: Reign, findings: Findings) -> None:
    epoch, released = granted["epoch"], owner.released
    newest = 0 if released is None else released["epoch"]
    text = f"promoted from epoch {epoch}, output of epoch {newest} had been released"
    findings.check(PROMOTION, newest <= epoch, text, released, granted)
    is_newer = granted["term"] > owner.life.term
    text = f"term {granted['term']} was granted after term {owner.life.term}"
    findings.check(PROMOTION, is_newer, text, owner.life.reign[0], granted)
    barred = f"promoted though the bar was {owner.bar.value}"
    may_be = owner.bar is not Bar.BARRED or (granted["session"], epoch) in owner.handed_over
    findings.check(PROMOTION, may_be, barred, owner.bar_fact, granted)
    if (lifting := owner.lifting) is not None and owner.bar is not Bar.BARRED:
        is_named = lifting["session"] == granted["session"] and lifting["epoch"] <= epoch
        text = "promoted is not the replica for which the bar was lifted"
        findings.check(PROMOTION, is_named, text, lifting, granted)


def check_older(lives: Sequence[Life], findings: Findings) -> None:
    """A node commits nothing of a term that it has seen the end of: another one's, or its own."""
    newest: dict[str, Fact] = {}
    for life in lives:
        for fact in life.facts:
            if fact.event not in ("committed", "primary"):
                continue
            last = newest.get(life.node)
            if fact.event == "committed" and last is not None:
                least = last["term"] + (last.event == "primary")
                text = f"an epoch of term {fact['term']} is committed after term {last['term']}"
                findings.check(OLDER, fact["term"] >= least, text, last, fact)
            if last is None or fact["term"] >= last["term"]:
                newest[life.node] = fact
