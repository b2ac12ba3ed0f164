"""Between the engine and a comparer that may be anybody's: whatever it does, the answer is a verdict.

One that raises, answers nonsense or took longer than its budget counts as `Differs`: a checkpoint follows, and the
output leaves with it. Time is measured after it has answered; one that never does is for whoever watches the thread.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from replicator.compare.api import (
    Ages,
    ComparerFactory,
    Connection,
    Differs,
    OutputComparer,
    Same,
    Verdict,
    Wait,
)
from replicator.errors import require
from replicator.frozen import frozen
from replicator.units import NS_PER_MS

#: One question. A frame that waits meanwhile is late by as much.
BUDGET_NS = 20 * NS_PER_MS
_FAULT_CHARS_MAX = 200


@dataclass(frozen=True, slots=True)
class ComparerStatus:
    """What status shows of the comparer."""

    name: str
    #: What it lets differ, in words; empty for one that ignores nothing.
    ignores: tuple[str, ...]
    calls: int
    #: Bytes that differed and were ignored.
    ignored_bytes: int
    #: Calls that raised, answered nonsense, or took too long.
    raised: int
    invalid: int
    slow: int
    #: The newest of these, with its connection; empty when there was none.
    last_fault: str


@frozen
class Judgement:
    verdict: Verdict
    #: The verdict stands for a fault of the comparer.
    is_fault: bool = False


class Guard:
    """All connections' comparers of one kind. `clock` counts nanoseconds and never goes back."""

    def __init__(
        self,
        name: str,
        factory: ComparerFactory,
        clock: Callable[[], int],
        *,
        ignores: tuple[str, ...] = (),
        passes_equal: bool = False,
        budget_ns: int = BUDGET_NS,
    ) -> None:
        require(budget_ns > 0, "a comparer needs some time")
        self._name = name
        self._factory = factory
        self._clock = clock
        self._ignores = ignores
        #: Equal bytes of both sides are the same to it and change nothing in it: it need not be asked about them.
        self.passes_equal = passes_equal
        self._budget_ns = budget_ns
        self._calls = 0
        self._ignored_bytes = 0
        self._raised = 0
        self._invalid = 0
        self._slow = 0
        self._last_fault = ""

    def make(self) -> OutputComparer | None:
        """The comparer of a new connection. None when it cannot be made: judged as a fault each time."""
        try:
            return self._factory()
        except (Exception, SystemExit) as error:
            self._raised += 1
            self._note(f"could not be made: {_describe(error)}")
            return None

    def judge(
        self,
        comparer: OutputComparer | None,
        connection: Connection,
        primary: bytes,
        secondary: bytes,
        ages: Ages,
    ) -> Judgement:
        """The comparer's verdict, if it is one."""
        if comparer is None:
            return Judgement(Differs(f"comparer {self._name} could not be made"), is_fault=True)
        self._calls += 1
        begin_ns = self._clock()
        try:
            verdict = comparer.compare(connection, primary, secondary, ages)
        except (Exception, SystemExit) as error:
            self._raised += 1
            return self._fault(connection, f"raised {_describe(error)}")
        took_ns = self._clock() - begin_ns
        if took_ns > self._budget_ns:
            self._slow += 1
            return self._fault(
                connection, f"took {took_ns / NS_PER_MS:.1f} ms, allowed {self._budget_ns / NS_PER_MS:g}"
            )
        if wrong := _find_wrong(verdict, connection, primary, secondary):
            self._invalid += 1
            return self._fault(connection, wrong)
        if isinstance(verdict, Same):
            self._ignored_bytes += verdict.ignored_bytes
        return Judgement(verdict)

    def note_equal(self, times: int = 1) -> None:
        """Equal bytes of a stream were passed without asking, where that is as good as to ask."""
        self._calls += times

    def skip(self, comparer: OutputComparer, connection: Connection, primary: bytes) -> bool:
        """Pass bytes that were not compared. False when the comparer did not take it: it has lost its place."""
        try:
            comparer.skip(connection, primary)
        except (Exception, SystemExit) as error:
            self._raised += 1
            self._note(f"raised {_describe(error)} in skip on {connection}")
            return False
        return True

    def status(self) -> ComparerStatus:
        return ComparerStatus(
            self._name,
            self._ignores,
            self._calls,
            self._ignored_bytes,
            self._raised,
            self._invalid,
            self._slow,
            self._last_fault,
        )

    def _fault(self, connection: Connection, what: str) -> Judgement:
        self._note(f"{what} on {connection}")
        return Judgement(Differs(f"comparer {self._name} {what}"[:_FAULT_CHARS_MAX]), is_fault=True)

    def _note(self, what: str) -> None:
        self._last_fault = what[:_FAULT_CHARS_MAX]


def _find_wrong(verdict: object, connection: Connection, primary: bytes, secondary: bytes) -> str:
    """What no comparer may answer; empty when the answer is one."""
    if isinstance(verdict, Differs | Wait):
        return ""
    if not isinstance(verdict, Same):
        return f"answered a {type(verdict).__name__}, not Same, Differs or Wait"
    most = min(len(primary), len(secondary))
    if not isinstance(verdict.size, int) or not 0 < verdict.size <= most:
        return f"answered Same({verdict.size!r}) of {most} bytes"
    if connection.protocol != "tcp" and not len(primary) == len(secondary) == verdict.size:
        return f"answered Same({verdict.size}) of datagrams of {len(primary)} and {len(secondary)} bytes"
    if not isinstance(verdict.ignored_bytes, int) or not 0 <= verdict.ignored_bytes <= verdict.size:
        return f"answered {verdict.ignored_bytes!r} ignored bytes of {verdict.size}"
    return ""


def _describe(error: BaseException) -> str:
    """A plug-in's exception may not even be printable."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return type(error).__name__
