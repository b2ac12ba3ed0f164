"""What must be true of a VM that ran beside the primary's, in the journal of the side that followed (COLO). Pure.

vm          it ran only from what was committed last, and nothing was written into the replica while it ran; it takes
            over where it ran from the newest epoch, and where a VM has run, or has failed, no replica does
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Final

from replicator.drill.history.comparison import Name
from replicator.drill.history.facts import Fact, Findings, Life

VM = "vm"
VM_RULES: Final = {VM: "a VM runs from what was committed, and is what takes over then"}


class State(Enum):
    """Of the VM. From LOADING to SUSPENDED the replica's RAM is the VM's."""

    NONE = "gone"
    LOADING = "being loaded"
    RUNNING = "running"
    SUSPENDED = "suspended"
    PARKED = "parked"
    FAILED = "failed"


_OWNING = (State.LOADING, State.RUNNING, State.SUSPENDED)


class VmWatch:
    """Walks through the facts of one watch. `started` has what VMs of this node were started from, in all its lives."""

    def __init__(self, life: Life, findings: Findings, started: dict[Name, Fact]) -> None:
        self.life = life
        self._findings = findings
        self._started = started
        #: Epochs from which the VM was said to run, and those for which it was said to stand still.
        self.ran: dict[Name, Fact] = {}
        self.answered: dict[Name, Fact] = {}
        #: Epochs that arrived, and how.
        self.begun: dict[Name, Fact] = {}
        self.activating: Fact | None = None
        self.state = State.NONE
        #: The line that made it so.
        self._since: Fact | None = None
        #: The newest whole epoch.
        self._held: Name = ("", 0)
        self._holding: Fact | None = None
        self._actions: dict[str, Callable[[Fact], None]] = {
            "secondary": self._begin,
            "discarding": lambda fact: self._hold(("", 0), fact),
            "begun": self._note_begun,
            "committed": self._commit,
            "answering-suspend": self._answer,
            "vm-loading": self._load,
            "vm-starting": self._start,
            "vm-running": self._run,
            "vm-suspending": lambda fact: self._enter(State.SUSPENDED, fact),
            "vm-failed": self._fail,
            "vm-ending": lambda fact: self._enter(State.NONE, fact),
            "asking": self._check_whole,
            "granted": self._check_whole,
            "activating": self._activate,
        }

    def walk(self) -> VmWatch:
        for fact in self.life.watch:
            if (action := self._actions.get(fact.event)) is not None:
                action(fact)
        return self

    def _check(self, holds: bool, text: str, *facts: Fact | None) -> None:
        self._findings.check(VM, holds, text, *facts)

    def _enter(self, state: State, fact: Fact) -> None:
        self.state, self._since = state, fact

    def _hold(self, name: Name, fact: Fact) -> None:
        self._held, self._holding = name, fact

    # The replica.

    def _begin(self, fact: Fact) -> None:
        """What it holds at the start: never what a VM was started from before."""
        held = _name(fact)
        self._hold(held, fact)
        if self._started:
            origin = self._started.get(held)
            text = f"epoch {fact['epoch']} is held to be whole, and a VM has run on it"
            self._check(origin is None, text, origin, fact)

    def _note_begun(self, fact: Fact) -> None:
        self.begun[_name(fact)] = fact
        self._check_still(fact)

    def _commit(self, fact: Fact) -> None:
        self._check_still(fact)
        self._hold(_name(fact), fact)
        if self.state in _OWNING:
            self._enter(State.PARKED, fact)

    def _check_still(self, fact: Fact) -> None:
        if self.state is not State.NONE:
            text = f"{fact.event} of epoch {fact['epoch']} while the VM is {self.state.value}"
            self._check(self.state is not State.RUNNING, text, self._since, fact)

    # The VM.

    def _load(self, fact: Fact) -> None:
        begun = self.begun.get(self._held)
        is_right = fact["epoch"] == self._held[1] and begun is not None and begun["runs_vm"]
        text = f"the VM is loaded from epoch {fact['epoch']}, which was not committed last for that"
        self._check(is_right, text, begun, self._holding, fact)
        self._enter(State.LOADING, fact)

    def _start(self, fact: Fact) -> None:
        is_right = self.state is State.LOADING and fact["epoch"] == self._held[1]
        text = f"the VM is started from epoch {fact['epoch']} while it is {self.state.value}"
        self._check(is_right, text, self._since, fact)
        self._started[self._held] = fact
        self._enter(State.RUNNING, fact)

    def _run(self, fact: Fact) -> None:
        is_right = self.state is State.RUNNING and _name(fact) == self._held
        text = f"the VM is said to run from epoch {fact['epoch']}, and is {self.state.value}"
        self._check(is_right, text, self._since, fact)
        self.ran[_name(fact)] = fact

    def _answer(self, fact: Fact) -> None:
        text = "the VM is said to stand still while it runs"
        self._check(self.state is not State.RUNNING, text, self._since, fact)
        self.answered[_name(fact)] = fact

    def _fail(self, fact: Fact) -> None:
        """It takes a replica that was its own with it."""
        if self.state in _OWNING:
            self._enter(State.FAILED, fact)
            self._hold(("", 0), fact)

    # Taking over.

    def _check_whole(self, fact: Fact) -> None:
        if self._since is not None:
            text = f"{fact.event} for a replica whose VM has failed"
            self._check(self.state is not State.FAILED, text, self._since, fact)

    def _activate(self, fact: Fact) -> None:
        self.activating = fact
        has_run = self._held in self._started
        if fact["vm"]:
            is_right = has_run and self.state in (State.RUNNING, State.SUSPENDED)
            text = f"the VM takes over at epoch {fact['epoch']}, and is {self.state.value}"
            if is_right and fact["epoch"] != self._held[1]:
                is_right, text = False, f"the VM takes over at epoch {fact['epoch']}, it ran from another one"
            self._check(is_right, text, self._since, self._holding, fact)
        elif self._since is not None or has_run:
            is_right = not has_run and self.state in (State.NONE, State.PARKED)
            text = f"the replica of epoch {fact['epoch']} takes over, and a VM has run on it"
            self._check(is_right, text, self._started.get(self._held), fact)


def walk_vms(lives: Sequence[Life], findings: Findings) -> list[VmWatch]:
    """One walk for each life that followed, in the order in which each node lived."""
    started: dict[str, dict[Name, Fact]] = {}
    return [VmWatch(life, findings, started.setdefault(life.node, {})).walk() for life in lives if life.watch]


def _name(fact: Fact) -> Name:
    return fact["session"], fact["epoch"]
