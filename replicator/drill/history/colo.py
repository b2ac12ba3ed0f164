"""What must be true across the sides of a pair in COLO, as parts of the rules `promises` and `promotion`. Pure.

The primary lets out what both guests have said, before any commit: who goes on then is the VM that has said it too.
"""

from __future__ import annotations

from collections.abc import Sequence

from replicator.drill.history.comparison import Comparison, Name
from replicator.drill.history.facts import Fact, Findings
from replicator.drill.history.pair import PROMISES, PROMOTION
from replicator.drill.history.vm import VmWatch


def check_colo(comparisons: Sequence[Comparison], watches: Sequence[VmWatch], findings: Findings) -> None:
    _check_words(comparisons, watches, findings)
    _check_origins(comparisons, watches, findings)
    _check_heirs(comparisons, watches, findings)


def _check_words(comparisons: Sequence[Comparison], watches: Sequence[VmWatch], findings: Findings) -> None:
    """What the primary heard of the VM was said. Of sessions whose secondary is not known nothing is."""
    known = {session for watch in watches for session, _ in watch.begun}
    ran = {name for watch in watches for name in watch.ran}
    answered = {name for watch in watches for name in watch.answered}
    for comparison in comparisons:
        for heard, said, what in (
            (comparison.resumed, ran, "runs"),
            (comparison.suspended, answered, "stands still"),
        ):
            for name, fact in heard.items():
                if name[0] in known:
                    text = f"that the VM {what} at epoch {name[1]} was never said by the secondary"
                    findings.check(PROMISES, name in said, text, fact)


def _check_origins(comparisons: Sequence[Comparison], watches: Sequence[VmWatch], findings: Findings) -> None:
    """A VM runs only from an epoch that the primary has opened for that."""
    owners = {session: comparison for comparison in comparisons for session in comparison.sessions}
    for watch in watches:
        for (session, epoch), fact in watch.begun.items():
            owner = owners.get(session)
            if owner is not None and fact["runs_vm"]:
                opened = owner.opened.get(epoch)
                is_right = opened is not None and opened["runs_vm"]
                text = f"epoch {epoch} arrived as one that a VM runs from, and was not opened so"
                findings.check(PROMISES, is_right, text, opened, fact)


def _check_heirs(comparisons: Sequence[Comparison], watches: Sequence[VmWatch], findings: Findings) -> None:
    compared = {name: fact for comparison in comparisons for name, fact in comparison.compared.items()}
    for watch in watches:
        granted = _granted_of(watch)
        if granted is None or watch.activating is None or granted["force"]:
            continue
        name: Name = (granted["session"], granted["epoch"])
        if (comparing := compared.get(name)) is not None:
            text = f"outputs were compared from epoch {name[1]} on, and its replica was promoted instead of the VM"
            findings.check(PROMOTION, watch.activating["vm"], text, comparing, watch.activating)


def _granted_of(watch: VmWatch) -> Fact | None:
    grants = [fact for fact in watch.life.watch if fact.event == "granted"]
    return grants[-1] if grants else None
